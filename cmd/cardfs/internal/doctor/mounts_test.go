package doctor

import (
	"os"
	"testing"
)

func TestMountsUsable(t *testing.T) {
	w := newWorld(t)
	w.finds("mounts", `warn no cardfs is mounted
		> mkdir -p cards && cardfs mount --background cards`)
	w.systemd("cardfs.service", "LoadState=loaded ActiveState=inactive")
	w.finds("mounts", `wrong no cardfs is mounted
		> sudo systemctl restart cardfs.service`)
	w.account("root", 0)
	w.mount("/mnt/cards", "user_id=0,group_id=0,allow_other", "state empty\n", "state powered\n")
	w.finds("mounts", `ok /mnt/cards is mounted by root, and ann may use it; slots: 2`)
}

// A mount that is hidden below another is not listed, nor is a single slot that was bound.
func TestMountsListed(t *testing.T) {
	w := newWorld(t)
	w.account("root", 0)
	w.account("ann", stranger)
	w.mount("/mnt/cards", "user_id=0,group_id=0")
	w.mount("/mnt/cards", "user_id=54321,group_id=0")
	w.dir("/srv/slot")
	w.file("/proc/self/mountinfo", w.read("/proc/self/mountinfo")+"\n39 35 0:50 /0 /srv/slot rw - fuse.cardfs cardfs rw,user_id=0\n40 35 0:51 / /srv/other rw - fuse.sshfs x rw,user_id=0\n")
	w.finds("mounts", `ok /mnt/cards is mounted by ann, and ann may use it; slots: 0`)

	w.file("/proc/self/mountinfo", w.read("/proc/self/mountinfo")+"\n"+`41 35 0:52 / /srv/the\040cards rw - fuse.cardfs cardfs rw,user_id=0`+"\n")
	w.file("/srv/the cards/ctl", "")
	w.finds("mounts", `ok /mnt/cards is mounted by ann, and ann may use it; slots: 0
		ok /srv/the cards is mounted by root, and ann may use it; slots: 0
		warn cardfs is mounted at /mnt/cards, /srv/the cards: commands have to be told which
		> export CARDFS_MOUNT=/mnt/cards`)
	w.env["CARDFS_MOUNT"] = "/srv/the cards"
	w.finds("mounts", `ok /mnt/cards is mounted by ann, and ann may use it; slots: 0
		ok /srv/the cards is mounted by root, and ann may use it; slots: 0`)
	w.env["CARDFS_MOUNT"] = "/srv/none"
	w.finds("mounts", `ok /mnt/cards is mounted by ann, and ann may use it; slots: 0
		ok /srv/the cards is mounted by root, and ann may use it; slots: 0
		wrong CARDFS_MOUNT names /srv/none, where no cardfs is mounted
		> export CARDFS_MOUNT=/mnt/cards`)
	w.file("/proc/self/mountinfo", "")
	w.finds("mounts", `wrong CARDFS_MOUNT names /srv/none, where no cardfs is mounted
		> cardfs mount --background /srv/none`)
}

func TestMountsBroken(t *testing.T) {
	w := newWorld(t)
	w.account("root", 0)
	w.account("ann", stranger)
	w.mount("/home/ann/it's", "user_id=54321")
	w.must(os.Remove(w.path("/home/ann/it's/ctl")))
	w.finds("mounts", `wrong /home/ann/it's: lstat `+w.path("/home/ann/it's/ctl")+`: no such file or directory
		> fusermount3 -u -z '/home/ann/it'\''s'`)
	w.mount("/mnt/cards", "user_id=0")
	w.must(os.Remove(w.path("/mnt/cards/ctl")))
	w.must(os.RemoveAll(w.path("/home")))
	w.file("/proc/self/mountinfo", "36 35 0:40 / /mnt/cards rw - fuse.cardfs cardfs rw,user_id=0\n")
	w.finds("mounts", `wrong /mnt/cards: lstat `+w.path("/mnt/cards/ctl")+`: no such file or directory
		> sudo umount --lazy /mnt/cards`)
	w.systemd("cardfs.service", "LoadState=loaded ActiveState=active")
	w.finds("mounts", `wrong /mnt/cards: lstat `+w.path("/mnt/cards/ctl")+`: no such file or directory
		> sudo systemctl restart cardfs.service`)
}

// A mount that this user may not enter is a fault where commands look for it. Elsewhere it is
// another user's own matter.
func TestMountsForbidden(t *testing.T) {
	w := newWorld(t)
	w.group("scard", 77)
	for _, c := range []struct {
		m    mount
		env  string
		want Finding
	}{
		{mount{dir: "/home/bob/c", answer: answer{gid: -1}}, "", Finding{State: Warn, Text: "/home/bob/c belongs to bob, who lets nobody else in: that takes mount --allow-other, and --group or --mode"}},
		{mount{dir: "/home/bob/c", answer: answer{gid: -1}}, "/home/bob/c", Finding{State: Wrong, Text: "/home/bob/c belongs to bob, who lets nobody else in: that takes mount --allow-other, and --group or --mode"}},
		{mount{dir: "/mnt/cards", answer: answer{gid: 77}, allowOther: true}, "", Finding{State: Wrong, Text: "/mnt/cards is for group scard, and ann is not in it; it takes effect at the next login",
			Mend: "sudo usermod --append --groups scard ann"}},
		{mount{dir: "/mnt/cards", answer: answer{gid: stranger}, allowOther: true}, "", Finding{State: Wrong, Text: "/mnt/cards belongs to bob, whose --mode lets ann not in"}},
		{mount{dir: "/srv/c", answer: answer{gid: 0}, allowOther: true}, "", Finding{State: Warn, Text: "/srv/c belongs to bob, whose --mode lets ann not in"}},
	} {
		w.env["CARDFS_MOUNT"] = c.env
		e := &exam{Host: &w.Host, ctx: t.Context()}
		e.forbidden(c.m, "bob")
		if e.Findings[0] != c.want {
			t.Errorf("%+v: %+v", c.m, e.Findings[0])
		}
	}
	w.group("scard", 77, "ann")
	e := &exam{Host: &w.Host, ctx: t.Context()}
	e.forbidden(mount{dir: "/srv/c", answer: answer{gid: 77}, allowOther: true}, "bob")
	if f := e.Findings[0]; f.Mend != "newgrp scard" || f.State != Warn {
		t.Errorf("%+v", f)
	}
}

func TestSlots(t *testing.T) {
	w := newWorld(t)
	w.mount("/mnt/cards", "user_id=0,allow_other", "state powered\nerror an old one\n", "state failed\ndriver vpcd\nerror listen: in use\n", "state failed\ndriver ccid\nbus usb\nerror busy\n")
	w.finds("slots", `wrong /mnt/cards/1: vpcd failed: listen: in use
		> cardfs detach --mount /mnt/cards 1
		wrong /mnt/cards/2: ccid failed: busy
		> echo rescan | sudo tee /mnt/cards/ctl >/dev/null`)
}
