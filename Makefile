# make help says what there is. Nothing here asks a question: what is missing on
# a Debian 12 with Go is installed (as root, or by sudo).

GO      ?= go
FUZZTIME ?= 5m

# Go sees to its own rebuilding; the C libraries are small.
CC      ?= cc
CFLAGS  ?= -O2 -g
CSTD     = -std=c11 -Wall -Wextra -Werror -fPIC -fvisibility=hidden -pthread
CLIB     = ctapi/clib
HEADERS  = $(wildcard $(CLIB)/*.h)
COMMON   = $(filter-out $(CLIB)/ifd.c $(CLIB)/ctapi.c,$(wildcard $(CLIB)/*.c))

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: build
build: build/cardfs build/libifdcardfs.so build/libctapi-cardfs.so ## build/cardfs and the two C libraries

.PHONY: build/cardfs
build/cardfs: deps-build
	CGO_ENABLED=0 $(GO) build -trimpath -o $@ ./cmd/cardfs

build/libifdcardfs.so: $(CLIB)/ifd.c $(COMMON) $(HEADERS) | deps-build
build/libctapi-cardfs.so: $(CLIB)/ctapi.c $(COMMON) $(HEADERS) | deps-build
build/lib%.so:
	@mkdir -p build
	$(CC) $(CSTD) $(CFLAGS) $(LDFLAGS) -shared -o $@ $(filter %.c,$^)

.PHONY: run
run: deps-run build/cardfs ## mount a simulated iKey 3000 at ./cards until ctrl-C
	@mkdir -p cards
	@exec build/cardfs mount --sim ikey3k cards

.PHONY: test
test: deps-test build ## everything that needs no reader of your own
	$(GO) test -race -timeout 20m ./...

.PHONY: bench
bench: deps-test build ## the limits, measured; fails if one is missed
	$(GO) run ./tests/bench

.PHONY: fuzz
fuzz: deps-build ## every fuzzer for FUZZTIME (5m)
	@.ci/fuzz $(FUZZTIME)

.PHONY: lint
lint: deps-build ## gofmt, go vet, staticcheck
	@bad=$$(gofmt -l .); if [ -n "$$bad" ]; then echo "gofmt these:" $$bad >&2; exit 1; fi
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

.PHONY: deps-build deps-run deps-test deps
deps-build:
	@.ci/deps build
deps-run:
	@.ci/deps build run
deps-test:
	@.ci/deps build run test vm
deps: deps-test ## install what is missing for all of this

.PHONY: clean
clean: ## remove what make build made
	rm -rf build
	-rmdir cards 2>/dev/null
