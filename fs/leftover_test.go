package fs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// outside is memory outside of Go's heap and stacks.
func outside(t *testing.T, size int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(b) })
	return b
}

// leftOvers returns where this process's memory holds one of the forms, except in the memory
// given.
func leftOvers(t *testing.T, forms [][]byte, window []byte, except ...[]byte) (where []string) {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	mine := func(at uint64) bool {
		for _, b := range append(except, window) {
			if from := uint64(uintptr(unsafe.Pointer(&b[0]))); at >= from && at < from+uint64(len(b)) {
				return true
			}
		}
		return false
	}
	const overlap = 256 // longer than any form
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n != 3 || !strings.HasPrefix(mode, "rw") || to-from > 1<<30 {
			continue
		}
		for ; from < to; from += uint64(len(window) - overlap) {
			n, _ := mem.ReadAt(window[:min(uint64(len(window)), to-from)], int64(from))
			for _, form := range forms {
				for at, i := 0, 0; i >= 0; at += i + 1 {
					if i = bytes.Index(window[at:n], form); i >= 0 && !mine(from+uint64(at+i)) {
						where = append(where, fmt.Sprintf("%x (%d bytes, after %.16q)", from+uint64(at+i), len(form), window[max(0, at+i-16):at+i]))
					}
				}
			}
		}
	}
	clear(window)
	return where
}

// onStacks runs f on n new goroutines, one after the other, each one frame deeper. A stack
// begins small, so it grows at every possible place in f. Growing copies a stack and leaves
// the old one as it was. The goroutines all live until done, so that none reuses another's
// stack.
func onStacks(n int, f func()) (done func()) {
	var started, ended sync.WaitGroup
	end, turns := make(chan struct{}), make([]chan struct{}, n)
	for i := range turns {
		turns[i] = make(chan struct{})
		started.Add(1)
		ended.Go(func() {
			started.Done()
			<-turns[i]
			descend(i, f)
			turns[i] <- struct{}{}
			<-end
		})
	}
	started.Wait()
	for _, turn := range turns {
		turn <- struct{}{}
		<-turn
	}
	return func() { close(end); ended.Wait() }
}

//go:noinline
func descend(depth int, f func()) {
	if depth == 0 {
		f()
		return
	}
	var frame [32]byte
	descend(depth-1, f)
	clear(frame[:])
}

// Commands that come in pieces, as text, leave nothing behind: neither on an outgrown stack,
// wherever it grew, nor in an outgrown array.
func TestLinesLeaveNothing(t *testing.T) {
	// Go preempts by signals. At a signal the kernel saves the registers on the thread's signal
	// stack, and they hold the bytes that were moved last.
	const quiet = "GODEBUG=asyncpreemptoff=1"
	if !slices.Contains(os.Environ(), quiet) {
		again := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		again.Env = append(os.Environ(), quiet)
		if out, err := again.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	hidden := outside(t, 4096)
	secret := hidden[:0:1024]
	for i := range 150 {
		secret = fmt.Appendf(secret, "%02X", byte(0x27+7*i+i/16))
	}
	decoded, err := parseHex(hidden[2048:2048:4096], secret)
	if err != nil {
		t.Fatal(err)
	}
	pieces := func() {
		c := &channel{to: &fakeCard{}}
		// An odd number of digits, few enough for a buffer on the stack, causes an error.
		// Making the error takes more stack.
		for data, n := secret, 61; len(data) > 0; n = 1 + len(data)/2 {
			_, rest, joined, err := c.parse(data[:n])
			if err != nil {
				t.Error(err)
			}
			c.setLine(rest, joined)
			data = data[n:]
		}
		command, err := c.parseLine(c.line)
		if err != nil || !bytes.Equal(command.data, decoded) {
			t.Errorf("%d bytes, %v", len(command.data), err)
		}
		clear(command.data)
		c.setLine(nil, nil)
	}
	// Refused because of a wrong digit, in this line or another, or an odd number of digits.
	refused := func() {
		c := &channel{to: &fakeCard{}}
		for _, tail := range []string{"\nzz", "z", "0\n"} {
			data := append(hidden[1024:1024:2048], secret...)
			commands, _, joined, err := c.parse(append(data, tail...))
			if err == nil {
				t.Errorf("%q is taken", tail)
			}
			c.setLine(nil, joined)
			wipe(commands)
		}
	}
	done := onStacks(400, func() { pieces(); refused() })
	defer done()
	var forms [][]byte
	for _, from := range []int{0, 20, 31, 90, 120, 139} {
		forms = append(forms, decoded[from+1:from+10], secret[2*from+1:2*from+20])
	}
	if where := leftOvers(t, forms, outside(t, 1<<20), hidden); len(where) > 0 {
		t.Errorf("left at %s", where)
	}
}

// seeing keeps the commands that it is asked about: the slices, not copies.
type seeing struct {
	fakeCard
	seen [][]byte
}

func (s *seeing) check(command []byte) (int, error) {
	s.seen = append(s.seen, command)
	return s.fakeCard.check(command)
}

// A refused write leaves none of its commands in memory: neither those before the bad one nor
// those after the sixty-fourth.
func TestRefusedCommandsAreWiped(t *testing.T) {
	for name, line := range map[string]string{"too many": "", "a bad one behind": "FF000000\n", "no hex behind": "zz\n"} {
		card := &seeing{}
		c := open(t, &card.fakeCard, syscall.O_RDWR)
		c.to = card
		text := strings.Repeat("00A4000002 3F00\n", 3*maxAnswers) + line
		if _, errno := c.channel.Write(t.Context(), []byte(text), 0); errno == 0 {
			t.Errorf("%s: taken", name)
		}
		if len(card.seen) < 3*maxAnswers {
			t.Errorf("%s: %d commands are looked at", name, len(card.seen))
		}
		for i, b := range card.seen {
			if !bytes.Equal(b, make([]byte, len(b))) {
				t.Fatalf("%s: command %d is left", name, i+1)
			}
		}
	}
}

// While its command waits, a line's blanks and comments take no memory. The memory that they
// took before is wiped.
func TestFitted(t *testing.T) {
	for _, tt := range []struct{ length, room, most int }{{4, 1000, 72}, {4, 72, 72}, {4, 73, 72}, {100, 264, 264}, {100, 265, 264}} {
		b := append(make([]byte, 0, tt.room), bytes.Repeat([]byte{7}, tt.length)...)
		got := fitted(b, 64)
		if !bytes.Equal(got, bytes.Repeat([]byte{7}, tt.length)) || cap(got) > tt.most {
			t.Errorf("%d of %d bytes: %d of %d", tt.length, tt.room, len(got), cap(got))
		}
		if moved := &got[0] != &b[0]; moved != (tt.room > tt.most) || moved && !bytes.Equal(b, make([]byte, len(b))) {
			t.Errorf("%d of %d bytes: moved %v, % X is left", tt.length, tt.room, moved, b)
		}
	}
}
