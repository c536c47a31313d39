# make help says what there is. Nothing here asks a question: what is missing on
# a Debian 12 with Go is installed (as root, or by sudo).

GO      ?= go
FUZZTIME ?= 5m

# With -j two sets would be installed at once, and apt-get refuses that. Go does its
# own work in parallel.
.NOTPARALLEL:

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: build
build: build/cardfs build/man build/libifdcardfs.so build/libctapi-cardfs.so build/pcsc/libpcsclite.so.1 build/ifd-cardfs.bundle ## build/cardfs, manual pages, the C libraries, pcscd's bundle

# make build STATIC=1 needs no C library and has no gousb, which is on libusb. So does a
# build for another system or processor (GOOS, GOARCH): libusb is here for this one only.
HOST   := $(shell $(GO) env GOHOSTOS)/$(shell $(GO) env GOHOSTARCH)
TARGET := $(or $(GOOS),$(shell $(GO) env GOOS))/$(or $(GOARCH),$(shell $(GO) env GOARCH))
STATIC ?= $(if $(filter-out $(HOST),$(TARGET)),1)

# Go sees to its own rebuilding. Users, groups and hosts are looked up by Go in both.
.PHONY: build/cardfs
build/cardfs: deps-build
	CGO_ENABLED=$(if $(STATIC),0,1) $(GO) build -trimpath $$(.ci/modfile) -tags osusergo,netgo -o $@ ./cmd/cardfs

# This program runs here, whatever is built for.
.PHONY: build/man
build/man: deps-build
	@rm -rf $@ && mkdir -p $@
	GOOS= GOARCH= $(GO) run -tags man,osusergo,netgo ./cmd/cardfs man $@
	@rm $@/cardfs-completion-*.1 # one page for all shells
	@ln -s mount.cardfs.8 $@/mount.fuse.cardfs.8

include ctapi/clib/clib.mk
build/libifdcardfs.so build/libctapi-cardfs.so build/pcsc/libpcsclite.so.1: | deps-build

.PHONY: run
run: deps-run build/cardfs ## mount a simulated iKey 3000 at ./cards until ctrl-C
	@mkdir -p cards
	@exec build/cardfs mount --usb=false --sim ikey3k cards

.PHONY: test
test: deps-test build ## everything that needs no reader of your own
	$(GO) test -race -count=1 -timeout 20m ./...

.PHONY: bench
bench: deps-test build build/pcsc/libpcsclite.so.1 ## the limits, measured; fails if one is missed
	$(GO) run ./tests/bench

.PHONY: bench-vm
bench-vm: deps-test ## the limits of USB readers, measured in a virtual machine
	CARDFS_BENCH=1 $(GO) test -v -count=1 -timeout 30m -run '^Test(Token|Makers)?Limits$$' ./tests/usb

.PHONY: farm
farm: deps-test build/cardfs ## the readers of 1, 10 and 100 machines in one tree: how that grows
	$(GO) run ./tests/farm

.PHONY: soak
soak: deps-test build ## the long tests: 10,000 cycles of simulated readers, a week of 1,000 readers in ten minutes, 1,000 under pcscd and without it, 100 of USB, 50 of a pulled adapter, 200 cut lines, every key size of PIV and OpenPGP clients
	CARDFS_SOAK=10000 $(GO) test -v -count=1 -timeout 60m ./tests/soak
	CARDFS_SOAK=1000 $(GO) test -v -count=1 -p 1 -timeout 120m ./tests/ifd ./tests/clib
	CARDFS_SOAK=100 $(GO) test -v -count=1 -timeout 60m -run '^Test(Suites)?InMachine$$' ./tests/usb
	CARDFS_SOAK=1000 $(GO) test -v -count=1 -timeout 60m ./tests/pcsc/cycles
	CARDFS_SOAK=200 $(GO) test -v -count=1 -timeout 60m -run '^Test(Cuts|PlugCycles)$$' ./drivers/remote
	CARDFS_SOAK=1 $(GO) test -v -count=1 -timeout 120m -run '^TestClients$$' ./tests/cards

.PHONY: fuzz
fuzz: deps-build ## every fuzzer for FUZZTIME (5m)
	@.ci/fuzz $(FUZZTIME)

# One list: make mutants LISTS=tests/mutants/fs.txt
LISTS ?= $(wildcard tests/mutants/*.txt)
.PHONY: mutants
mutants: deps-test ## small wrong edits that the fast tests have to see (tests/mutants)
	$(GO) run ./tests/mutants $(LISTS)

# Processors that cardfs builds for; readers hang on 32-bit Raspberry Pis too.
PROCESSORS = amd64 arm64 arm 386 riscv64 ppc64le s390x

.PHONY: lint
lint: deps-build ## gofmt, go vet, staticcheck; builds for other processors
	@bad=$$(gofmt -l .); if [ -n "$$bad" ]; then echo "gofmt these:" $$bad >&2; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags man ./cmd/cardfs
	@for arch in $(PROCESSORS); do export GOARCH=$$arch CGO_ENABLED=0; \
		echo "go build ./... for $$arch"; $(GO) build $$(.ci/modfile) ./... || exit 1; done
	@echo 'go vet ./... for 386'; export GOARCH=386 CGO_ENABLED=0; $(GO) vet $$(.ci/modfile) ./...
# fs, and with it the program, is Linux's: FUSE's ioctl and poll, /proc, O_PATH.
	GOOS=freebsd CGO_ENABLED=0 $(GO) vet ./reader/... ./drivers/... ./ctapi
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

.PHONY: deps-build deps-run deps-test deps
deps-build:
	@.ci/deps build
deps-run:
	@.ci/deps build run
deps-test:
	@.ci/deps build run test vm
deps: deps-test ## install what is missing for all of this

# Where programs look: pcscd and Wireshark in the directories compiled into them, the linker
# below its multiarch directory, mount(8) in /sbin, systemd, udev and the shells below PREFIX.
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib/$(shell $(CC) -print-multiarch)
PCSC_DRIVERS ?= $(or $(shell pkg-config --variable=usbdropdir libpcsclite 2>/dev/null),/usr/lib/pcsc/drivers)
SBINDIR ?= $(shell realpath /sbin)
EXTCAP_DIR ?= /usr/lib/$(shell $(CC) -print-multiarch)/wireshark/extcap
SYSCONFDIR ?= /etc
# fish looks in its own /usr/share always, in /usr/local/share only where a desktop has set
# XDG_DATA_DIRS.
FISH_COMPLETIONS ?= $(or $(if $(filter /usr/local,$(PREFIX)),$(or $(shell pkg-config --variable=completionsdir fish 2>/dev/null),\
	/usr/share/fish/vendor_completions.d)),$(PREFIX)/share/fish/vendor_completions.d)

BIN         = $(DESTDIR)$(PREFIX)/bin/cardfs
MOUNT       = $(DESTDIR)$(SBINDIR)/mount.fuse.cardfs
MOUNT_ALIAS = $(DESTDIR)$(SBINDIR)/mount.cardfs
CONF        = $(DESTDIR)$(SYSCONFDIR)/cardfs.conf
HEADERS     = $(DESTDIR)$(PREFIX)/include/cardfs
UNIT        = $(DESTDIR)$(PREFIX)/lib/systemd/system/cardfs.service
PCSCD_UNIT  = $(DESTDIR)$(PREFIX)/lib/systemd/system/pcscd.service.d/cardfs.conf
SYSUSERS    = $(DESTDIR)$(PREFIX)/lib/sysusers.d/cardfs.conf
RULES       = $(DESTDIR)$(PREFIX)/lib/udev/rules.d/70-cardfs.rules
MAN         = $(DESTDIR)$(PREFIX)/share/man
BASH_WORDS  = $(DESTDIR)$(PREFIX)/share/bash-completion/completions/cardfs
ZSH_WORDS   = $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_cardfs
FISH_WORDS  = $(DESTDIR)$(FISH_COMPLETIONS)/cardfs.fish
EXTCAP      = $(DESTDIR)$(EXTCAP_DIR)/cardfs-extcap
CTAPI_LIB   = $(DESTDIR)$(LIBDIR)/libctapi-cardfs.so
CTAPI_PC    = $(DESTDIR)$(LIBDIR)/pkgconfig/libctapi-cardfs.pc
PCSC_LIB    = $(DESTDIR)$(LIBDIR)/cardfs/libpcsclite.so.1
IFD_LIB     = $(DESTDIR)$(PCSC_DRIVERS)/serial/libifdcardfs.so
IFD_BUNDLE  = $(DESTDIR)$(PCSC_DRIVERS)/ifd-cardfs.bundle

# PCSC_LIB has the name of pcsc-lite's library, so that a directory of its own keeps it from
# programs that were not told of it (cardfs pcsc).
#
# The bundle has a library of its own, not a link: pcscd counts the readers of a
# library by its path, and would give the same numbers to those of both.
.PHONY: install
install: ## install what make build made, below DESTDIR and PREFIX (/usr/local)
	@[ -x build/cardfs ] && [ -d build/ifd-cardfs.bundle ] && [ -f build/pcsc/libpcsclite.so.1 ] && [ -d build/man ] || $(MAKE) build
	install -D -m 755 build/cardfs $(BIN)
	install -d $(dir $(MOUNT))
	ln -sf $(PREFIX)/bin/cardfs $(MOUNT)
	ln -sf $(PREFIX)/bin/cardfs $(MOUNT_ALIAS)
	install -D -m 644 -t $(HEADERS) $(CLIB)/common/cardfs.h $(CLIB)/ctapi/ctapi.h
	install -D -m 644 build/libctapi-cardfs.so $(CTAPI_LIB).1
	ln -sf libctapi-cardfs.so.1 $(CTAPI_LIB)
	printf '%s\n' 'Name: libctapi-cardfs' 'Description: CT-API for the readers of cardfs' 'Version: 1.1' \
		'Cflags: -I$(PREFIX)/include' 'Libs: -L$(LIBDIR) -lctapi-cardfs' | install -D -m 644 /dev/stdin $(CTAPI_PC)
	install -D -m 644 build/pcsc/libpcsclite.so.1 $(PCSC_LIB)
	install -D -m 644 build/libifdcardfs.so $(IFD_LIB)
	install -D -m 644 build/libifdcardfs.so $(IFD_BUNDLE)/Contents/Linux/libifdcardfs.so
	install -D -m 644 build/ifd-cardfs.bundle/Contents/Info.plist $(IFD_BUNDLE)/Contents/Info.plist
	[ -e $(CONF) ] || install -D -m 644 cmd/cardfs/install/cardfs.conf $(CONF)
	sed 's|@BINDIR@|$(PREFIX)/bin|; s|/etc/cardfs.conf|$(SYSCONFDIR)/cardfs.conf|' cmd/cardfs/install/cardfs.service | install -D -m 644 /dev/stdin $(UNIT)
	sed 's|@BINDIR@|$(PREFIX)/bin|' cmd/cardfs/install/cardfs-extcap | install -D -m 755 /dev/stdin $(EXTCAP)
	install -D -m 644 cmd/cardfs/install/pcscd.conf $(PCSCD_UNIT)
	install -D -m 644 cmd/cardfs/install/sysusers.conf $(SYSUSERS)
	build/cardfs udev-rules | install -D -m 644 /dev/stdin $(RULES)
	for page in build/man/*; do dir=$(MAN)/man$${page##*.}; \
		if [ -L $$page ]; then cp -P $$page $$dir; else install -D -m 644 -t $$dir $$page; fi || exit 1; done
	build/cardfs completion bash | install -D -m 644 /dev/stdin $(BASH_WORDS)
	build/cardfs completion zsh | install -D -m 644 /dev/stdin $(ZSH_WORDS)
	build/cardfs completion fish | install -D -m 644 /dev/stdin $(FISH_WORDS)
ifeq ($(DESTDIR),)
	getent group cardfs >/dev/null || groupadd --system cardfs
	ldconfig
	@echo 'Next: systemctl daemon-reload && systemctl enable --now cardfs && systemctl try-restart pcscd'
	@echo '      usermod --append --groups cardfs YOU, for those who may use the files'
endif

.PHONY: uninstall
uninstall: ## remove what make install installed, with the same DESTDIR and PREFIX, and say what is left
	rm -rf $(IFD_BUNDLE)
	rm -f $(MAN)/man1/cardfs.1 $(MAN)/man1/cardfs-*.1 $(MAN)/man5/cardfs.5 $(MAN)/man5/cardfs.conf.5 $(MAN)/man7/cardfs-recipes.7 \
		$(addprefix $(MAN)/man8/,libifdcardfs.8 libpcsclite-cardfs.8 mount.cardfs.8 mount.fuse.cardfs.8)
	rm -f $(BIN) $(MOUNT) $(MOUNT_ALIAS) $(HEADERS)/cardfs.h $(HEADERS)/ctapi.h $(CTAPI_LIB) $(CTAPI_LIB).1 $(CTAPI_PC) $(PCSC_LIB) $(IFD_LIB) $(UNIT) $(PCSCD_UNIT) \
		$(SYSUSERS) $(RULES) $(BASH_WORDS) $(ZSH_WORDS) $(FISH_WORDS) $(EXTCAP)
	@rmdir --ignore-fail-on-non-empty $(HEADERS) $(dir $(PCSC_LIB)) $(dir $(PCSCD_UNIT)) $(DESTDIR)$(EXTCAP_DIR) $(dir $(DESTDIR)$(EXTCAP_DIR)) 2>/dev/null || true
	@! cmp -s cmd/cardfs/install/cardfs.conf $(CONF) || rm $(CONF)
	@cmd/cardfs/install/left.sh "$(DESTDIR)" $(SYSCONFDIR)

.PHONY: deb rpm
deb: build ## Debian packages, into build/packages
rpm: build ## the same for RPM, which nobody has installed yet
deb rpm:
	@GO="$(GO)" CC="$(CC)" MAKE="$(MAKE)" cmd/cardfs/install/package/build.sh $@

.PHONY: clean
clean: ## remove what make build made
	rm -rf build
	-rmdir cards 2>/dev/null
