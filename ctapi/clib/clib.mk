# The C libraries. Included by the Makefile at the top.

CLIB := ctapi/clib
CLIB_CFLAGS ?= -O2 -g
CLIB_CC = $(CC) -std=c11 -fPIC -fvisibility=hidden -Wall -Wextra -Werror -D_FORTIFY_SOURCE=2 \
	$(CLIB_CFLAGS) -shared -pthread -Wl,-z,defs,-z,relro,-z,now,--as-needed
IFD_SOURCES := $(addprefix $(CLIB)/,ifd.c card.c slots.c events.c find.c file.c)
CTAPI_SOURCES := $(addprefix $(CLIB)/,ctapi.c find.c file.c)
CLIB_HEADERS := $(wildcard $(CLIB)/*.h)

# nodelete: the event thread may outlive a dlclose by a moment.
build/libifdcardfs.so: $(IFD_SOURCES) $(CLIB_HEADERS)
	@mkdir -p build
	$(CLIB_CC) -Wl,-z,nodelete,-soname,$(@F) -o $@ $(IFD_SOURCES)

build/libctapi-cardfs.so: $(CTAPI_SOURCES) $(CLIB_HEADERS)
	@mkdir -p build
	$(CLIB_CC) -Wl,-soname,$(@F) -o $@ $(CTAPI_SOURCES)

build/ifd-cardfs.bundle: build/libifdcardfs.so build/cardfs $(CLIB)/bundle.sh $(CLIB)/Info.plist.in
	build/cardfs ids | $(CLIB)/bundle.sh build/libifdcardfs.so $@
	@touch $@

.PHONY: clib install-clib
clib: build/libifdcardfs.so build/libctapi-cardfs.so build/ifd-cardfs.bundle

# Where pcscd and CT-API programs look: pcsc-lite's directory for drivers, for
# reader.conf a file of its own below it, and the linker's directory.
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
PCSC_DRIVERS ?= $(or $(shell pkg-config --variable=usbdropdir libpcsclite 2>/dev/null),/usr/lib/pcsc/drivers)

install-clib: clib
	install -d $(DESTDIR)$(PCSC_DRIVERS)/serial $(DESTDIR)$(PCSC_DRIVERS)/ifd-cardfs.bundle/Contents/Linux \
		$(DESTDIR)$(LIBDIR) $(DESTDIR)$(INCLUDEDIR)/cardfs
	install -m 755 build/libifdcardfs.so $(DESTDIR)$(PCSC_DRIVERS)/serial/
	install -m 755 build/libifdcardfs.so $(DESTDIR)$(PCSC_DRIVERS)/ifd-cardfs.bundle/Contents/Linux/
	install -m 644 build/ifd-cardfs.bundle/Contents/Info.plist $(DESTDIR)$(PCSC_DRIVERS)/ifd-cardfs.bundle/Contents/
	install -m 755 build/libctapi-cardfs.so $(DESTDIR)$(LIBDIR)/
	install -m 644 $(CLIB)/cardfs.h $(CLIB)/ctapi.h $(DESTDIR)$(INCLUDEDIR)/cardfs/
