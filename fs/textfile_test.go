package fs

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/hanwen/go-fuse/v2/fuse"
)

func (t *textFile) text(size int, off int64) (string, syscall.Errno) {
	r, errno := t.Read(bg, make([]byte, size), off)
	if errno != 0 {
		return "", errno
	}
	p, _ := r.Bytes(nil)
	return string(p), 0
}

// "After a write that failed the same open reads `error REASON`." When a line fails after
// others were done, write(2) returns the length of those, and writing the rest gives the
// error.
func TestTextFileWrites(t *testing.T) {
	d := newDesk(t, "t1")
	for _, tt := range []struct {
		write string
		n     uint32
		errno syscall.Errno
		reads string // how it begins
	}{
		{"on", 2, 0, "on\n"},
		{"off\n", 4, 0, "off\n"},
		{"  on  \n", 7, 0, "on\n"},
		{"", 0, 0, "off\n"},
		{"\n\n", 2, 0, "off\n"},
		{"# nothing\n", 10, 0, "off\n"},
		{"on\n# comment\n\noff\non\n", 21, 0, "on\n"},
		{"nosuch\n", 0, syscall.EINVAL, `error power: the words are on, off, `},
		{"nosuch", 0, syscall.EINVAL, `error power: the words are on, off, `},
		{"on\nnosuch\noff\n", 3, 0, `error power: the words are on, off, `},
		{"\nnosuch\noff\n", 1, 0, `error power: the words are on, off, `},
		{"on\neject\n", 3, 0, "error eject: not supported"},
		{"eject\n", 0, syscall.EOPNOTSUPP, "error eject: not supported"},
	} {
		other := d.mustOpen(as(1000, self), "power", syscall.O_RDWR).(*textFile)
		if _, errno := other.Write(bg, []byte("off"), 0); errno != 0 {
			t.Fatal(errno)
		}
		h := d.mustOpen(as(1000, self), "power", syscall.O_RDWR).(*textFile)
		n, errno := h.Write(bg, []byte(tt.write), 0)
		if n != tt.n || errno != tt.errno {
			t.Errorf("%q: %d, %v; want %d, %v", tt.write, n, errno, tt.n, tt.errno)
		}
		got, errno := h.text(100, 0)
		if errno != 0 || !strings.HasPrefix(got, tt.reads) || strings.Count(got, "\n") != 1 && len(got) < 100 {
			t.Errorf("%q, then read: %q, %v; want %q", tt.write, got, errno, tt.reads)
		}
		// In pieces, the same.
		pieces := ""
		for {
			s, errno := h.text(3, int64(len(pieces)))
			if s == "" || errno != 0 {
				break
			}
			pieces += s
		}
		if !strings.HasPrefix(pieces, got) {
			t.Errorf("%q: in pieces %q, at once %q", tt.write, pieces, got)
		}
		// A successful write clears the error, and no other open sees it.
		if s, _ := other.text(100, 0); strings.Contains(s, "error") {
			t.Errorf("%q: another open reads %q", tt.write, s)
		}
		h.Write(bg, []byte("off\n"), 0)
		if s, _ := h.text(100, 0); s != "off\n" {
			t.Errorf("%q, then off: %q", tt.write, s)
		}
	}
	h := d.mustOpen(as(1000, self), "power", syscall.O_RDWR).(*textFile)
	if err := d.m.Detach(0); err != nil {
		t.Fatal(err)
	}
	if _, errno := h.Write(bg, []byte("on\n"), 0); errno != syscall.ENODEV {
		t.Errorf("write, after the reader left: %v", errno)
	}
	if _, errno := h.text(100, 0); errno != syscall.ENODEV {
		t.Errorf("read, after the reader left: %v", errno)
	}
}

// "No byte of a command or an answer is in status, an error or the log", even if a command was
// written to the wrong file. The error that an open keeps is bounded, however long the line
// was.
func TestReasonsShowNoCommand(t *testing.T) {
	d := newDesk(t, "t1")
	ctl := &file{mount: d.mnt, spec: &specCtl}
	open := map[string]func() *textFile{
		"power":    func() *textFile { return d.mustOpen(as(1000, self), "power", syscall.O_RDWR).(*textFile) },
		"protocol": func() *textFile { return d.mustOpen(as(1000, self), "protocol", syscall.O_RDWR).(*textFile) },
		"ctl": func() *textFile {
			h, err := openCtl(bg, ctl, syscall.O_RDWR)
			if err != nil {
				t.Fatal(err)
			}
			return h.(*textFile)
		},
	}
	const command = "0020000108DEC0DE42FFFFFFFF"
	for name, open := range open {
		for _, line := range []string{
			command, strings.ToLower(command), "00 20 00 01 08 DE C0 DE 42 FF FF FF FF", "on " + command,
			"attach " + command + " x", "attach sim " + command, "attach sim t1 " + command, "attach sim t1 card=" + command,
			"attach sim t1 " + command + "=x", "detach " + command, "abort " + command, "sim 0 " + command, "sim " + command + " plug",
			strings.Repeat("x", maxReason), strings.Repeat("ä", 100000), "attach sim t1 x=" + strings.Repeat("\x01", 100000),
		} {
			h := open()
			if _, errno := h.Write(bg, []byte(line+"\n"), 0); errno != syscall.EINVAL {
				t.Errorf("%s, %.40q: %v", name, line, errno)
			}
			got, errno := h.text(1<<17, 0)
			if errno != 0 || !strings.HasPrefix(got, "error "+name) && name != "ctl" || !strings.HasPrefix(got, "error ") || !strings.HasSuffix(got, "\n") {
				t.Errorf("%s, %.40q: reads %.80q, %v", name, line, got, errno)
			}
			if len(got) > maxReason+20 || !utf8.ValidString(got) {
				t.Errorf("%s, %.40q: reads %d bytes, %.80q", name, line, len(got), got)
			}
			for _, part := range []string{"DEC0DE", "DE C0"} {
				if strings.Contains(strings.ToUpper(got), part) {
					t.Errorf("%s, %q: reads %q", name, line, got)
				}
			}
			h.Release(bg)
		}
	}
	// Names are kept in the error.
	h := open["ctl"]()
	h.Write(bg, []byte("attach nosuch 127.0.0.1:35963\n"), 0)
	if got, _ := h.text(1000, 0); !strings.Contains(got, `no driver "nosuch"; there are `) {
		t.Errorf("ctl reads %q", got)
	}
}

// "A write to `protocol`": the words that it takes, and what the file then reads.
func TestProtocolFile(t *testing.T) {
	d := newDesk(t, "t1")
	h := d.mustOpen(as(1000, self), "protocol", syscall.O_RDWR).(*textFile)
	if s, errno := h.text(100, 0); s != "" || errno != 0 {
		t.Errorf("without power: %q, %v", s, errno)
	}
	d.mustOpen(as(1000, self), "atr", syscall.O_RDONLY)
	if s, errno := h.text(100, 0); !strings.HasPrefix(s, "T=1") || errno != 0 {
		t.Errorf("powered: %q, %v", s, errno)
	}
	for word, want := range map[string]syscall.Errno{"T=1": 0, "T=0": syscall.EOPNOTSUPP, "T=2": syscall.EINVAL, "t=1": syscall.EINVAL, "1": syscall.EINVAL} {
		if _, errno := h.Write(bg, []byte(word), 0); errno != want {
			t.Errorf("%s: %v, want %v", word, errno, want)
		}
	}
}

// "When a reader leaves, its path is gone at once": in a directory that somebody still sits
// in, every name says ENODEV.
func TestDirectoryOfReaderThatLeft(t *testing.T) {
	d := newDesk(t, "t1")
	dir := &slotDir{mount: d.mnt, slot: d.m.Slot(0)}
	var out fuse.EntryOut
	for _, name := range []string{"nosuch", "", "ATR", "memory", "."} {
		if _, errno := dir.Lookup(bg, name, &out); errno != syscall.ENOENT {
			t.Errorf("lookup of %q: %v", name, errno)
		}
	}
	list, errno := dir.Readdir(bg)
	if errno != 0 || !list.HasNext() {
		t.Errorf("readdir: %v", errno)
	}
	names := map[string]uint64{}
	for list.HasNext() {
		e, _ := list.Next()
		names[e.Name] = e.Ino
	}
	for i := range slotFiles {
		if s := &slotFiles[i]; s.fits(dir.slot) != (names[s.name] != 0) || names[s.name] != 0 && names[s.name] != dir.ino(i) {
			t.Errorf("%s: inode %d", s.name, names[s.name])
		}
	}
	if err := d.m.Detach(0); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"atr", "apdu", "status", "nosuch"} {
		if _, errno := dir.Lookup(bg, name, &out); errno != syscall.ENODEV {
			t.Errorf("lookup of %q, after the reader left: %v", name, errno)
		}
	}
	if _, errno := dir.Readdir(bg); errno != syscall.ENODEV {
		t.Errorf("readdir, after the reader left: %v", errno)
	}
	f := &file{mount: d.mnt, slot: dir.slot, spec: &slotFiles[0]}
	if _, _, errno := f.Open(as(1000, self), syscall.O_RDONLY); errno != syscall.ENODEV {
		t.Errorf("open, after the reader left: %v", errno)
	}
}

// "An ioctl says EINTR only while its command was not yet sent; from then on it returns the
// answer": of `control`, whose reader waits for keys.
func TestControlIsNotInterruptedOnceSent(t *testing.T) {
	d := newDesk(t, "pinpad")
	d.mustOpen(as(1000, self), "atr", syscall.O_RDONLY).(*textFile).Release(bg)
	h := d.mustOpen(as(1000, self), "control", syscall.O_RDWR).(*controlFile)
	const verify = "42330006 1E 00 82 08 00 0804 02 FF 0904 00 000000 0D000000 0020000108 FFFFFFFFFFFFFFFF"
	in, out := ioctlBuffers(verify, 100)
	ctx, cancel := context.WithCancel(bg)
	type result struct {
		n     int32
		errno syscall.Errno
	}
	trace := d.m.Slot(0).FollowTrace()
	defer d.m.Slot(0).CloseTrace(trace)
	done := make(chan result)
	go func() {
		n, errno := h.Ioctl(ctx, exchangeRequest(100), 0, in, out)
		done <- result{n, errno}
	}()
	// A command to the reader is traced once it can no longer be interrupted.
	if line, _, err := trace.Next(bg); err != nil || !strings.Contains(line, "> PIN pad: 00 20 00 01") {
		t.Errorf("trace: %q, %v", line, err)
	}
	cancel()
	// Another command that waits behind it is interrupted at once.
	in2, out2 := ioctlBuffers(verify, 100)
	if _, errno := h.Ioctl(ctx, exchangeRequest(100), 0, in2, out2); errno != syscall.EINTR {
		t.Errorf("an ioctl that waits: %v", errno)
	}
	if err := Ctl(d.m, "sim 0 keys 1234"); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.errno != 0 || r.n != 2 || out[4] != 0x90 {
		t.Errorf("%d, %v, % X", r.n, r.errno, out[:8])
	}
	h.Release(bg)
	d.wantEmpty()
}
