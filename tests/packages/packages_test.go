// Package packages tries the Debian packages in a Debian that has nothing else: installed,
// used, upgraded, removed and purged.
package packages

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/debian"
)

// contents lists what is in the root, except for files that any package changes.
func contents(t *testing.T, root string) map[string]bool {
	t.Helper()
	list := map[string]bool{}
	for line := range strings.Lines(debian.Run(t, nil, "find", root, "-xdev", "-printf", `%P\n`)) {
		name := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(name, "packages"), strings.HasPrefix(name, "root/.cache"), strings.HasPrefix(name, "var/lib/dpkg"), strings.HasPrefix(name, "var/lib/apt"), strings.HasPrefix(name, "var/log"),
			strings.HasPrefix(name, "var/cache"), strings.HasPrefix(name, "var/lib/systemd/deb-systemd-helper"),
			strings.HasPrefix(name, "etc/") && (strings.HasSuffix(name, "-") || strings.HasSuffix(name, ".lock")):
			continue
		}
		list[name] = true
	}
	return list
}

func surplus(before, after map[string]bool) (names []string) {
	for name := range after {
		if !before[name] {
			names = append(names, name)
		}
	}
	return names
}

func TestDebian(t *testing.T) {
	root := debian.Fresh(t)
	had := contents(t, root)
	debian.Packages(t, root, "0.1+1")
	debian.Packages(t, root, "0.1+2")

	t.Run("installed and used", func(t *testing.T) {
		out := debian.Within(t, root, `dpkg -i /packages/0.1+1/*.deb >/dev/null
systemd-analyze verify --man=no /usr/lib/systemd/system/cardfs.service
getent group cardfs
ldconfig -p | grep -o 'libctapi-cardfs.so.1' | head -n 1
for page in man1/cardfs.1 man1/cardfs-mount.1 man5/cardfs.5 man5/cardfs.conf.5 man8/libifdcardfs.8 man8/libpcsclite-cardfs.8 man8/mount.cardfs.8 man8/mount.fuse.cardfs.8; do test -s /usr/share/man/$page.gz; done
test -s /usr/share/bash-completion/completions/cardfs
cardfs version | head -n 1
cardfs mount --check --config /etc/cardfs.conf && echo configuration checked

mkdir -p /mnt/cards
cardfs mount -b --allow-other --group cardfs --mode 0660 --sim ikey3k --log /tmp/log /mnt/cards
cat /mnt/cards/0/atr
cardfs reader-conf >/etc/reader.conf.d/cardfs
pcscd
opensc-tool --atr
cat >/tmp/ct.c <<'END'
#include <cardfs/ctapi.h>
#include <cardfs/cardfs.h>
#include <stdio.h>
int main(void) { printf("CT_init %d ", CT_init(1, 0)); printf("CT_close %d\n", CT_close(1)); }
END
cc -o /tmp/ct /tmp/ct.c $(pkg-config --cflags --libs libctapi-cardfs)
/tmp/ct
pkill pcscd
echo without pcscd: $(cardfs pcsc opensc-tool --atr)
umount /mnt/cards
mount -t fuse.cardfs -o allow_other,group=cardfs,mode=0660,usb=off,sim=t0,log=/dev/null cardfs /mnt/cards
findmnt -n -o SOURCE,FSTYPE /mnt/cards
cat /mnt/cards/0/atr
umount /mnt/cards
rm -r /tmp/* /etc/reader.conf.d/cardfs`)
		for _, want := range []string{"cardfs:x:", "libctapi-cardfs.so.1", "cardfs 0.1+1", "3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1",
			"3b:b7:94:00:81:31:fe:65:53:50:4b:32:33:90:00:d1", "without pcscd: 3b:b7:94:00:81", "CT_init 0 CT_close 0",
			"cardfs fuse.cardfs", "configuration checked", "3B 77 94 00 00 53 49 4D 54 30 90 00"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
	})

	// "a package of its own that replaces Debian's library for the whole machine, by choice": it
	// takes the place of libpcsclite1, whose dependants stay, and libpcsclite1 takes it back.
	t.Run("for the whole machine", func(t *testing.T) {
		out := debian.Within(t, root, `library=$(echo /usr/lib/*-linux-gnu)/libpcsclite.so.1
cp --dereference $library /tmp/theirs
cp $(dirname $library)/cardfs/libpcsclite.so.1 /tmp/ours
# Debian's package, made of what is installed of it
mkdir -p /tmp/theirs1/DEBIAN
dpkg-query --status libpcsclite1 | grep -v ^Status: >/tmp/theirs1/DEBIAN/control
dpkg-query --listfiles libpcsclite1 | while read -r f; do if [ -d "$f" ]; then mkdir -p "/tmp/theirs1$f"; elif [ -e "$f" ]; then cp -a "$f" "/tmp/theirs1$f"; fi; done
dpkg-deb --build /tmp/theirs1 /tmp/libpcsclite1.deb >/dev/null

mkdir -p /mnt/cards
cardfs mount -b --usb=off --sim ikey3k --log /tmp/log /mnt/cards
dpkg -i /packages/0.1+1/instead/libpcsclite1-cardfs_*.deb
cmp $library /tmp/ours && echo the library is ours
ldconfig -p | grep -x '.*libpcsclite.so.1 .* => .*'
dpkg-query --show --showformat='${Package} ${db:Status-Status}
' libpcsclite1 pcscd opensc
dpkg --audit
apt-get --simulate check && echo dependencies hold
opensc-tool --atr
pgrep pcscd || echo no pcscd runs
dpkg --install /packages/0.1+2/instead/libpcsclite1-cardfs_*.deb >/dev/null
opensc-tool --atr

apt-get -y -o Dpkg::Use-Pty=0 -o APT::Sandbox::User=root install /tmp/libpcsclite1.deb
cmp --quiet $library /tmp/theirs && echo the library is theirs
dpkg --audit
dpkg --purge libpcsclite1-cardfs 2>/dev/null
umount /mnt/cards
rm -r /tmp/*`)
		for want, n := range map[string]int{"the library is ours": 1, "libpcsclite1 installed": 0, "pcscd installed": 1, "opensc installed": 1, "dependencies hold": 1,
			"3b:b7:94:00:81:31:fe:65:53:50:4b:32:33:90:00:d1": 2, "no pcscd runs": 1, "the library is theirs": 1} {
			if strings.Count(out, want) != n {
				t.Errorf("%d times %q, want %d, in\n%s", strings.Count(out, want), want, n, out)
			}
		}
	})

	// An upgrade does not disturb the daemon or the users of a reader.
	t.Run("upgraded", func(t *testing.T) {
		out := debian.Within(t, root, `mkdir -p /mnt/cards
cardfs mount -b --sim ikey3k /mnt/cards
pid=$(pgrep -x cardfs)
exec 3<>/mnt/cards/0/apdu
while echo 80EE000002010200 >&3 && read -r line <&3; do echo "$line"; done >/tmp/answers 2>&1 &
client=$!
dpkg -i /packages/0.1+2/*.deb >/dev/null
before=$(wc -l </tmp/answers)
until [ $(wc -l </tmp/answers) -gt $((before + 20)) ]; do sleep 0.05; done
kill -0 $client
kill $client
test "$pid" = "$(pgrep -x cardfs)"
sort /tmp/answers | uniq -c | awk '{ $1 = ""; print "answers:" $0 }'
cardfs version | head -n 1
umount --lazy /mnt/cards
rm -r /tmp/*`)
		if !strings.Contains(out, "cardfs 0.1+2") || strings.Count(out, "answers:") != 1 || !strings.Contains(out, "answers: 01 02 90 00") {
			t.Errorf("%s", out)
		}
	})

	t.Run("removed and purged", func(t *testing.T) {
		debian.Within(t, root, `echo CARDFS_ARGS=--usb=off >/etc/default/cardfs
sed -i 's/^#usb/usb/' /etc/cardfs.conf
dpkg --remove libctapi-cardfs-dev libctapi-cardfs1 libifdcardfs cardfs >/dev/null`)
		left := surplus(had, contents(t, root))
		slices.Sort(left)
		// Whether the service was enabled stays with the configuration, as Debian has it.
		const enabled = "etc/systemd/system/multi-user.target.wants/cardfs.service"
		if got := strings.Join(left, " "); got != "etc/cardfs.conf etc/default/cardfs "+enabled+" mnt/cards" {
			t.Errorf("after the removal there are still %s", got)
		}
		out := debian.Within(t, root, `dpkg --purge libifdcardfs cardfs >/dev/null 2>&1
getent group cardfs || echo no group`)
		if left := surplus(had, contents(t, root)); len(left) != 0 {
			t.Errorf("after the purge there are still %q", left)
		}
		if !strings.Contains(out, "no group") {
			t.Error(out)
		}
	})
}

// lintian reports no fault without an explanation.
func TestLintian(t *testing.T) {
	defer debian.Lock(t)()
	debian.Run(t, nil, "make", "--no-print-directory", "deb")
	all, err := filepath.Glob(filepath.Join(cc.Root(), "build/packages/*.deb"))
	if err != nil || len(all) == 0 {
		t.Fatal(all, err)
	}
	instead, _ := filepath.Glob(filepath.Join(cc.Root(), "build/packages/instead/*.deb"))
	all = append(all, instead...)
	cmd := exec.CommandContext(t.Context(), "lintian", append([]string{"--allow-root", "--fail-on", "error,warning"}, all...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
}
