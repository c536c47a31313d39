package doctor

import (
	"fmt"
	"strings"
	"testing"
)

// "pcscd takes an entry as complete with FRIENDLYNAME, LIBPATH and one of the other two". Later
// lines belong to the next entry, although a line that follows at once was meant for this one.
// pcscd 1.9.9 starts a reader for each of these entries.
func TestParseEntries(t *testing.T) {
	for text, want := range map[string]string{
		"# CHANNELID 1\n\nDEVICENAME\tcardfs:/c/0 # x\nFRIENDLYNAME \"a # b\"\nLIBPATH  /l.so\n":                        `3-5 "a # b" cardfs:/c/0 /l.so`,
		"CHANNELID 1\nDEVICENAME d\nLIBPATH l\nFRIENDLYNAME n\nCHANNELID 2\nDEVICENAME e\nLIBPATH l\nFRIENDLYNAME m\n":  "1-4 n d l, 5-8 m e l",
		"FRIENDLYNAME n\nLIBPATH l\nDEVICENAME d\nCHANNELID 1\nFRIENDLYNAME m\nLIBPATH l\nDEVICENAME e\n":               "1-4 n d l, 5-7 m e l",
		"FRIENDLYNAME n\nLIBPATH l\nDEVICENAME d\nDEVICENAME e\nFRIENDLYNAME m\nLIBPATH l\n":                            "1-3 n d l, 4-6 m e l",
		"CHANNELID 1\nLIBPATH libifdcardfs.so\nFRIENDLYNAME n\nDEVICENAME d\n":                                          "1-4 n  libifdcardfs.so (late d)",
		"FRIENDLYNAME n\nLIBPATH libifdcardfs.so\nCHANNELID 1\nDEVICENAME d\nFRIENDLYNAME m\nLIBPATH l\nDEVICENAME e\n": "1-4 n  libifdcardfs.so (late d), 5-7 m e l",
		"FRIENDLYNAME n\nLIBPATH l\nCHANNELID 1\nDEVICENAME e\nFRIENDLYNAME m\nLIBPATH l\n":                             "1-3 n  l, 4-6 m e l",
		"FRIENDLYNAME n\nLIBPATH libifdcardfs.so\nCHANNELID 1\n\nDEVICENAME e\nFRIENDLYNAME m\nLIBPATH l\n":             "1-3 n  libifdcardfs.so, 5-7 m e l",
		"DEVICENAME d\nLIBPATH k\nLIBPATH l\nDEVICENAME e\nFRIENDLYNAME n":                                              "1-2  d k, 3-5 n e l",
	} {
		var got []string
		for _, n := range parseEntries("f", text) {
			s := fmt.Sprintf("%d-%d %s %s %s", n.first, n.last, n.value("FRIENDLYNAME"), n.value("DEVICENAME"), n.value("LIBPATH"))
			if n.late.number > 0 {
				s += " (late " + n.late.value + ")"
			}
			got = append(got, s)
		}
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("%q: %s, want %s", text, s, want)
		}
	}
}

// DEVICENAME is cardfs:, the number of slots if there are several, and the slot's path.
func TestEntryDevice(t *testing.T) {
	for name, want := range map[string]string{
		"cardfs:/c/0":                 "/c/0 /c",
		"cardfs:/c/by-id/x":           "/c/by-id/x /c",
		"cardfs:slots=2:/c/d/by-id/x": "/c/d/by-id/x /c/d",
		`"cardfs:/c/by-id/x"`:         "/c/by-id/x /c",
		"/c/0":                        "/c/0 /c",
	} {
		n := entry{lines: map[string]line{"DEVICENAME": {1, name}}}
		if got := n.device() + " " + n.mountDir(); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

const library = "/usr/lib/pcsc/drivers/serial/libifdcardfs.so"

// confWorld makes a world that has a mount with a reader, and pcscd with the handler.
func confWorld(t *testing.T) *world {
	w := newWorld(t)
	w.pcscd()
	w.handler(w.ids()...)
	w.mount("/mnt/cards", "user_id=0,allow_other", "state powered\nby-id sim-x-slot0\n", "state powered\nby-id usb-x-slot0\nbus usb\nusb-id 04b9:1300\n",
		"state powered\nby-id usb-y-slot0\nbus usb\nusb-id 1111:2222\n")
	return w
}

func TestReaderConf(t *testing.T) {
	const at = "/etc/reader.conf.d/f"
	entry := func(device, lib string) string {
		return "CHANNELID 1\nDEVICENAME " + device + "\nLIBPATH " + lib + "\nFRIENDLYNAME \"n\"\n"
	}
	const id = "cardfs:/mnt/cards/by-id/sim-x-slot0"
	const again = "\n> cardfs reader-conf --mount /mnt/cards | sudo tee " + at + " >/dev/null"
	for _, c := range []struct{ text, want string }{
		{"", "ok /etc/reader.conf.d has nothing that pcscd refuses; readers of cardfs in it: 0"},
		{entry(id, library), "ok /etc/reader.conf.d has nothing that pcscd refuses; readers of cardfs in it: 1"},
		{entry("cardfs:slots=2:/mnt/cards/by-id/sim-x-slot0", library), "ok /etc/reader.conf.d has nothing that pcscd refuses; readers of cardfs in it: 1"},
		{entry("cardfs:/mnt/cards/2", library), "ok /etc/reader.conf.d has nothing that pcscd refuses; readers of cardfs in it: 1"},
		// LIBPATH
		{entry(id, "/x/libifdcardfs.so"), "wrong " + at + ":3: pcscd ends when it reads LIBPATH /x/libifdcardfs.so: there is no such library\n> sudo sed -i '3cLIBPATH      " + library + "' " + at},
		{entry(id, "../libifdcardfs.so"), "wrong " + at + ":3: pcscd ends when it reads LIBPATH ../libifdcardfs.so: there is no such library\n> sudo sed -i '3cLIBPATH      " + library + "' " + at},
		{entry(id, `"`+library+`"`), "wrong " + at + ":3: pcscd takes no quotes around LIBPATH\n> sudo sed -i '3cLIBPATH      " + library + "' " + at},
		{entry("/dev/ttyS0", "/none.so"), "wrong " + at + ":3: pcscd ends when it reads LIBPATH /none.so: there is no such library\n> sudo sed -i '1,4s/^/#/' " + at},
		{entry(id, drops+"ifd-cardfs.bundle/Contents/Linux/libifdcardfs.so"), "warn " + at + ":3: pcscd warns of a library in a bundle, and numbers its readers together with the bundle's own\n> sudo sed -i '3cLIBPATH      " + library + "' " + at},
		// DEVICENAME
		{"LIBPATH " + library + "\nFRIENDLYNAME \"n\"\n", "wrong " + at + ":1: pcscd leaves out what has not all of FRIENDLYNAME, LIBPATH and DEVICENAME" + again},
		{"LIBPATH " + library + "\nFRIENDLYNAME \"n\"\nCHANNELID 0x2\n", "ok /etc/reader.conf.d has nothing that pcscd refuses; readers of cardfs in it: 1"},
		{"LIBPATH " + library + "\nFRIENDLYNAME \"n\"\nCHANNELID 0x12\n", "warn " + at + ":3: /mnt/cards/18 is not there: it is unplugged, or has another name now (ls /mnt/cards/by-id)" + again},
		{entry("cardfs:cards/by-id/sim-x-slot0", library), "wrong " + at + ":2: the path in DEVICENAME cardfs:cards/by-id/sim-x-slot0 is not absolute\n> sudo sed -i '2cDEVICENAME   " + id + "' " + at},
		{entry("cardfs:0", library), "wrong " + at + ":2: the path in DEVICENAME cardfs:0 is not absolute\n> sudo sed -i '2cDEVICENAME   cardfs:/mnt/cards/0' " + at},
		{entry(`"`+id+`"`, library), "wrong " + at + ":2: pcscd takes no quotes around DEVICENAME\n> sudo sed -i '2cDEVICENAME   " + id + "' " + at},
		{entry("/mnt/cards/0", library), "wrong " + at + ":2: DEVICENAME /mnt/cards/0 needs cardfs: in front\n> sudo sed -i '2cDEVICENAME   cardfs:/mnt/cards/0' " + at},
		{entry("cardfs:/mnt/cards/by-id/a+b", library), "wrong " + at + ":2: pcscd takes only letters, digits and = \\ / - . _ @ : in DEVICENAME" + again},
		{"LIBPATH " + library + "\nFRIENDLYNAME \"n\"\nCHANNELID 1\nDEVICENAME " + id + "\n", "wrong " + at + ":4: pcscd does not see DEVICENAME behind all of CHANNELID, LIBPATH and FRIENDLYNAME, and takes /mnt/cards/1 instead\n" +
			"> sudo sed -i -e '1iDEVICENAME   " + id + "' -e 4d " + at},
		{"LIBPATH " + library + "\nFRIENDLYNAME \"n\"\nDEVICENAME " + id + "\nCHANNELID 1\n", "ok /etc/reader.conf.d has nothing that pcscd refuses; readers of cardfs in it: 1"},
		{"LIBPATH " + library + "\nDEVICENAME " + id + "\nFRIENDLYNAME \"n\"\n", "ok /etc/reader.conf.d has nothing that pcscd refuses; readers of cardfs in it: 1"},
		{entry("cardfs:/srv/c/0", library), "warn " + at + ":2: no cardfs is mounted at /srv/c; until it is, pcscd lists a reader without a card\n" +
			"> sudo mkdir -p /srv/c && sudo cardfs mount --background --allow-other /srv/c"},
		{entry("cardfs:/mnt/cards/by-id/gone", library), "warn " + at + ":2: /mnt/cards/by-id/gone is not there: it is unplugged, or has another name now (ls /mnt/cards/by-id)" + again},
		{entry("cardfs:/mnt/cards/by-id/gone", library) + entry("/dev/ttyS0", library), "warn " + at + ":2: /mnt/cards/by-id/gone is not there: it is unplugged, or has another name now (ls /mnt/cards/by-id)" +
			"\n" + "wrong " + at + ":6: DEVICENAME /dev/ttyS0 needs cardfs: in front\n> sudo sed -i '6cDEVICENAME   cardfs:/dev/ttyS0' " + at},
		{entry("cardfs:/mnt/cards/by-id/usb-x-slot0", library), "wrong " + at + ":2: pcscd finds usb-x-slot0 by the bundle as well, and lists it twice\n> sudo sed -i '1,4s/^/#/' " + at},
		{entry("cardfs:/mnt/cards/1", library), "wrong " + at + ":2: pcscd finds 1 by the bundle as well, and lists it twice\n> sudo sed -i '1,4s/^/#/' " + at},
		{entry("cardfs:/mnt/cards/by-id/usb-y-slot0", library), "ok /etc/reader.conf.d has nothing that pcscd refuses; readers of cardfs in it: 1"},
		{entry(id, library) + "\n" + entry(id, library), "wrong " + at + ":7 names the reader of " + at + ":2 once more: pcscd lists it twice\n> sudo sed -i '6,9s/^/#/' " + at},
		// Both lines of one entry.
		{entry("/mnt/cards/0", "/x/libifdcardfs.so"), "wrong " + at + ":3: pcscd ends when it reads LIBPATH /x/libifdcardfs.so: there is no such library\n> sudo sed -i '3cLIBPATH      " + library + "' " + at + "\n" +
			"wrong " + at + ":2: DEVICENAME /mnt/cards/0 needs cardfs: in front\n> sudo sed -i '2cDEVICENAME   cardfs:/mnt/cards/0' " + at},
	} {
		w := confWorld(t)
		w.file(at, c.text)
		w.finds("reader-conf", strings.Replace(c.want, "gone is not there: it is unplugged, or has another name now (ls /mnt/cards/by-id)\nwrong", "gone is not there: it is unplugged, or has another name now (ls /mnt/cards/by-id)"+again+"\nwrong", 1))
	}
}

// pcscd ignores files that begin with a dot. A file that also has entries of others is not
// generated anew.
func TestReaderConfFiles(t *testing.T) {
	w := confWorld(t)
	w.file("/etc/reader.conf.d/.hidden", "LIBPATH /none.so\nFRIENDLYNAME \"x\"\nCHANNELID 1\n")
	w.finds("reader-conf", "ok /etc/reader.conf.d has nothing that pcscd refuses; readers of cardfs in it: 0")
	w.file("/etc/reader.conf.d/f", "LIBPATH /bin/other.so\nFRIENDLYNAME \"x\"\nCHANNELID 1\nDEVICENAME cardfs:/mnt/cards/by-id/gone\nLIBPATH "+library+"\nFRIENDLYNAME \"y\"\n")
	w.file("/bin/other.so", "")
	w.finds("reader-conf", "warn /etc/reader.conf.d/f:4: /mnt/cards/by-id/gone is not there: it is unplugged, or has another name now (ls /mnt/cards/by-id)\n> sudo sed -i '4,6s/^/#/' /etc/reader.conf.d/f")
	w.systemd("pcscd.service", "LoadState=loaded")
	w.process(50, "pcscd")
	w.finds("reader-conf", "warn /etc/reader.conf.d/f:4: /mnt/cards/by-id/gone is not there: it is unplugged, or has another name now (ls /mnt/cards/by-id)\n> sudo sed -i '4,6s/^/#/' /etc/reader.conf.d/f && sudo systemctl try-restart pcscd.service")
}
