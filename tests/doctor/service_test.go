package doctor

import (
	"strings"
	"testing"
)

// cardfs.service under systemd: what systemctl reload does and says, also during an
// exchange.
func TestService(t *testing.T) {
	l := newLab(t, furnished(t))
	l.must(`systemctl start cardfs.service
cat /mnt/cards/0/atr
stat -c %G:%a /mnt/cards/0/apdu | grep -x cardfs:660
systemctl show --property=MainPID --value cardfs >/tmp/pid`)

	// The exchange is with a slow card; slot 0 has a verified PIN.
	l.must(`cat >>/etc/cardfs.conf <<'END'
[[attach]]
driver = "sim"
device = "t1"
slow = "3s"
END
systemctl reload cardfs
until [ -e /mnt/cards/1/apdu ]; do sleep 0.05; done
exec 3<>/mnt/cards/0/apdu
echo 002000010431323334 >&3; read -r line <&3; echo "$line" | grep -x '90 00'
bash -c '{ echo 80EE000002010200 >&3; read -r line <&3; echo "$line"; } 3<>/mnt/cards/1/apdu' >/tmp/slow &
slow=$!
cat >>/etc/cardfs.conf <<'END'
[[attach]]
driver = "sim"
device = "t0"
END
systemctl reload cardfs
until [ -e /mnt/cards/2/apdu ]; do sleep 0.05; done
wait $slow
grep -x '01 02 90 00' /tmp/slow
echo 00200001 >&3; read -r line <&3; echo "$line" | grep -x '90 00'`)

	// "An upgrade leaves the daemon alone": packages are installed over it meanwhile.
	l.must(`bash -c '{ echo 80EE000002010200 >&3; read -r line <&3; echo "$line"; } 3<>/mnt/cards/1/apdu' >/tmp/slow &
slow=$!
dpkg -i /packages/*/*.deb >/tmp/dpkg 2>&1
grep -q 'the daemon goes on as it was' /tmp/dpkg
wait $slow
grep -x '01 02 90 00' /tmp/slow
[ "$(systemctl show --property=MainPID --value cardfs)" = "$(cat /tmp/pid)" ]
tail -n 3 /etc/cardfs.conf | grep 't0'`)

	// A file with an error changes nothing, and systemctl reports that the reload failed.
	out, code := l.sh(`cp /etc/cardfs.conf /tmp/conf
echo nosuch = 1 >>/etc/cardfs.conf
systemctl reload cardfs`)
	if code == 0 || !strings.Contains(out, "Job for cardfs.service failed") {
		t.Errorf("a reload of a bad file: %d, %s", code, out)
	}
	l.must(`systemctl is-active cardfs
[ -e /mnt/cards/2 ]
head -n -3 /tmp/conf >/etc/cardfs.conf
systemctl reload cardfs
while [ -e /mnt/cards/2 ]; do sleep 0.05; done
[ -e /mnt/cards/1 ]
[ "$(systemctl show --property=MainPID --value cardfs)" = "$(cat /tmp/pid)" ]`)

	// With such a file the service does not start, and is not restarted again and again.
	l.must(`echo nosuch = 1 >>/etc/cardfs.conf
if systemctl restart cardfs; then exit 1; fi
systemctl show --property=NRestarts,ExecMainStatus cardfs >/tmp/shown
grep -x NRestarts=0 /tmp/shown
grep -x ExecMainStatus=2 /tmp/shown
systemctl is-failed cardfs
cp /tmp/conf /etc/cardfs.conf
systemctl reset-failed cardfs
systemctl start cardfs
cat /mnt/cards/0/atr
systemctl stop cardfs
[ ! -e /mnt/cards/0 ]`)
}

// A line of fstab becomes a mount unit of systemd, which also ends it.
func TestFstab(t *testing.T) {
	l := newLab(t, furnished(t))
	l.must(`mkdir /mnt/other
echo 'cardfs /mnt/other fuse.cardfs allow_other,group=cardfs,mode=0660,usb=off,sim=t0,_netdev,nofail 0 0' >>/etc/fstab
systemctl daemon-reload
systemctl start mnt-other.mount
grep -x '3B 77 94 00 00 53 49 4D 54 30 90 00' /mnt/other/0/atr
stat -c %G:%a /mnt/other/0/apdu | grep -x cardfs:660
systemctl stop mnt-other.mount
[ ! -e /mnt/other/0 ]
while pgrep -x cardfs; do sleep 0.05; done
mount -a
grep -x '3B 77 94 00 00 53 49 4D 54 30 90 00' /mnt/other/0/atr
until systemctl --quiet is-active mnt-other.mount; do sleep 0.05; done
umount /mnt/other`)
}
