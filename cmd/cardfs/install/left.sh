#!/bin/sh
# left.sh ROOT ETC: says what make uninstall leaves, which is not its own, and how to remove
# it. Where ROOT is "", that is also of the running system.
root=$1 etc=$2
left() { printf 'left: %s\n' "$1"; }

for file in "$root$etc/cardfs.conf" "$root$etc/default/cardfs"; do
	[ ! -e "$file" ] || left "$file, your settings: rm $file"
done
for file in "$root$etc/reader.conf.d"/* "$root$etc/reader.conf"; do
	! grep -qs libifdcardfs "$file" || left "$file, in which pcscd is told of readers: rm $file, or its entries"
done
! grep -qsE '^[^#]+[[:blank:]](fuse\.)?cardfs[[:blank:]]' "$root$etc/fstab" || left "lines in $root$etc/fstab: remove them"
[ -z "$root" ] || exit 0

if command -v systemctl >/dev/null; then
	if systemctl --quiet is-active cardfs.service || systemctl --quiet is-enabled cardfs.service; then
		left "cardfs.service, running or enabled: systemctl disable --now cardfs; systemctl daemon-reload"
	fi 2>/dev/null
fi
awk '$3 == "fuse.cardfs" { print $2 }' /proc/self/mounts | while read -r dir; do left "a mount: umount $dir"; done
! getent group cardfs >/dev/null || left "the group cardfs: groupdel cardfs"
exit 0
