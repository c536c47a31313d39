package doctor

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

// fault is a broken set-up.
type fault struct {
	name string
	// user wants to use the readers. The default is bob, who is in group cardfs.
	user string
	// breaks are root's commands that break it.
	breaks string
	// session are commands at the start of the user's session. The mends are run in the same
	// session, because some faults are in the environment or in the groups of a login.
	session string
	// login is how setpriv(1) gives the user's groups to that session.
	login string
	// check is the check that finds the fault, and says this.
	check, says string
	// works is a command of the user's, or of root's after "root:". It fails before the mend
	// and succeeds after it.
	works string
	// also are checks that may find something as well. Their mends are run, too.
	also string
}

// Commands that show whether it works.
const (
	mounts  = `cd; mkdir -p own && cardfs mount --background --usb=off own && fusermount3 -u own`
	reads   = `cat /mnt/cards/0/atr`
	viaPCSC = `root:systemctl reset-failed pcscd.service pcscd.socket; systemctl restart pcscd.socket; timeout 20 opensc-tool --atr | grep -q 3b:b7:94`
)

// Commands available in the shell of a lab.
const functions = `
plug() { # PORT VENDOR PRODUCT CLASS NUMBER
	local d=/sys/bus/usb/devices/$1
	mkdir -p $d/$1:1.0
	echo $2 >$d/idVendor; echo $3 >$d/idProduct; echo 1 >$d/busnum; echo $5 >$d/devnum
	echo $4 >$d/$1:1.0/bInterfaceClass
	touch /dev/bus/usb/001/00$5; chmod 664 /dev/bus/usb/001/00$5
}
holds() { # USER PROGRAM NUMBER
	cp /bin/sleep /run/$2
	chmod 666 /dev/bus/usb/001/00$3
	setpriv --reuid $1 --regid $1 --init-groups bash -c "exec /run/$2 10000 3<>/dev/bus/usb/001/00$3" >/dev/null 2>&1 &
	until [ "$(cat /proc/$!/comm)" = $2 ]; do sleep 0.05; done
}
own() { # USER ARG…: a cardfs of the user's, at ~/cards
	local user=$1
	shift
	setpriv --reuid $user --regid $user --init-groups env HOME=/home/$user sh -c 'cd; mkdir -p cards; exec cardfs mount --background --usb=off "$@" cards' own "$@"
}
`

const conf = "/etc/reader.conf.d/cardfs"

// sandboxed is pcscd.service of pcsc-lite 2.4.0, as far as pcscd 1.9.9 can run with it.
const sandboxed = `useradd --system pcscd
cat >/etc/systemd/system/pcscd.service <<'END'
[Unit]
Requires=pcscd.socket
[Service]
ExecStart=/usr/sbin/pcscd --foreground
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
RuntimeDirectory=pcscd
RuntimeDirectoryPreserve=yes
`

var setups = []fault{
	{name: "no fuse device", breaks: `rm /dev/fuse`, check: "fuse", says: "there is no /dev/fuse", works: mounts},
	{name: "fuse device without permission", breaks: `chmod 600 /dev/fuse`, check: "fuse", says: "has mode 0600: bob may not mount", works: mounts},
	{name: "fuse device of another kind", breaks: `rm /dev/fuse; touch /dev/fuse; chmod 666 /dev/fuse`, check: "fuse", says: "is not the device of FUSE", works: mounts},
	{name: "no fusermount3", breaks: `rm /usr/bin/fusermount3`, check: "fusermount3", says: "is not installed", works: mounts},
	{name: "no package fuse3", breaks: `dpkg --remove --force-depends fuse3`, check: "fusermount3", says: "is not installed", works: mounts},
	{name: "fusermount3 not setuid", breaks: `chmod u-s /usr/bin/fusermount3`, check: "fusermount3", says: "not setuid root", works: mounts},
	{name: "request time-out", breaks: `echo 20 >/proc/sys/fs/fuse/default_request_timeout; echo 30 >/proc/sys/fs/fuse/max_request_timeout`,
		check: "request-timeout", says: "waits longer than [23]0 s", works: `root:! grep -v '^0$' /proc/sys/fs/fuse/*_request_timeout`},

	{name: "no group", breaks: `groupdel cardfs; ! systemctl restart cardfs`, check: "group", says: "there is no group cardfs", works: reads, also: "conf service mounts reader-conf"},
	{name: "user not in the group", user: "alice", check: "group", says: "alice is not in group cardfs", works: reads, also: "mounts reader-conf pcsc"},
	{name: "login before the group", user: "alice", breaks: `usermod --append --groups cardfs alice`, login: "--clear-groups", session: "true",
		check: "group", says: "not since this login", works: reads, also: "mounts reader-conf pcsc"},

	{name: "stale mount", breaks: `own bob; pkill -KILL -u bob -x cardfs`, check: "mounts", says: "/home/bob/cards is what a cardfs that was killed has left", works: `ls ~/cards`},
	{name: "stale mount of root's", breaks: `mkdir /srv/cards; cardfs mount -b --usb=off --allow-other /srv/cards; pkill -KILL -f -x 'cardfs mount -b --usb=off --allow-other /srv/cards'`,
		check: "mounts", says: "/srv/cards is what a cardfs that was killed has left", works: `ls /srv/cards`},
	{name: "hanging cardfs", breaks: `own bob; pkill -STOP -u bob -x cardfs`, check: "mounts", says: "at /home/bob/cards does not answer", works: `! grep /home/bob/cards /proc/mounts`},
	{name: "mount of another group", user: "alice", breaks: `groupadd scard; sed -i 's/--usb=off/& --group scard/' /etc/default/cardfs; systemctl restart cardfs`,
		check: "mounts", says: "is for group scard, and alice is not in it", works: reads, also: "group reader-conf pcsc"},
	{name: "two mounts", breaks: `own bob`, session: "true", check: "mounts", says: "commands have to be told which", works: `cardfs list`},
	{name: "CARDFS_MOUNT without a mount", session: "export CARDFS_MOUNT=/nowhere", check: "mounts", says: "names /nowhere, where no cardfs is mounted", works: `cardfs list`},

	{name: "fault in cardfs.conf", breaks: `printf '[mount]\nusb = "off"\nno-such-key = 1\n' >/etc/cardfs.conf; printf '#!/bin/sh\nexec sed -i "${1#+}d" $2\n' >/usr/local/bin/edit; chmod +x /usr/local/bin/edit`, session: "export EDITOR=edit",
		check: "conf", says: "^/etc/cardfs.conf:3: ", works: `cardfs mount --check --config /etc/cardfs.conf`},
	{name: "service stopped", breaks: `systemctl stop cardfs`, check: "service", says: "does not run", works: reads, also: "mounts reader-conf"},
	{name: "service failed", breaks: `cp /etc/default/cardfs /tmp; echo CARDFS_ARGS=--nonsense >/etc/default/cardfs; ! systemctl restart cardfs
			until systemctl is-failed cardfs; do sleep 0.1; done; mv /tmp/cardfs /etc/default`,
		check: "service", says: "cardfs.service has failed", works: reads, also: "mounts reader-conf"},
	{name: "service masked", breaks: `systemctl mask --now cardfs`, check: "service", says: "is masked", works: reads, also: "mounts reader-conf"},
	{name: "service with a mount namespace", breaks: `mkdir /etc/systemd/system/cardfs.service.d; printf '[Service]\nPrivateTmp=yes\n' >/etc/systemd/system/cardfs.service.d/tmp.conf; systemctl daemon-reload; systemctl restart cardfs`,
		check: "service", says: "has PrivateTmp=yes, so that nobody else sees its mount", works: reads, also: "mounts reader-conf"},

	{name: "no udev rule", breaks: `rm /usr/lib/udev/rules.d/70-cardfs.rules; plug 1-1 04b9 1300 ff 2`, check: "udev-rules", says: "are not installed",
		works: `test -w /dev/bus/usb/001/002`, also: "usb-access"},
	{name: "old udev rule", breaks: `sed -i '/1300/d' /usr/lib/udev/rules.d/70-cardfs.rules`, check: "udev-rules", says: "of another version", works: `cardfs udev-rules | cmp - /etc/udev/rules.d/70-cardfs.rules`},
	{name: "user not in plugdev", breaks: `plug 1-1 04b9 1300 ff 2; chgrp plugdev /dev/bus/usb/001/002`, check: "usb-access", says: "is for group plugdev, and bob is not in it", works: `test -w /dev/bus/usb/001/002`},
	{name: "udev rule not applied", breaks: `plug 1-1 04b9 1300 ff 2; usermod --append --groups plugdev bob`, check: "usb-access", says: "may not open /dev/bus/usb/001/002", works: `test -w /dev/bus/usb/001/002`},
	{name: "scdaemon has the reader", breaks: `plug 1-1 076b 3021 0b 2; dpkg --remove --force-depends libccid; mkdir ~bob/.gnupg; chown bob ~bob/.gnupg; holds bob scdaemon 2`, check: "holders",
		says: `GnuPG's scdaemon \(pid \d+\) has it`, works: `! pgrep scdaemon && grep disable-ccid ~/.gnupg/scdaemon.conf`},
	{name: "another's scdaemon", user: "root", breaks: `plug 1-1 076b 3021 0b 2; dpkg --remove --force-depends libccid; mkdir ~alice/.gnupg; chown alice ~alice/.gnupg; holds alice scdaemon 2`, check: "holders",
		says: `GnuPG's scdaemon \(pid \d+\) has it`, works: `! pgrep scdaemon && grep disable-ccid ~alice/.gnupg/scdaemon.conf`},
	{name: "another program has the reader", breaks: `plug 1-1 04b9 1300 ff 2; holds bob openct 2`, check: "holders", says: `openct \(pid \d+\) has it`, works: `! pgrep openct`},
	{name: "pcscd has the reader", user: "root", breaks: `plug 1-1 076b 3021 0b 2
			mkdir /etc/systemd/system/pcscd.service.d
			printf '[Service]\nExecStart=\nExecStart=/bin/sh -c "if [ -d /usr/lib/pcsc/drivers/ifd-ccid.bundle ]; then exec 9<>/dev/bus/usb/001/002; fi; exec /usr/sbin/pcscd --foreground"\n' >/etc/systemd/system/pcscd.service.d/lab.conf
			systemctl daemon-reload; systemctl start pcscd; until pgrep -x pcscd; do sleep 0.1; done`,
		check: "holders", says: `pcscd \(pid \d+\) has it, by Debian's libccid`, also: "libccid", works: `dpkg -s pcscd && ! ls /usr/lib/pcsc/drivers/ifd-ccid.bundle && ls -l /proc/$(pgrep -x pcscd)/fd && ! ls -l /proc/$(pgrep -x pcscd)/fd | grep bus/usb`},
	{name: "libccid wants the reader", breaks: `plug 1-1 076b 3021 0b 2; chmod 666 /dev/bus/usb/001/002`, check: "libccid", says: "libccid in pcscd and cardfs both want it", works: `dpkg -s pcscd && ! ls /usr/lib/pcsc/drivers/ifd-ccid.bundle`},

	{name: "sandboxed pcscd", breaks: sandboxed + "User=pcscd\nEND\n" + `rm /usr/lib/systemd/system/pcscd.service.d/cardfs.conf; systemctl daemon-reload`,
		check: "sandbox", says: "ProtectSystem=strict makes /mnt/cards read-only; it runs as pcscd, who is not in group cardfs", works: viaPCSC},
	{name: "sandboxed pcscd of root's", breaks: sandboxed + "CapabilityBoundingSet=\nEND\n" + `rm /usr/lib/systemd/system/pcscd.service.d/cardfs.conf; systemctl daemon-reload`,
		check: "sandbox", says: "ProtectSystem=strict makes /mnt/cards read-only$", works: viaPCSC},
	{name: "sandbox not read again", user: "root", breaks: sandboxed + "User=pcscd\nEND\n" + `mkdir -p /run/off; mv /usr/lib/systemd/system/pcscd.service.d/cardfs.conf /run/off; systemctl daemon-reload; systemctl start pcscd; mv /run/off/cardfs.conf /usr/lib/systemd/system/pcscd.service.d; touch /usr/lib/systemd/system/pcscd.service.d/cardfs.conf /etc/systemd/system/pcscd.service`,
		check: "sandbox", says: "have changed, and systemd has not read them", works: viaPCSC},

	{name: "wrong LIBPATH", breaks: `sed -i '/^LIBPATH/s/serial/usb/' ` + conf, check: "reader-conf", says: "pcscd ends when it reads LIBPATH", works: viaPCSC},
	{name: "LIBPATH in quotes", breaks: `sed -i 's/^LIBPATH *\(.*\)/LIBPATH "\1"/' ` + conf, check: "reader-conf", says: "no quotes around LIBPATH", works: viaPCSC},
	{name: "another's wrong LIBPATH", breaks: `printf 'FRIENDLYNAME "x"\nDEVICENAME /dev/ttyS0\nLIBPATH /none.so\nCHANNELID 1\n' >/etc/reader.conf.d/another`, check: "reader-conf", says: "another:3: pcscd ends when it reads LIBPATH", works: viaPCSC},
	{name: "DEVICENAME in quotes", breaks: `sed -i 's/^DEVICENAME *\(.*\)/DEVICENAME "\1"/' ` + conf, check: "reader-conf", says: "no quotes around DEVICENAME", works: viaPCSC},
	{name: "DEVICENAME is relative", breaks: `sed -i 's/cardfs:.mnt.cards/cardfs:cards/' ` + conf, check: "reader-conf", says: "is not absolute", works: viaPCSC},
	{name: "DEVICENAME without cardfs:", breaks: `sed -i 's/cardfs:.mnt/\/mnt/' ` + conf, check: "reader-conf", says: "needs cardfs: in front", works: viaPCSC},
	{name: "DEVICENAME comes late", breaks: `sed -i -n -e 's/0x0/0x7/; /^DEVICENAME/{h;d}; p; /^FRIENDLYNAME/{g;p}' ` + conf, check: "reader-conf", says: "behind all of CHANNELID, LIBPATH and FRIENDLYNAME", works: viaPCSC},
	{name: "reader that is not there", breaks: `sed -i 's/IKEY3K-1/IKEY3K-9/' ` + conf, check: "reader-conf", says: "IKEY3K-9-slot0 is not there", works: viaPCSC},
	{name: "a reader twice", breaks: `sed -e '/^FRIENDLY/s/iKey/old iKey/' -e 's/0x0/0x1/' <` + conf + ` >/etc/reader.conf.d/cardfs-old`, check: "reader-conf", says: "once more: pcscd lists it twice",
		works: `root:systemctl reset-failed pcscd.service pcscd.socket; systemctl restart pcscd.socket; [ $(timeout 20 opensc-tool --list-readers | grep -c iKey) = 1 ]`},
	{name: "LIBPATH in the bundle", breaks: `sed -i '/^LIBPATH/s|/serial/|/ifd-cardfs.bundle/Contents/Linux/|' ` + conf, check: "reader-conf", says: "library in a bundle"},
	{name: "reader.conf newer than pcscd", user: "root", breaks: `systemctl start pcscd; touch --date='+3 seconds' ` + conf + `; until [ $(date +%s) -gt $(stat --format=%Y ` + conf + `) ]; do sleep 0.1; done`, check: "reader-conf", says: "was changed after pcscd started"},

	{name: "pcscd is not let in", breaks: `own bob --sim ikey3k; sed -i 's/.mnt.cards/\/home\/bob\/cards/' ` + conf + `; echo export CARDFS_MOUNT=/home/bob/cards >/home/bob/.profile`,
		check: "sandbox", says: "/home/bob/cards belongs to bob, who lets nobody else in, not even pcscd", works: `root:ls /home/bob/cards`, also: "reader-conf mounts"},

	{name: "old bundle", breaks: `sed -i -e '0,/0x1300/{/0x1300/d}' -e '0,/0x04b9/{/0x04b9/d}' /usr/lib/pcsc/drivers/ifd-cardfs.bundle/Contents/Info.plist`, check: "bundle", says: "does not find 04b9:1300 by it",
		works: `grep -q 0x1300 /usr/lib/pcsc/drivers/ifd-cardfs.bundle/Contents/Info.plist`},
	{name: "bundle without its library", breaks: `rm /usr/lib/pcsc/drivers/ifd-cardfs.bundle/Contents/Linux/*`, check: "bundle", says: "has no library", works: `ls /usr/lib/pcsc/drivers/ifd-cardfs.bundle/Contents/Linux/libifdcardfs.so`},
	{name: "no bundle", breaks: `dpkg --remove libifdcardfs; rm ` + conf, check: "bundle", says: "is not installed", works: `ls /usr/lib/pcsc/drivers/ifd-cardfs.bundle/Contents/Linux/libifdcardfs.so`},
	{name: "PCSC library damaged", breaks: `truncate --size=0 /usr/lib/*-linux-gnu/cardfs/libpcsclite.so.1`, check: "pcsc", says: "cannot load /usr/lib/.*/cardfs/libpcsclite.so.1: it is damaged", works: `ldd /usr/lib/*-linux-gnu/cardfs/libpcsclite.so.1`},
	{name: "CT-API library not known", breaks: `cd /usr/lib/*-linux-gnu; mv libctapi-cardfs.so.1 /tmp; ldconfig; mv /tmp/libctapi-cardfs.so.1 .`, check: "ctapi", says: "not in the cache of the dynamic linker", works: `/sbin/ldconfig -p | grep libctapi-cardfs.so.1`},
}

// "each found, each hint mends it when followed": the user who asked doctor runs the command
// exactly as it is printed.
func TestMends(t *testing.T) {
	root := furnished(t)
	for _, f := range setups {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			newLab(t, root).mends(f)
		})
	}
}

// healthy is the set-up that all labs begin with: cardfs.service and pcscd's reader.conf.
const healthy = `systemctl start dbus.socket
systemctl start cardfs || { systemctl status cardfs; journalctl -u cardfs; exit 1; }
cardfs reader-conf >` + conf + ` 2>/dev/null`

func (l *lab) mends(f fault) {
	if f.user == "" {
		f.user = "bob"
	}
	l.sh(functions)
	l.must(healthy)
	if f.login != "" {
		l.groups = f.login
	}
	if f.user != "alice" {
		if bad := faults(l.doctor(f.user)); len(bad) > 0 {
			l.Fatalf("before anything is broken: %v", bad)
		}
	}
	l.must(f.breaks)
	user, works, root := f.user, f.works, false
	if works, root = strings.CutPrefix(works, "root:"); root {
		user = "root"
	}
	begin := ""
	if f.session != "" {
		begin = f.session + "\n"
	}
	if works != "" {
		if out, code := l.session(user, begin+works); code == 0 {
			l.Errorf("broken, %q works all the same: %s", works, out)
		}
	}
	found, run := false, ""
	for range 5 { // one fault may hide another
		out, code := l.session(f.user, begin+run+"cardfs doctor --json")
		all := l.findings(out, code)
		bad := faults(all)
		if len(bad) == 0 {
			break
		}
		for _, b := range bad {
			l.Logf("%v", b)
			switch {
			case b.Check == f.check:
				found = found || regexp.MustCompile(f.says).MatchString(b.Text)
			case !strings.Contains(" "+f.also+" ", " "+b.Check+" "):
				l.Errorf("nobody broke that: %v", b)
			}
		}
		mend := bad[0].Mend
		if mend == "" {
			l.Fatalf("no command mends %v", bad[0])
		}
		if f.session != "" {
			run += mend + "\n"
			continue
		}
		if out, code := l.session(f.user, mend); code != 0 {
			journal, _ := l.session("root", "journalctl --no-pager --lines=30 --unit=cardfs")
			l.Errorf("%s\nexit code %d: %s\n%s", mend, code, out, journal)
		}
		for end := time.Now().Add(time.Minute); has(l.doctor(f.user), bad[0]); { // kill(1) does not wait for the end
			if !strings.HasPrefix(mend, "kill ") || time.Now().After(end) {
				l.Fatalf("%s did not mend it", mend)
			}
		}
	}
	if !found {
		l.Errorf("doctor did not find it: %q", f.says)
	}
	out, code := l.session(f.user, begin+run+"cardfs doctor --json")
	if bad := faults(l.findings(out, code)); len(bad) > 0 {
		l.Errorf("mended, there is still %v", bad)
	}
	if works != "" {
		if out, code := l.session(user, begin+run+works); code != 0 {
			l.Errorf("mended, %q fails with %d: %s", works, code, out)
		}
	}
}

func has(all []finding, f finding) bool {
	for _, g := range all {
		if g.Check == f.Check && g.Text == f.Text && g.State == f.State {
			return true
		}
	}
	return false
}

// session makes a user type commands after a login. A shell reads them from its input, so
// that a command may start another shell for the rest.
func (l *lab) session(user, commands string) (string, int) {
	l.Helper()
	return l.as(user, "printf '%s\\n' "+quote(commands)+" | bash -l")
}
