package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A PIN is nowhere in the daemon's memory once its command was answered: neither its bytes
// nor their hex, whichever way it came. The card is here, in another process.
//
// What is promised is that the program leaves no copy: not in the buffers that a command
// goes through, not in those that these outgrew, not on the stack of a goroutine, nor on one
// that it outgrew. Not promised is what the kernel saves where a signal interrupts a thread:
// its vector registers, in which up to 256 bytes of what was moved last stay until something
// else is moved (amd64: the XSAVE area of the frame on the thread's signal stack; Go's
// asyncPreempt copies it once more). No program can wipe that, as the next signal writes it
// anew; only Go's experiment runtimesecret can. Go sends such signals to threads that run for
// 10 ms and when it collects garbage. So this test has it do without.
func TestMemoryHasNoPIN(t *testing.T) {
	t.Setenv("GODEBUG", "asyncpreemptoff=1")
	mnt, daemon := service(t, "--usb=off")
	slot, socket := filepath.Join(mnt, "0"), filepath.Join(t.TempDir(), "card.sock")
	if out, err := exec.Command("cardfs", "attach", "--mount", mnt, "vpcd", "unix:"+socket).CombinedOutput(); err != nil || string(out) != "0\n" {
		t.Fatalf("attach: %v, %s", err, out)
	}
	card, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	go playCard(card)

	open := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(slot, name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	// A PIN is made here, so that the daemon's program text does not have it.
	makePIN := func(number int) []byte {
		pin := []byte{0x27, 0xB1, 'P', 'i', 'n', '0' + byte(number)}
		for i := range 10 {
			pin = append(pin, byte(0xC3+7*i+number))
		}
		return pin
	}
	verify := func(data []byte) []byte {
		if len(data) > 255 {
			return append([]byte{0, 0x20, 0, 1, 0, byte(len(data) >> 8), byte(len(data))}, data...)
		}
		return append([]byte{0, 0x20, 0, 1, byte(len(data))}, data...)
	}
	structure := func(template []byte) []byte { // FEATURE_VERIFY_PIN_DIRECT, which this reader does not have
		b, _ := hex.DecodeString("42330006" + "1E00820400080402FF070400000000")
		b = binary.LittleEndian.AppendUint32(b, uint32(len(template)))
		return append(b, template...)
	}
	ctbcs := func(pin []byte) []byte {
		return append([]byte{0x20, 0x18, 1, 0, byte(2 + 7 + len(pin)), 0x52, byte(7 + len(pin)), 1, 6, 0, 0x20, 0, 1, byte(len(pin))}, pin...)
	}
	readAnswer := func(f *os.File) {
		if _, err := f.Read(make([]byte, 1<<17)); err == io.EOF {
			t.Errorf("%s: no answer", f.Name())
		}
	}
	ways := map[string]func(f *os.File, command []byte){
		"text": func(f *os.File, c []byte) {
			if _, err := fmt.Fprintf(f, "%X\n", c); err != nil {
				t.Errorf("%s: %v", f.Name(), err)
			}
			readAnswer(f)
		},
		"text with blanks and a comment": func(f *os.File, c []byte) {
			fmt.Fprintf(f, "%s# a comment, longer than what is before it, %s\n", strings.ToLower(fmt.Sprintf("% X", c)), strings.Repeat("x", 2000))
			readAnswer(f)
		},
		"text in pieces, without a newline": func(f *os.File, c []byte) {
			line := fmt.Sprintf("%X", c)
			for len(line) > 0 {
				n := min(len(line), 1+len(line)/2)
				fmt.Fprint(f, line[:n])
				line = line[n:]
			}
			readAnswer(f)
		},
		"text that is refused": func(f *os.File, c []byte) {
			for _, bad := range []string{"%X0\n", "00A40000\n%Xzz\n", "%X\nzz", "%Xz", "zz%X"} {
				if _, err := fmt.Fprintf(f, bad, c); err == nil {
					t.Errorf("%s: %q is taken", f.Name(), bad)
				}
			}
		},
		"binary": func(f *os.File, c []byte) {
			if err := ioctl(f, 0xCF<<8|2, nil); err != 0 {
				t.Errorf("CARDFS_BINARY: %v", err)
			}
			f.Write(c)
			readAnswer(f)
		},
		"ioctl": func(f *os.File, c []byte) {
			if len(c)+4 > 16383 {
				return
			}
			room := make([]byte, 4, 8192+len(c))
			binary.NativeEndian.PutUint32(room, uint32(len(c)))
			room = append(room, c...)[:min(cap(room), 16383)]
			ioctl(f, 3<<30|uint(len(room))<<16|0xCF<<8|1, room)
		},
	}
	// leftBy sends a command with a PIN in one of the ways, and says where the PIN is left.
	leftBy := func(file, name string, command, pin []byte) (left string) {
		f := open(file)
		defer f.Close()
		ways[name](f, command)
		for _, state := range []string{"open", "closed"} {
			// The server wipes what it has when it has answered.
			where := findInMemory(t, daemon.Pid, pin[2:])
			for end := time.Now().Add(waitLimit); len(where) > 0 && time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond)
				where = findInMemory(t, daemon.Pid, pin[2:])
			}
			if len(where) > 0 {
				return fmt.Sprintf("%s: %s", state, where)
			}
			f.Close()
		}
		return ""
	}
	pins := 0
	for _, x := range []struct {
		file    string
		command func(pin []byte) []byte
	}{
		{"apdu", verify},
		{"apdu", func(pin []byte) []byte { return verify(bytes.Repeat(pin, 250)) }},  // more than a page
		{"apdu", func(pin []byte) []byte { return verify(bytes.Repeat(pin, 4000)) }}, // more than an ioctl
		{"control", func(pin []byte) []byte { return structure(verify(pin)) }},
		{"ctbcs", ctbcs},
	} {
		for name := range ways {
			if name == "text that is refused" && x.file != "apdu" {
				continue
			}
			pins++
			pin := makePIN(pins)
			if left := leftBy(x.file, name, x.command(pin), pin); left != "" {
				t.Errorf("%s, command of %d bytes, %s: the PIN is left, %s", x.file, len(x.command(pin)), name, left)
			}
		}
	}
	// Make sure that a PIN in memory would be found.
	const kept = "KeptOnPurpose"
	if err := os.WriteFile(filepath.Join(mnt, "ctl"), []byte("attach vpcd unix:/nonexistent/"+kept+"\n"), 0); err != nil {
		t.Fatal(err)
	}
	if len(findInMemory(t, daemon.Pid, []byte(kept))) == 0 {
		t.Error("nothing is found, not even what is there")
	}
}

func ioctl(f *os.File, request uint, p []byte) syscall.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(unsafe.Pointer(unsafe.SliceData(p))))
	return errno
}

// playCard speaks vpcd's protocol and answers every command with 63 C2.
func playCard(c net.Conn) {
	var head [2]byte
	for {
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return
		}
		message := make([]byte, binary.BigEndian.Uint16(head[:]))
		if _, err := io.ReadFull(c, message); err != nil {
			return
		}
		answer := []byte{0x63, 0xC2}
		if len(message) == 1 {
			if message[0] != 4 { // power and reset
				continue
			}
			answer = []byte{0x3B, 0x80, 0x01, 0x81}
		}
		c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
	}
}

// findInMemory returns where a process has b, or its hex, in its writable memory.
func findInMemory(t *testing.T, pid int, b []byte) (where []string) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	pagemap, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer pagemap.Close()
	upper := []byte(fmt.Sprintf("%X", b))
	forms := map[string][]byte{
		"bytes": b, "hex": upper, "lower hex": bytes.ToLower(upper),
		"spaced hex": []byte(fmt.Sprintf("% X", b)), "spaced lower hex": []byte(fmt.Sprintf("% x", b)),
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n != 3 || !strings.HasPrefix(mode, "rw") {
			continue
		}
		for region := range present(t, pagemap, from, to) {
			b := make([]byte, region.to-region.from)
			n, _ := mem.ReadAt(b, int64(region.from))
			for name, form := range forms {
				if at := bytes.Index(b[:n], form); at >= 0 {
					around := b[max(0, at-140):at]
					where = append(where, fmt.Sprintf("%x (%s, %d times, after % X)", region.from+uint64(at), name, bytes.Count(b[:n], form), around))
				}
			}
		}
	}
	return where
}

type addresses struct{ from, to uint64 }

// present gives the pages from from to to that hold anything: the race detector's memory is
// large and mostly holds nothing (Documentation/admin-guide/mm/pagemap.rst: bit 63 says that
// a page is present, bit 62 that it is swapped out).
func present(t *testing.T, pagemap *os.File, from, to uint64) iter.Seq[addresses] {
	const page, entries = 4096, 1 << 16
	return func(yield func(addresses) bool) {
		t.Helper()
		buf := make([]byte, 8*entries)
		run := addresses{from, from}
		for at := from; at < to; {
			n, err := pagemap.ReadAt(buf[:min(uint64(len(buf)), (to-at)/page*8)], int64(at/page*8))
			if err != nil && err != io.EOF || n < 8 {
				t.Fatalf("pagemap: %d bytes, %v", n, err)
			}
			for e := buf[:n]; len(e) >= 8; e, at = e[8:], at+page {
				if binary.NativeEndian.Uint64(e)>>62 != 0 {
					run.to = at + page
					continue
				}
				if run.to > run.from && !yield(run) {
					return
				}
				run = addresses{at + page, at + page}
			}
		}
		if run.to > run.from {
			yield(run)
		}
	}
}
