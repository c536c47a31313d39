#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# build.sh deb|rpm: makes the packages of what `make build` made, into build/packages. One
# file each describes them, in the words of nfpm (https://nfpm.goreleaser.com).
#
# VERSION is theirs; by default it counts the commits, so that a later build is an upgrade.
set -eu

format=$1
cd "$(dirname "$0")/../../../.."
here=cmd/cardfs/install/package
out=build/packages
root=$out/root

if [ -z "${VERSION:-}" ]; then
	VERSION=0.1+$(git rev-list --count HEAD).g$(git rev-parse --short=8 HEAD)
fi
# Packages of the same commit are the same, whoever builds them.
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || date +%s)}"
MULTIARCH=$(${CC:-cc} -print-multiarch)
ARCH=$(${GO:-go} env GOARCH)
case $format in
deb) LIBDIR=/usr/lib/$MULTIARCH ;;
rpm) case $ARCH in 386 | arm) LIBDIR=/usr/lib ;; *) LIBDIR=/usr/lib64 ;; esac ;;
*)
	echo "build.sh: no package format $format; there are deb and rpm" >&2
	exit 2
	;;
esac
PCSC_DRIVERS=$(pkg-config --variable=usbdropdir libpcsclite 2>/dev/null || echo /usr/lib/pcsc/drivers)
export VERSION SOURCE_DATE_EPOCH ARCH LIBDIR PCSC_DRIVERS

instead=$out/instead
rm -rf "$root" "$out"/*."$format" "$instead"/*."$format"
umask 022
"${MAKE:-make}" --no-print-directory install DESTDIR="$root" PREFIX=/usr LIBDIR="$LIBDIR" PCSC_DRIVERS="$PCSC_DRIVERS" EXTCAP_DIR="$LIBDIR/wireshark/extcap" >/dev/null
# A daemon of root's is to be loaded wherever the kernel likes; that is no default of Go's.
"${GO:-go}" build -trimpath -buildmode=pie -tags osusergo,netgo -ldflags "-s -w -X main.version=$VERSION" \
	-o "$root/usr/bin/cardfs" ./cmd/cardfs
find "$root" -name '*.so*' -type f -exec strip --strip-unneeded {} +
# The libc that is needed is that of the newest symbol in use.
GLIBC=$(find "$root" \( -name '*.so*' -o -path '*/bin/*' \) -type f -exec objdump -T {} + |
	sed -n 's/.*(GLIBC_\([0-9.]*\)).*/\1/p' | sort -V | tail -n 1)
export GLIBC

find "$root/usr/share/man" -type f -exec gzip -9n {} + # nfpm makes the links

date=$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
mkdir -p "$root/usr/share/doc/cardfs"
gzip -9n >"$root/usr/share/doc/cardfs/changelog.gz" <<EOF
cardfs ($VERSION) unstable; urgency=medium

  * Built from commit $(git rev-parse HEAD 2>/dev/null || echo unknown).

 -- The cardfs authors <cardfs@users.noreply.github.com>  $date
EOF
{
	cat <<'EOF'
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: cardfs
Source: https://github.com/cardfs/cardfs

Files: *
Copyright: 2026, the cardfs authors
License: BSD-3-Clause

License: BSD-3-Clause
EOF
	sed -n '/^Redistribution/,$p' LICENSE | sed 's/^$/./; s/^/ /'
} >"$root/usr/share/doc/cardfs/copyright"

package() {
	"${GO:-go}" run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2 package \
		--config "$here/$1.yaml" --packager "$format" --target "$2/" | sed 's/^/  /'
}
for name in cardfs libifdcardfs libctapi-cardfs1 libctapi-cardfs-dev; do
	package "$name" "$out"
done
# By choice, and apart, so that nobody installs it with the rest.
if [ "$format" = deb ]; then
	mkdir -p "$instead"
	package libpcsclite1-cardfs "$instead"
fi
