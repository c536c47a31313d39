# The C libraries. Included by the Makefile at the top.
#
#   common/  the mount as C sees it: cardfs.h with the ioctls, files, names of slots
#   ctapi/   libctapi-cardfs.so: CT-API 1.1
#   ifd/     libifdcardfs.so: the IFD handler that pcscd loads, and its bundle
#   pcsc/    libpcsclite.so.1: PC/SC without pcscd

CLIB := ctapi/clib
CLIB_CFLAGS ?= -O2 -g
CLIB_CC = $(CC) -std=c11 -fPIC -fvisibility=hidden -Wall -Wextra -Werror -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 \
	-I$(CLIB)/common $(CLIB_CFLAGS) -shared -pthread -Wl,-z,defs,-z,relro,-z,now,--as-needed
IFD_SOURCES := $(wildcard $(CLIB)/ifd/*.c $(CLIB)/common/*.c)
CTAPI_SOURCES := $(wildcard $(CLIB)/ctapi/*.c $(CLIB)/common/*.c)
PCSC_SOURCES := $(wildcard $(CLIB)/pcsc/*.c $(CLIB)/common/*.c)
# What each library is made anew for. This file is part of it: it has the flags.
CLIB_COMMON := $(wildcard $(CLIB)/*/*.h) $(CLIB)/clib.mk

# nodelete: the event thread may outlive a dlclose by a moment.
build/libifdcardfs.so: $(IFD_SOURCES) $(CLIB_COMMON)
	@mkdir -p build
	$(CLIB_CC) -Wl,-z,nodelete,-soname,$(@F) -o $@ $(IFD_SOURCES)

build/libctapi-cardfs.so: $(CTAPI_SOURCES) $(CLIB_COMMON)
	@mkdir -p build
	$(CLIB_CC) -Wl,-soname,$(@F).1 -o $@ $(CTAPI_SOURCES)

# In a directory of its own, since it has pcsc-lite's name. nodelete: it watches fork(2).
build/pcsc/libpcsclite.so.1: $(PCSC_SOURCES) $(CLIB_COMMON)
	@mkdir -p build/pcsc
	$(CLIB_CC) -Wl,-z,nodelete,-soname,$(@F) -o $@ $(PCSC_SOURCES)

build/ifd-cardfs.bundle: build/libifdcardfs.so build/cardfs $(CLIB)/ifd/bundle.sh $(CLIB)/ifd/Info.plist.in
	build/cardfs ids | $(CLIB)/ifd/bundle.sh build/libifdcardfs.so $@
	@touch $@
