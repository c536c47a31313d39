package doctor

import (
	"os"
	"testing"
)

// "is the library there, does it load, does it see the mount"
func TestPCSC(t *testing.T) {
	const lib = "/usr/local/lib/x86_64-linux-gnu/cardfs/libpcsclite.so.1"
	w := newWorld(t)
	w.finds("pcsc", "ok cardfs's PC/SC library, for programs without pcscd, is not installed")
	w.file("/usr/lib/x86_64-linux-gnu/libpcsclite.so.1", "Debian's own")
	w.finds("pcsc", "ok cardfs's PC/SC library, for programs without pcscd, is not installed")
	w.file(lib, "")
	w.finds("pcsc", "unknown ldd: it is not installed")
	w.programs("ldd")
	delete(w.says, "ldd")
	w.finds("pcsc", "wrong PC/SC programs cannot load "+lib+": it is damaged\n> sudo make install")
	w.programs("ldd -r " + lib + ": \tlibc.so.6 => /lib/libc.so.6 (0x1)\n\tlibx.so => not found\n")
	w.finds("pcsc", "wrong PC/SC programs cannot load "+lib+": libx.so => not found\n> sudo make install")
	w.packages("cardfs")
	w.programs("ldd -r " + lib + ": undefined symbol: epoll_pwait3\t(/x)")
	w.finds("pcsc", "wrong PC/SC programs cannot load "+lib+": undefined symbol: epoll_pwait3 (/x)\n> sudo apt-get install --reinstall cardfs")
	w.programs("ldd -r " + lib + ": \tlibc.so.6 => /lib/libc.so.6 (0x1)")
	w.finds("pcsc", "ok cardfs's PC/SC library can be loaded; no cardfs is mounted for it")

	w.mount("/home/ann/cards", "user_id=54321")
	w.finds("pcsc", "ok cardfs's PC/SC library can be loaded; cardfs pcsc tells programs of /home/ann/cards")
	w.env["CARDFS_MOUNT"] = "home/ann/cards" // the library takes no relative one
	w.finds("pcsc", "ok cardfs's PC/SC library can be loaded; cardfs pcsc tells programs of /home/ann/cards")
	w.mount("/mnt/cards", "user_id=0")
	w.finds("pcsc", "ok cardfs's PC/SC library can be loaded, and finds the readers at /mnt/cards")
	w.must(os.RemoveAll(w.path("/mnt/cards")))
	w.file("/proc/self/mountinfo", "")
	w.mount("/home/ann/cards", "user_id=54321")
	w.env["CARDFS_MOUNT"] = "/home/ann/cards"
	w.finds("pcsc", "ok cardfs's PC/SC library can be loaded, and finds the readers at /home/ann/cards")
	delete(w.env, "CARDFS_MOUNT")

	// the machine's own library is ours
	const machines = "/usr/lib/x86_64-linux-gnu/libpcsclite.so.1"
	w.packages("cardfs", "libpcsclite1-cardfs")
	w.finds("pcsc", "wrong PC/SC programs cannot load "+machines+": it is damaged\n> sudo apt-get install --reinstall libpcsclite1-cardfs\n"+
		"warn every PC/SC program looks for readers at /mnt/cards, where no cardfs is mounted\n> export CARDFS_MOUNT=/home/ann/cards")
	w.programs("ldd -r " + machines + ": ")
	w.finds("pcsc", "warn every PC/SC program looks for readers at /mnt/cards, where no cardfs is mounted\n> export CARDFS_MOUNT=/home/ann/cards")

	// a slot that was bound alone
	w.file("/mnt/cards/3/status", "")
	w.finds("pcsc", "ok cardfs's PC/SC library can be loaded, and finds the readers at /mnt/cards")

	other := newWorld(t)
	other.packages("libpcsclite1-cardfs")
	other.file(machines, "")
	other.programs("ldd -r " + machines + ": ")
	other.finds("pcsc", "warn every PC/SC program looks for readers at /mnt/cards, where no cardfs is mounted: see the service")
	other.file("/proc/self/mountinfo", "36 35 0:40 / /mnt/cards rw,nosuid - fuse.cardfs cardfs rw,user_id=0\n")
	other.finds("pcsc", "warn cardfs's PC/SC library can be loaded, but may not use /mnt/cards; the line about this mount says why")
}
