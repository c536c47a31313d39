package doctor

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb/hotplug"
)

// ids returns the IDs in the bundle of this cardfs.
func (w *world) ids() (list []string) {
	for _, known := range hotplug.KnownIDs(w.Drivers) {
		list = append(list, known.ID)
	}
	return list
}

func TestPcscd(t *testing.T) {
	w := newWorld(t)
	w.finds("pcscd", "ok pcscd is not installed; only PC/SC programs need it")
	for _, check := range []string{"libccid", "bundle", "reader-conf", "sandbox"} {
		w.finds(check, "")
	}
	w.pcscd()
	w.finds("pcscd", "ok pcscd 1.9.9 is installed, and does not run now")
	w.process(50, "pcscd")
	w.finds("pcscd", "ok pcscd 1.9.9 runs as pid 50")
	w.says["pcscd --version"] = "pcscd from elsewhere"
	w.finds("pcscd", "ok pcscd of unknown version runs as pid 50")
}

// pcscd prints the directories that it was built to search.
func TestPcscdElsewhere(t *testing.T) {
	w := newWorld(t)
	w.programs("pcscd --version: pcsc-lite version 2.4.1\nusbdropdir=/opt/drivers serialconfigdir=/opt/reader.conf.d")
	w.file("/opt/drivers/ifd-ccid.bundle/Contents/Info.plist", plist("076b:3021"))
	e := &exam{Host: &w.Host, ctx: t.Context()}
	p := e.findPcscd()
	if p.version != "2.4.1" || p.drops != "/opt/drivers" || p.conf != "/opt/reader.conf.d" || !p.ccid["076b:3021"] {
		t.Errorf("%+v", p)
	}
}

func TestPlist(t *testing.T) {
	for text, want := range map[string]string{
		plist("04b9:1300", "076b:3021"): "04b9:1300 076b:3021",
		"<key>ifdVendorID</key><string>0x08E6</string><key>ifdProductID</key> <string> 0x4433 </string>":                                                                                  "08e6:4433",
		"<key>ifdVendorID</key><array><string>0x1</string><string>bad</string></array><key>ifdProductID</key><array><string>0x2</string><string>0x3</string><string>0x4</string></array>": "0001:0002",
		"<key>ifdVendorID</key><array><string>0x1</string>": "",
		"<key>ifdVendorID</key>":                            "",
		"":                                                  "",
	} {
		if got := strings.Join(sortedKeys(plistIDs(text)), " "); got != want {
			t.Errorf("%q: %s", text, got)
		}
	}
}

func TestBundle(t *testing.T) {
	w := newWorld(t)
	w.pcscd()
	w.finds("bundle", "warn ifd-cardfs.bundle is not installed: PC/SC programs see USB readers only by reader.conf\n> sudo make install")
	w.packages("cardfs")
	w.finds("bundle", "warn ifd-cardfs.bundle is not installed: PC/SC programs see USB readers only by reader.conf\n> sudo apt-get install libifdcardfs")
	w.handler(w.ids()...)
	w.finds("bundle", fmt.Sprintf("ok /usr/lib/pcsc/drivers/ifd-cardfs.bundle is there, with the %d readers of cardfs ids", len(w.ids())))
	w.packages("cardfs", "libifdcardfs")
	w.handler(append(w.ids()[1:], "1111:2222")...)
	w.finds("bundle", "wrong /usr/lib/pcsc/drivers/ifd-cardfs.bundle is of an older cardfs: pcscd does not find "+w.ids()[0]+" by it (cardfs ids)\n"+
		"> sudo apt-get install --reinstall libifdcardfs")
	w.systemd("pcscd.service", "LoadState=loaded")
	w.process(50, "pcscd")
	w.finds("bundle", "wrong /usr/lib/pcsc/drivers/ifd-cardfs.bundle is of an older cardfs: pcscd does not find "+w.ids()[0]+" by it (cardfs ids)\n"+
		"> sudo apt-get install --reinstall libifdcardfs && sudo systemctl try-restart pcscd.service")
	w.handler(w.ids()...)
	w.file(drops+"serial/libifdcardfs.so", "another IFDHCreateChannel")
	w.finds("bundle", `warn /usr/lib/pcsc/drivers/ifd-cardfs.bundle/Contents/Linux/libifdcardfs.so and /usr/lib/pcsc/drivers/serial/libifdcardfs.so are of two versions of cardfs
		> sudo apt-get install --reinstall libifdcardfs && sudo systemctl try-restart pcscd.service`)
	w.file(drops+"ifd-cardfs.bundle/Contents/Linux/libifdcardfs.so", "ELF")
	w.finds("bundle", `wrong /usr/lib/pcsc/drivers/ifd-cardfs.bundle/Contents/Linux/libifdcardfs.so is no IFD handler
		> sudo apt-get install --reinstall libifdcardfs && sudo systemctl try-restart pcscd.service`)
	w.file(drops+"ifd-cardfs.bundle/Contents/Info.plist", strings.Replace(plist(w.ids()...), "libifdcardfs.so", "gone.so", 1))
	w.finds("bundle", `wrong /usr/lib/pcsc/drivers/ifd-cardfs.bundle has no library: open `+w.path(drops+"ifd-cardfs.bundle/Contents/Linux/gone.so")+`: no such file or directory
		> sudo apt-get install --reinstall libifdcardfs && sudo systemctl try-restart pcscd.service`)
}

func TestLibccid(t *testing.T) {
	w := newWorld(t)
	w.pcscd()
	w.finds("libccid", "ok libccid is not installed: cardfs has CCID readers to itself")
	w.file(drops+"ifd-ccid.bundle/Contents/Info.plist", plist("076b:3021"))
	const none = "ok libccid is installed; it and cardfs would both want a CCID reader that is in its list, and none is plugged in or cardfs has it"
	w.finds("libccid", none)
	w.usb("1-3", "076b", "3022", "0b")
	w.finds("libccid", none)
	w.usb("1-2", "076b", "3021", "0b")
	const both = "wrong CCID reader (076b:3021, at USB 1-2): libccid in pcscd and cardfs both want it, and %s: decide for one of them, or have cardfs leave USB alone (mount --usb=off)\n> "
	const off = "sudo mv /usr/lib/pcsc/drivers/ifd-ccid.bundle /usr/lib/pcsc/drivers/ifd-ccid.off"
	w.finds("libccid", fmt.Sprintf(both, "whoever comes first gets it")+off)
	w.packages("libccid") // without cardfs's packages pcscd would go with it
	w.finds("libccid", fmt.Sprintf(both, "whoever comes first gets it")+off)
	w.packages("libccid", "cardfs")
	w.finds("libccid", fmt.Sprintf(both, "whoever comes first gets it")+"sudo apt-get install libifdcardfs libccid-")
	w.process(50, "pcscd", "/dev/bus/usb/001/002")
	w.finds("libccid", fmt.Sprintf(both, "pcscd came first")+"sudo apt-get install libifdcardfs libccid-")
	w.finds("holders", `wrong CCID reader (076b:3021, at USB 1-2): pcscd (pid 50) has it, by Debian's libccid: decide for one of them, or have cardfs leave USB alone (mount --usb=off)
		> sudo apt-get install libifdcardfs libccid-
		ok CCID reader (076b:3022, at USB 1-3): no program has claimed it`)
	w.systemd("pcscd.service", "LoadState=loaded")
	w.finds("libccid", fmt.Sprintf(both, "pcscd came first")+"sudo apt-get install libifdcardfs libccid- && sudo systemctl try-restart pcscd.service")
	w.mount("/mnt/cards", "user_id=0,allow_other", "state powered\nusb 001/002\n")
	w.finds("libccid", none)
}

// pcscd may hold a reader through another bundle than libccid's.
func TestHolderPcscd(t *testing.T) {
	w := newWorld(t)
	w.pcscd()
	w.usb("1-2", "04b9", "1300", "ff")
	w.process(50, "pcscd", "/dev/bus/usb/001/002")
	w.file(drops+"ifd-ccid.bundle/Contents/Info.plist", plist("076b:3021"))
	w.finds("holders", `wrong Rainbow iKey 3000 (04b9:1300, at USB 1-2): pcscd (pid 50) has it, by a driver of its own
		> sudo kill 50 && sleep 1 && sudo pcscd`)
	w.systemd("pcscd.service", "LoadState=loaded")
	w.finds("holders", `wrong Rainbow iKey 3000 (04b9:1300, at USB 1-2): pcscd (pid 50) has it, by a driver of its own
		> sudo systemctl restart pcscd.service`)
}

// pcscd reads reader.conf when it starts, and only then.
func TestReaderConfNewer(t *testing.T) {
	w := newWorld(t)
	w.pcscd()
	w.handler()
	w.process(50, "pcscd")
	w.file("/proc/50/stat", "50 (pc) scd) S 1 50 50 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 5 0 12000 1 1")
	w.file("/proc/stat", "cpu 1 2\nbtime 1700000000\nprocesses 3\n")
	start := time.Unix(1700000120, 0)
	e := &exam{Host: &w.Host}
	if got := e.since(&process{pid: 50}); !got.Equal(start) {
		t.Errorf("since %v, want %v", got, start)
	}
	touch := func(at time.Time) { w.must(os.Chtimes(w.path("/etc/reader.conf.d/one"), at, at)) }
	const fine = "ok /etc/reader.conf.d has nothing that pcscd refuses; readers of cardfs in it: "
	w.file("/etc/reader.conf.d/one", "FRIENDLYNAME \"x\"\nDEVICENAME /dev/ttyS0\nLIBPATH /lib/other.so\n")
	w.file("/lib/other.so", "")
	touch(start)
	w.finds("reader-conf", fine+"0")
	touch(start.Add(1500 * time.Millisecond))
	w.finds("reader-conf", "warn /etc/reader.conf.d/one was changed after pcscd started, which reads it only then\n> sudo kill 50 && sleep 1 && sudo pcscd")
	w.file("/proc/50/stat", "")
	w.finds("reader-conf", fine+"0")
}
