# The C libraries. Included by the Makefile at the top.

CLIB := ctapi/clib
CLIB_CFLAGS ?= -O2 -g
CLIB_CC = $(CC) -std=c11 -fPIC -fvisibility=hidden -Wall -Wextra -Werror -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 \
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
