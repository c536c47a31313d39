#!/bin/busybox sh
# PID 1 of the machine. It loads the modules, mounts the host's root read-only
# with fresh /tmp, /run and /var, starts udev, runs /run/vm/job in there and
# tells the host how the job ended.
b=/bin/busybox
cd /
$b mkdir -p /proc /sys /new /host
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev 2>/dev/null

for m in /mod/*.ko; do
	$b insmod $m || echo "vm: insmod $m failed"
done
for n in ${modules//,/ }; do
	for m in /more/$n/*.ko; do
		name=${m##*-} name=${name%.ko}
		[ -d /sys/module/$name ] || $b insmod $m || echo "vm: insmod $m failed"
	done
done

# Ports by the names that the host gave them.
for p in /sys/class/virtio-ports/*; do
	[ -r $p/name ] || continue
	read -r name <$p/name
	$b ln -s ${p##*/} /dev/${name#cardfs.}
done
exec 5>/dev/exit
fail() {
	echo "vm: $*"
	echo "setup: $*" >&5
	while :; do $b sleep 1000; done
}

o=trans=virtio,version=9p2000.L,msize=512000
$b mount -t 9p -o $o,ro,cache=loose host /new || fail "cannot mount the host's root"
$b mount -o bind /new /host
for d in tmp run var; do
	$b mount -t tmpfs -o mode=755 $d /new/$d || fail "cannot mount /$d"
done
$b chmod 1777 /new/tmp
$b mkdir -p /new/run/host /new/run/vm /new/run/lab /new/run/udev/rules.d /new/run/lock \
	/new/var/lib /new/var/log /new/var/cache /new/var/spool /new/var/tmp /new/tmp/home
$b chmod 1777 /new/var/tmp
$b ln -s /run /new/var/run
$b ln -s /run/lock /new/var/lock
$b mount -o move /host /new/run/host
$b mount -t 9p -o $o job /new/run/vm || fail "cannot mount the job"
$b mount -o bind /vm /new/run/lab
$b mount -o move /proc /new/proc
$b mount -o move /sys /new/sys
$b mount -o move /dev /new/dev
cd /new
$b mkdir -p dev/pts dev/shm
$b mount -t devpts -o mode=620,ptmxmode=666 devpts dev/pts
$b mount -t tmpfs shm dev/shm
$b mount -t debugfs debug sys/kernel/debug
$b mount -t fusectl fusectl sys/fs/fuse/connections
$b ip link set lo up
$b hostname vm

# The host may have no udev: the machine's own is at hand, and takes no notice of
# being in a chroot.
$b mkdir -p run/bin
$b cat >run/bin/udevadm <<'END'
#!/bin/sh
SYSTEMD_IGNORE_CHROOT=1 LD_LIBRARY_PATH=/run/lab/udev/lib exec /run/lab/udev/udevadm "$@"
END
$b chmod +x run/bin/udevadm
if [ -z "$noudev" ]; then
	$b cp run/lab/udev/rules.d/50-udev-default.rules run/lab/udev/rules.d/60-serial.rules run/udev/rules.d/
	SYSTEMD_IGNORE_CHROOT=1 LD_LIBRARY_PATH=/run/lab/udev/lib \
		$b chroot /new /run/lab/udev/systemd-udevd --daemon --resolve-names=late 2>/dev/null ||
		echo "vm: udevd does not start"
	$b chroot /new /run/bin/udevadm trigger --action=add --subsystem-match=usb --settle
fi

if [ -n "$tty" ]; then
	$b setsid -c $b chroot /new /bin/sh /run/vm/job <>dev/hvc0 >&0 2>&1 5>&-
else
	$b setsid $b chroot /new /bin/sh /run/vm/job </dev/null >dev/out 2>dev/err 5>&-
fi
echo $? >&5
while :; do $b sleep 1000; done
