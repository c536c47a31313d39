package top

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gdamore/tcell/v2"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/survey"
)

// fakeMount is a mount without files.
type fakeMount struct {
	mu     sync.Mutex
	slots  map[int]survey.Slot
	looks  [][]int // nil: all
	err    error   // of a look
	events chan happened
	ended  error
	wrote  []string
	traces map[int]func() (io.ReadCloser, error)
}

func newFakeMount(slots ...survey.Slot) *fakeMount {
	f := &fakeMount{slots: make(map[int]survey.Slot), events: make(chan happened), ended: errors.New("the mount ended")}
	for _, s := range slots {
		f.slots[s.Number] = s
	}
	return f
}

func (f *fakeMount) look(numbers []int, all bool) (list []survey.Slot, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks = append(f.looks, numbers)
	for n, s := range f.slots {
		if all || slices.Contains(numbers, n) {
			list = append(list, s)
		}
	}
	return list, f.err
}

func (f *fakeMount) follow(show func(slot int, left, lost bool)) error {
	for e := range f.events {
		show(e.slot, e.left, e.lost)
	}
	return f.ended
}

func (f *fakeMount) power(slot int, word string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrote = append(f.wrote, fmt.Sprint(slot, " ", word))
	if slot == 13 {
		panic("out of luck")
	}
	return nil
}

func (f *fakeMount) trace(slot int) (io.ReadCloser, error) { return f.traces[slot]() }

func (f *fakeMount) explain(err error) error { return fmt.Errorf("explained: %w", err) }

func (f *fakeMount) looked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.looks)
}

func (f *fakeMount) set(s survey.Slot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slots[s.Number] = s
}

// fakeTerminal keeps the last screen as text.
type fakeTerminal struct {
	in     chan any
	mu     sync.Mutex
	text   string
	draws  int
	syncs  int
	closed bool
}

func (t *fakeTerminal) keys() <-chan any { return t.in }
func (t *fakeTerminal) ascii() bool      { return false }
func (t *fakeTerminal) suspend() error   { return errors.New("no shell") }
func (t *fakeTerminal) close()           { t.closed = true }

func (t *fakeTerminal) sync() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.syncs++
}

// shown returns the last screen, and how often a screen was drawn and redrawn from scratch.
func (t *fakeTerminal) shown() (text string, draws, syncs int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text, t.draws, t.syncs
}

func (t *fakeTerminal) draw(lines []line) {
	var out strings.Builder
	for _, l := range lines {
		for _, p := range l.pieces {
			out.WriteString(p.fit(false))
		}
		out.WriteString("\n")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draws++
	t.text = out.String()
}

// scene runs a loop in a bubble: its time is the test's.
type scene struct {
	t      *testing.T
	files  *fakeMount
	screen *fakeTerminal
	cancel context.CancelFunc
	ended  chan error
	crash  chan any
}

func run(t *testing.T, files *fakeMount, do func(s *scene)) {
	synctest.Test(t, func(t *testing.T) {
		files.events = make(chan happened)
		s := &scene{t: t, files: files, screen: &fakeTerminal{in: make(chan any)}, ended: make(chan error, 1), crash: make(chan any, 1)}
		ctx, cancel := context.WithCancel(t.Context())
		s.cancel = cancel
		defer cancel()
		l := newLoop(files, s.screen, Options{Mount: &client.Mount{Dir: "/mnt/cards"}, Interval: time.Second, Name: func(string) string { return "" }})
		go func() {
			defer func() { s.crash <- recover() }()
			s.ended <- l.run(ctx)
		}()
		do(s)
		cancel()
		close(files.events)
		synctest.Wait()
	})
}

func (s *scene) keys(keys ...any) {
	s.t.Helper()
	for _, k := range keys {
		select {
		case s.screen.in <- k:
		case <-time.After(time.Minute):
			s.t.Fatalf("nobody takes %v", k)
		}
	}
	time.Sleep(2 * redraw)
}

func (s *scene) shows(want string) {
	s.t.Helper()
	synctest.Wait()
	if text, _, _ := s.screen.shown(); !strings.Contains(text, want) {
		s.t.Errorf("the screen does not show %q:\n%s", want, text)
	}
}

// result returns the result of the loop, which must have ended.
func (s *scene) result() error {
	s.t.Helper()
	select {
	case err := <-s.ended:
		return err
	case <-time.After(time.Minute):
		s.t.Fatal("it goes on")
		return nil
	}
}

// Events are shown at once, and not only at the next interval. Without events there is one look
// per interval.
func TestEvents(t *testing.T) {
	run(t, newFakeMount(slot(0, "state empty")), func(s *scene) {
		time.Sleep(200 * time.Millisecond)
		s.shows("    0 empty ")
		s.files.set(slot(0, "state powered", "atr 3B 01"))
		s.files.set(slot(1, "state present"))
		s.files.events <- happened{slot: 0}
		s.files.events <- happened{slot: 1}
		time.Sleep(soon + 2*redraw)
		s.shows("    0 powered ")
		s.shows("    1 present ")
		s.files.mu.Lock()
		if len(s.files.looks) != 2 || !slices.Equal(s.files.looks[1], []int{0, 1}) {
			t.Errorf("looks %v, want all and 0 1", s.files.looks)
		}
		delete(s.files.slots, 0)
		s.files.mu.Unlock()
		s.files.events <- happened{slot: 0, left: true}
		time.Sleep(redraw + time.Millisecond)
		if text, _, _ := s.screen.shown(); strings.Contains(text, "    0 powered") {
			t.Error("it is shown though it left")
		}
		s.files.mu.Lock()
		s.files.slots[5] = slot(5, "state failed")
		s.files.mu.Unlock()
		s.files.events <- happened{slot: 1, lost: true}
		time.Sleep(soon + 2*redraw)
		s.shows("    5 failed ")

		time.Sleep(time.Second)
		before := s.files.looked()
		_, drawn, _ := s.screen.shown()
		time.Sleep(10 * time.Second)
		if _, n, _ := s.screen.shown(); n-drawn > 10 {
			t.Errorf("%d drawings in ten intervals", n-drawn)
		}
		if n := s.files.looked() - before; n != 10 {
			t.Errorf("%d looks in ten intervals", n)
		}
	})
}

// A storm of events causes only a few looks and screens a second, however many events there
// are.
func TestStorm(t *testing.T) {
	run(t, newFakeMount(many(10)...), func(s *scene) {
		time.Sleep(200 * time.Millisecond)
		_, before, _ := s.screen.shown()
		looked := s.files.looked()
		for i := range 10_000 {
			s.files.events <- happened{slot: i % 10}
			time.Sleep(100 * time.Microsecond)
		}
		_, draws, _ := s.screen.shown()
		if n := s.files.looked() - looked; draws-before > 25 || n > 25 {
			t.Errorf("%d drawings and %d looks in a second", draws-before, n)
		}
	})
}

// The loop ends after a key, a signal, the end of the mount, a failed look, or a lost terminal.
func TestEnds(t *testing.T) {
	for name, end := range map[string]func(*scene){
		"q":          func(s *scene) { s.screen.in <- "q" },
		"ctrl-C":     func(s *scene) { s.screen.in <- "ctrl-c" },
		"a signal":   func(s *scene) { s.cancel() },
		"the screen": func(s *scene) { close(s.screen.in) },
	} {
		run(t, newFakeMount(many(3)...), func(s *scene) {
			time.Sleep(3 * time.Second)
			end(s)
			if err := s.result(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	run(t, newFakeMount(), func(s *scene) {
		s.files.mu.Lock()
		s.files.err = unix.ENOTCONN
		s.files.mu.Unlock()
		if err := s.result(); !errors.Is(err, unix.ENOTCONN) || !strings.Contains(err.Error(), "explained") {
			t.Errorf("the daemon is dead: %v", err)
		}
	})
	run(t, newFakeMount(), func(s *scene) {
		close(s.files.events)
		if err := s.result(); err == nil || !strings.Contains(err.Error(), "the mount ended") {
			t.Errorf("the mount's end: %v", err)
		}
		s.files.events = make(chan happened)
	})
	run(t, newFakeMount(), func(s *scene) {
		s.keys("ctrl-z")
		if err := s.result(); err == nil || err.Error() != "no shell" {
			t.Errorf("ctrl-Z: %v", err)
		}
	})
}

// A panic in another goroutine is raised again in the loop, whose caller restores the terminal.
func TestPanic(t *testing.T) {
	run(t, newFakeMount(slot(13, "state present")), func(s *scene) {
		time.Sleep(time.Second)
		s.keys("p")
		v := fmt.Sprint(<-s.crash)
		if !strings.Contains(v, "out of luck") || !strings.Contains(v, "power") {
			t.Errorf("panic %s", v)
		}
	})
}

func TestPower(t *testing.T) {
	run(t, newFakeMount(slot(0, "state powered"), slot(1, "state present")), func(s *scene) {
		time.Sleep(time.Second)
		s.keys("r", "n", "r", "y")
		s.shows("slot 0: reset done")
		s.keys("j", "p")
		s.shows("slot 1: power on done")
		s.files.mu.Lock()
		if want := []string{"0 reset", "1 on"}; !slices.Equal(s.files.wrote, want) {
			t.Errorf("%v, want %v", s.files.wrote, want)
		}
		s.files.mu.Unlock()
		s.keys(resize{40, 10}, "ctrl-l")
		if text, _, syncs := s.screen.shown(); strings.Count(text, "\n") != 10 || syncs != 2 {
			t.Errorf("%d syncs\n%s", syncs, text)
		}
	})
}

func (p pipe) Read(b []byte) (int, error) {
	n, err := p.PipeReader.Read(b)
	if err == io.ErrClosedPipe {
		err = os.ErrClosed
	}
	return n, err
}

func (p pipe) Close() error { close(p.closed); return p.PipeReader.Close() }

// full is a file on a full disk.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, unix.ENOSPC }

// Print shows the rates of the last interval, the requested number of times.
func TestPrint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeMount(slot(0, "state powered", "atr 3B 01", "protocol T=1", "exchanges=5"), slot(1, "state empty", "reader B"))
		go func() {
			time.Sleep(500 * time.Millisecond)
			f.set(slot(0, "state powered", "atr 3B 01", "protocol T=1", "exchanges=25", "exchange-us=20000", "errors=3"))
		}()
		o := Options{Mount: &client.Mount{Dir: "/mnt/cards"}, Interval: time.Second, Name: func(string) string { return "" }, Times: 2, Sort: "errors"}
		var out bytes.Buffer
		if err := printSlots(t.Context(), &out, f, o); err != nil {
			t.Fatal(err)
		}
		want := `cardfs  2 readers, 1 card, 1 powered  20 exch/s  by errors  /mnt/cards
N  STATE    READER  CARD      SESSIONS  EXCH/S  TIME   ERRORS
0  powered  Reader  T=1 3B01  0         20.0    1.0ms  3
1  empty    B       -         0         0       -      0

cardfs  2 readers, 1 card, 1 powered  0 exch/s  by errors  /mnt/cards
N  STATE    READER  CARD      SESSIONS  EXCH/S  TIME  ERRORS
0  powered  Reader  T=1 3B01  0         0       -     3
1  empty    B       -         0         0       -     0
`
		if got := out.String(); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}

		o.Times = 0
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second+time.Millisecond)
		defer cancel()
		out.Reset()
		if err := printSlots(ctx, &out, f, o); err != nil || strings.Count(out.String(), "N  STATE") != 10 {
			t.Errorf("%v\n%s", err, &out)
		}
		if err := printSlots(t.Context(), full{}, f, o); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("a full disk: %v", err)
		}
		f.err = unix.ENOTCONN
		if err := printSlots(t.Context(), &out, f, o); !errors.Is(err, unix.ENOTCONN) {
			t.Errorf("%v", err)
		}
	})
}

// The terminal shows the lines and delivers the keys. The rest of a longer earlier line is
// cleared.
func TestScreenOfTcell(t *testing.T) {
	sim := tcell.NewSimulationScreen("UTF-8")
	if err := sim.Init(); err != nil {
		t.Fatal(err)
	}
	sim.SetSize(20, 3)
	s := newScreen(sim)
	content := func() string {
		cells, w, _ := sim.GetContents()
		var out strings.Builder
		for i, c := range cells {
			out.WriteString(string(c.Runes))
			if i%w == w-1 {
				out.WriteByte('|')
			}
		}
		return out.String()
	}
	s.draw([]line{{reverse: true, pieces: []piece{{text: "abc", width: 5}, {text: "ä▅", look: wrong}}}, text(dim, "%s", strings.Repeat("long ", 10))})
	if got := content(); got != "abc  ä▅             |long long long long |                    |" {
		t.Errorf("%q", got)
	}
	s.draw([]line{{}, text(plain, "x")})
	if got := content(); got != "                    |x                   |                    |" {
		t.Errorf("%q", got)
	}
	if s.ascii() {
		t.Error("UTF-8 is no ASCII")
	}
	for _, tt := range []struct {
		key  tcell.Key
		r    rune
		want string
	}{
		{tcell.KeyRune, 'j', "j"}, {tcell.KeyRune, 'ö', "ö"}, {tcell.KeyUp, 0, "up"}, {tcell.KeyPgDn, 0, "pgdn"}, {tcell.KeyEnter, 0, "enter"},
		{tcell.KeyEscape, 0, "esc"}, {tcell.KeyBackspace2, 0, "backspace"}, {tcell.KeyCtrlC, 0, "ctrl-c"}, {tcell.KeyCtrlZ, 0, "ctrl-z"},
	} {
		sim.InjectKey(tcell.KeyF12, 0, 0) // F12 has no meaning, nor has alt-q
		sim.InjectKey(tcell.KeyRune, 'q', tcell.ModAlt)
		sim.InjectKey(tt.key, tt.r, 0)
		k, ok := <-s.keys()
		for is := true; ok && is; {
			if _, is = k.(resize); is {
				k, ok = <-s.keys()
			}
		}
		if !ok || k != tt.want {
			t.Errorf("%v %c: %v, %v", tt.key, tt.r, k, ok)
		}
	}
	s.close()
	for range s.keys() {
	}
}
