package remote

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cardfs/cardfs/drivers/remote/internal/script"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/readertest"
)

// player is a far side that is no cardfs: one slot, whose apdu answers as a test says.
type player struct {
	t      testing.TB
	dir    string
	events chan string // each is what one read of `event` brings

	mu       sync.Mutex
	status   string
	answer   func(line string) reply // of apdu; asked for each line but `errors`
	lines    []string                // written to apdu
	written  []string                // to power and protocol
	opens    int                     // of apdu
	unlocked chan struct{}           // not nil: opens of apdu wait until it is closed
}

// reply is what becomes of a line.
type reply struct {
	write, read syscall.Errno
	text        []string        // of one read each; then reads are empty
	wait        <-chan struct{} // not nil: reads wait until it is closed
}

func says(text ...string) func(string) reply {
	return func(string) reply { return reply{text: text} }
}

const (
	arrived    = "1 0 arrived by-id=far-slot0\n"
	inserted   = "2 0 ready\n3 0 inserted\n"
	farPowered = "state powered\nreader Far\ndriver sim\natr 3B 80 01 81\nprotocol T=1\nevent 3\n"
	farStatus  = farPowered + "by-id far-slot0\ninstance " + someInstance + "\n"
	farCtl     = "instance " + someInstance + "\nreader 0 sim far\n"
	aCommand   = "00a40000023f00\n"
)

// play mounts a player, whose card is there.
func play(t testing.TB) *player {
	t.Helper()
	p := &player{t: t, events: make(chan string, 16), status: farStatus, answer: says("90 00\n")}
	p.dir = script.Mount(t, map[string]*script.File{
		"ctl":        script.Text(func() string { return farCtl }),
		"event":      {Read: p.event},
		"0/status":   script.Text(func() string { p.mu.Lock(); defer p.mu.Unlock(); return p.status }),
		"0/power":    {Write: p.word("power ")},
		"0/protocol": {Write: p.word("protocol ")},
		"0/control":  p.channel(says("\n"), func(string) {}, nil),
		"1/status":   script.Text(func() string { return farStatus }),
		"1/control":  p.channel(says("\n"), func(string) {}, nil),
		"0/apdu": p.channel(func(line string) reply { return p.answer(line) }, func(line string) { p.lines = append(p.lines, line) }, func(ctx context.Context) syscall.Errno {
			p.mu.Lock()
			p.opens++
			wait := p.unlocked
			p.mu.Unlock()
			if wait != nil {
				select {
				case <-wait:
				case <-ctx.Done():
					return syscall.EINTR
				}
			}
			return 0
		}),
	})
	p.events <- arrived + inserted
	return p
}

// happens makes the slot's events, if any, known to h.
func (p *player) happens(h *here, events string) {
	h.t.Helper()
	p.events <- events + "8 1 arrived by-id=other-slot0\n9 1 ready\n10 1 inserted\n" // comes last
	h.awaitState(1, core.StatePresent)
}

func (p *player) event(ctx context.Context, most int) ([]byte, syscall.Errno) {
	select {
	case text := <-p.events:
		return []byte(text), 0
	case <-ctx.Done():
		return nil, syscall.EINTR
	}
}

func (p *player) word(file string) func(context.Context, []byte) (int, syscall.Errno) {
	return func(_ context.Context, data []byte) (int, syscall.Errno) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.written = append(p.written, file+strings.TrimSpace(string(data)))
		return len(data), 0
	}
}

// channel is apdu or control.
func (p *player) channel(answer func(string) reply, note func(string), open func(context.Context) syscall.Errno) *script.File {
	var now reply
	return &script.File{
		Open: open,
		Write: func(_ context.Context, data []byte) (int, syscall.Errno) {
			p.mu.Lock()
			defer p.mu.Unlock()
			note(string(data))
			if now = (reply{text: []string{"ok\n"}}); string(data) != "errors\n" {
				now = answer(string(data))
			}
			return len(data), now.write
		},
		Read: func(ctx context.Context, _ int) ([]byte, syscall.Errno) {
			p.mu.Lock()
			wait := now.wait
			p.mu.Unlock()
			if wait != nil {
				select {
				case <-wait:
				case <-ctx.Done():
					return nil, syscall.EINTR
				}
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if now.read != 0 || len(now.text) == 0 {
				return nil, now.read
			}
			text := now.text[0]
			now.text = now.text[1:]
			return []byte(text), 0
		},
	}
}

func (p *player) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// count is how often a line was written to apdu.
func (p *player) count(line string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lines {
		if l == line {
			n++
		}
	}
	return n
}

// "SW1 SW2 is data"; all that is no answer to the command ends the session, in doubt where the
// card may have the command, and a command is written once.
func TestAnswers(t *testing.T) {
	garbage := strings.Repeat("90 ", 10000)
	for _, x := range []struct {
		name  string
		reply reply
		want  error
		ends  bool // the session
	}{
		{"an answer", reply{text: []string{"90 00\n"}}, nil, false},
		{"an answer in two parts", reply{text: []string{"90 ", "00\n"}}, nil, false},
		{"one byte", reply{text: []string{"90\n"}}, reader.ErrProtocol, false},
		{"two answers", reply{text: []string{"90 00\n90 00\n"}}, reader.ErrProtocol, true},
		{"no end", reply{text: []string{garbage, garbage, garbage, garbage, garbage, garbage, garbage, garbage}}, reader.ErrProtocol, true},
		{"an answer to a word", reply{text: []string{"ok\n"}}, reader.ErrProtocol, true},
		{"nothing", reply{}, reader.ErrInDoubt, true},
		{"half an answer", reply{text: []string{"90 "}}, reader.ErrInDoubt, true},
		{"a read that fails", reply{read: syscall.EIO}, reader.ErrInDoubt, true},
		{"a read that is refused", reply{read: syscall.EBUSY}, reader.ErrInDoubt, true},
		{"a write that is refused", reply{write: syscall.EBUSY}, reader.ErrLocked, false},
		{"a write that fails, and nothing outstanding", reply{write: syscall.EIO}, reader.ErrInvalid, false},
		{"a write that fails, and an answer", reply{write: syscall.EIO, text: []string{"90 00\n"}}, reader.ErrInDoubt, true},
		{"a write and a read that fail", reply{write: syscall.EIO, read: syscall.EIO}, reader.ErrInDoubt, true},
		{"reset there", reply{text: []string{"error ESTALE the card was reset\n"}}, reader.ErrStale, true},
		{"no card", reply{text: []string{"error ENOMEDIUM no card\n"}}, reader.ErrNoCard, true},
		{"a control character", reply{text: []string{"error EIO \x1b[2J\n"}}, reader.ErrProtocol, true},
	} {
		t.Run(x.name, func(t *testing.T) {
			p := play(t)
			p.answer = func(string) reply { return x.reply }
			h := machineHere(t, "remote "+p.dir)
			h.awaitState(0, core.StatePresent)
			s := h.open(0)
			command := []byte{0, 0xA4, 0, 0, 2, 0x3F, 0}
			answer, err := s.Transmit(t.Context(), command, nil)
			if !errors.Is(err, x.want) || x.want == nil && !bytes.Equal(answer, []byte{0x90, 0}) {
				t.Errorf("% X, %v; want %v", answer, err, x.want)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\x1b") {
				t.Errorf("%q", err)
			}
			p.set(func() { p.answer = says("90 00\n") })
			if _, err := s.Transmit(t.Context(), command, nil); (err != nil) != x.ends {
				t.Errorf("the next command: %v; want an end: %v", err, x.ends)
			}
			if n := p.count(aCommand); x.ends && n != 1 || !x.ends && n != 2 {
				t.Errorf("the command was written %d times", n)
			}
		})
	}
}

// What status says decides what a session begins with. Its card has the state of that moment: a
// reset before is not the session's, one after is.
func TestBegins(t *testing.T) {
	for _, x := range []struct {
		name, status, events string
		want                 error
	}{
		{"powered", farStatus, "", nil},
		{"a reset of that moment", strings.Replace(farStatus, "event 3", "event 4", 1), "4 0 reset\n", nil},
		{"a reset since", farStatus, "4 0 reset\n", errAny},
		{"no power", strings.Replace(farStatus, "state powered", "state present", 1), "", errAny},
		{"an ATR that is none", strings.Replace(farStatus, "3B 80 01 81", "77 00", 1), "", errAny},
		{"a text that is none", "hello\n", "", reader.ErrProtocol},
	} {
		t.Run(x.name, func(t *testing.T) {
			p := play(t)
			h := machineHere(t, "remote "+p.dir)
			h.awaitState(0, core.StatePresent)
			p.set(func() { p.status = x.status })
			p.happens(h, x.events)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			s, err := h.Slot(0).Open(ctx, core.Caller{Owner: new(int), Wait: true})
			if (err == nil) != (x.want == nil) || x.want != errAny && !errors.Is(err, x.want) {
				t.Errorf("%v, want %v", err, x.want)
			}
			if err == nil {
				s.Close()
			}
		})
	}
}

var errAny = errors.New("any")

// Events that no cardfs has, or an end of them, end the way; they come in pieces as it pleases
// the file system.
func TestFarEvents(t *testing.T) {
	for _, x := range []struct{ name, events, words string }{
		{"lost", "4 0 noise lost=3\n", "events were lost"},
		{"twice", "4 0 arrived by-id=far-slot0\n", "arrived twice"},
		{"no end of a line", strings.Repeat("x", maxLine/2+1) + "|" + strings.Repeat("x", maxLine/2), "a line of more than"},
		{"a control character", "4 0 x\x7f\n", "control character"},
		{"no number", "x 0 ready\n", "without a number"},
		{"a name that leads elsewhere", "4 2 arrived by-id=../etc-slot0\n", "by-id"},
		{"the end", "|", "the events have ended"},
		{"nothing wrong, in pieces", "4 0 rem|oved\n5 0|", ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			p := play(t)
			h := machineHere(t, "remote "+p.dir)
			h.awaitState(0, core.StatePresent)
			if x.words == "" {
				for _, piece := range strings.Split(strings.TrimSuffix(x.events, "|"), "|") {
					p.events <- piece
				}
				h.awaitState(0, core.StateEmpty)
				p.events <- " inserted\n"
				h.awaitState(0, core.StatePresent)
				return
			}
			for _, piece := range strings.Split(x.events, "|") {
				p.events <- piece
			}
			h.awaitState(0, core.StateStarting)
			h.hubState(core.StateStarting, x.words)
			p.events <- arrived + inserted
			h.awaitState(0, core.StatePresent)
		})
	}
}

// "A transaction here holds off clients there": a session that begins in it locks them out
// before anything else, and so does the next one.
func TestLockAgain(t *testing.T) {
	p := play(t)
	p.answer = func(line string) reply {
		if strings.HasSuffix(line, "lock\n") {
			return reply{text: []string{"ok\n"}}
		}
		return reply{} // no answer: in doubt
	}
	h := machineHere(t, "remote "+p.dir)
	h.awaitState(0, core.StatePresent)
	me := core.Caller{Owner: new(int), Wait: true}
	for range 3 {
		p.set(func() { p.lines = nil })
		if err := h.Slot(0).Lock(t.Context(), me, nil); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			s, err := h.Slot(0).Open(t.Context(), me)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Transmit(t.Context(), []byte{0, 0xA4, 0, 0, 2, 0x3F, 0}, nil); !errors.Is(err, reader.ErrInDoubt) {
				t.Errorf("no answer: %v", err)
			}
			s.Close()
		}
		h.Slot(0).Unlock(me.Owner)
		p.mu.Lock()
		got := strings.Join(p.lines, "")
		p.mu.Unlock()
		if want := strings.Repeat("errors\nlock\n"+aCommand, 2); got != want {
			t.Errorf("lines %q, want %q", got, want)
		}
	}
}

// "An ok that nobody waits for any more comes before the next answer": whoever asks for the lock
// again meanwhile waits for the same one.
func TestLockGivenUp(t *testing.T) {
	p := play(t)
	granted := make(chan struct{})
	p.answer = func(line string) reply {
		if strings.HasSuffix(line, "lock\n") {
			return reply{text: []string{"ok\n"}, wait: granted}
		}
		return reply{text: []string{"90 00\n"}}
	}
	h := machineHere(t, "remote "+p.dir)
	h.awaitState(0, core.StatePresent)
	s := h.open(0)
	ctx, giveUp := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Slot(0).Lock(ctx, core.Caller{Owner: new(int), Wait: true}, nil) }()
	readertest.Eventually(t, "the lock is asked for", func() bool { return p.count("lock\n") > 0 })
	giveUp()
	if err := <-done; err == nil {
		t.Error("the lock was granted before the other side did")
	}
	me := core.Caller{Owner: new(int), Wait: true}
	go func() { done <- h.Slot(0).Lock(t.Context(), me, nil) }()
	readertest.Eventually(t, "the transaction has begun", func() bool { return h.Slot(0).Info().Locked })
	close(granted)
	if err := <-done; err != nil {
		t.Error(err)
	}
	h.Slot(0).Unlock(me.Owner)
	if answer, err := s.Transmit(t.Context(), numbered(1), nil); err != nil || !bytes.Equal(answer, []byte{0x90, 0}) {
		t.Errorf("% X, %v", answer, err)
	}
	if n := p.count("lock\n"); n != 1 {
		t.Errorf("the lock was asked for %d times", n)
	}
}

// An open there waits for the card, and cannot be ended: "so there is one at most, which the
// next power-up takes over". A card that is taken out ends the wait here.
func TestOpenWaits(t *testing.T) {
	p := play(t)
	p.unlocked = make(chan struct{})
	h := machineHere(t, "remote "+p.dir)
	h.awaitState(0, core.StatePresent)
	done := make(chan error, 1)
	open := func(wait bool) {
		go func() {
			s, err := h.Slot(0).Open(t.Context(), core.Caller{Owner: new(int), Wait: wait})
			if err == nil {
				s.Close()
			}
			done <- err
		}()
	}
	opens := func() (n int) { p.set(func() { n = p.opens }); return n }
	open(false)
	readertest.Eventually(t, "the card is opened", func() bool { return opens() > 0 })
	p.events <- "4 0 removed\n"
	if err := <-done; !errors.Is(err, reader.ErrNoCard) {
		t.Errorf("the card was taken out: %v", err)
	}
	p.events <- "5 0 inserted\n"
	h.awaitState(0, core.StatePresent)
	p.set(func() { p.status = strings.Replace(farStatus, "event 3", "event 5", 1) })
	open(true)
	close(p.unlocked)
	if err := <-done; err != nil || opens() != 1 {
		t.Errorf("%v, %d opens; want the one that was under way", err, opens())
	}
}

// A reader that failed there says why here, and comes back when it is revived.
func TestRevived(t *testing.T) {
	p := play(t)
	<-p.events
	p.events <- arrived + "2 0 failed error=broken\n"
	h := machineHere(t, "remote "+p.dir)
	h.awaitState(0, core.StateFailed)
	if err := h.Slot(0).Info().Err; err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("it failed: %v", err)
	}
	p.events <- "3 0 ready\n4 0 inserted\n"
	for h.next() != "0 left" {
	}
	p.events <- "5 0 left\n6 0 arrived by-id=far-slot0\n7 0 ready\n8 0 inserted\n"
	h.awaitState(0, core.StatePresent)
}

// A card that does not answer there is no reader that failed: whoever powered it has the error.
func TestFailedCard(t *testing.T) {
	p := play(t)
	<-p.events
	p.events <- arrived + inserted + "4 0 failed error=mute\n"
	h := machineHere(t, "remote "+p.dir)
	h.awaitState(0, core.StatePresent, core.StateFailed)
	if i := h.Slot(0).Info(); i.State != core.StatePresent {
		t.Fatalf("%s, %v", i.State, i.Err)
	}
	h.open(0)
}

// A reset that is asked for here is one there, warm or cold, and power off is power off.
func TestPowerWords(t *testing.T) {
	p := play(t)
	h := machineHere(t, "remote "+p.dir)
	h.awaitState(0, core.StatePresent)
	me := core.Caller{Owner: new(int), Wait: true}
	h.open(0)
	for _, how := range []core.Action{core.ResetWarm, core.ResetCold, core.PowerDown} {
		if err := h.Slot(0).Power(t.Context(), how, me); err != nil {
			t.Error(err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := strings.Join(p.written, ", "); got != "power reset, power cold, power off" {
		t.Error(got)
	}
}

// "The protocol in force there … is selected if the card was reset here and not only opened":
// who only opens the card takes it as somebody there has left it.
func TestProtocolKept(t *testing.T) {
	p := play(t)
	p.status = strings.Replace(farStatus, "3B 80 01 81", "3B 80 80 01 01", 1) // T=0, and T=1, in force
	h := machineHere(t, "remote "+p.dir)
	h.awaitState(0, core.StatePresent)
	h.open(0)
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := h.Slot(0).Info().Protocol(); got != "T=1" || len(p.written) > 0 {
		t.Errorf("protocol %s; written %q", got, p.written)
	}
}
