package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/icc"
	"github.com/cardfs/cardfs/reader/readertest"
)

// Every emulated reader passes the suite. The suite unplugs and silences it by commands of
// ctl.
func TestSuite(t *testing.T) {
	for _, m := range processorModels() {
		t.Run(m.name, func(t *testing.T) {
			suite := readertest.Suite
			switch m.name {
			case "acr30", "acr30-serial", "acr38", "egate", "gempc410", "kaan", "b1", "cardman", "cyberjack", "smartboard", "smph", "towitoko":
				suite = readertest.PausingSuite
			}
			suite(t, func(t *testing.T) *readertest.Fixture {
				d := New()
				dev, err := d.Attach(reader.Device{Driver: "sim", Address: m.name})
				if err != nil {
					t.Fatal(err)
				}
				f := &readertest.Fixture{
					Driver: d, Device: dev,
					Command: unhex("80EE0000 03 010203 00"), Answer: unhex("01 02 03 90 00"),
					Unplug: func() {
						if err := d.Command(context.Background(), dev, []string{"unplug"}); err != nil {
							t.Error(err)
						}
					},
				}
				if m.name == "piv" {
					f.Command = unhex("00A40400 05 A000000308 00")
					f.Answer = unhex(fmt.Sprintf("61 25 4F 06 000010000100 79 07 4F 05 A000000308 50 12 %x 90 00", "Simulated PIV card"))
				}
				if m.name == "openpgp" { // its historical bytes
					f.Command, f.Answer = unhex("00CA5F52 00"), unhex("0031C573C001E0059000 90 00")
				}
				if m.name == "towitoko" { // it cannot ask for the card while it waits for one
					f.Wait = 5 * time.Second
				}
				for _, c := range d.devices[dev.Address].hw.contacts() {
					f.Slots = append(f.Slots, readertest.Contact(c, m.fixed))
				}
				return f
			})
		})
	}
}

// processorModels are the readers without that which is a t1 with a memory card in it.
func processorModels() []model {
	return slices.DeleteFunc(slices.Clone(models), func(m model) bool { return m.name == "memory" })
}

// host takes announcements.
type host struct {
	mu    sync.Mutex
	heard []reader.Device
}

func (h *host) Announce(dev reader.Device) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard = append(h.heard, dev)
	return nil
}

func (h *host) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.heard)
}

// An error of attach says which word is wrong.
func TestAttach(t *testing.T) {
	d := New()
	for _, x := range []struct {
		device string
		params map[string]string
		err    string
	}{
		{"toaster", nil, `no simulated reader "toaster"; there are ikey3k, ikey2k, `},
		{"t1", map[string]string{"card": "visa"}, `no card "visa"; there are ` + strings.Join(Cards(), ", ") + `, none`},
		{"t1", map[string]string{"start": "soon"}, "start=soon: is no duration such as 300ms or 2s"},
		{"t1", map[string]string{"slow": "-1s"}, "slow=-1s: is no duration"},
		{"t1", map[string]string{"serial": ""}, "serial=: is empty"},
		{"memory", map[string]string{"memory": "i2c:300"}, "memory=i2c:300: the bytes of an I2C card are 128, 256"},
		{"t1", map[string]string{"colour": "red"}, "colour=red: is not known; there are card, memory, start, slow, serial"},
	} {
		_, err := d.Attach(reader.Device{Address: x.device, Params: x.params})
		if !errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), x.err) {
			t.Errorf("%s %v: %v", x.device, x.params, err)
		}
	}
	if len(d.devices) != 0 {
		t.Errorf("%d devices although none could be attached", len(d.devices))
	}
	for _, x := range []struct{ device, params, address, serial string }{
		{"ikey3k", "", "ikey3k-1", "IKEY3K-1"},
		{"ikey3k", "", "ikey3k-2", "IKEY3K-2"},
		{"t1", "", "t1-1", "T1-1"},
		{"t1", "X7", "t1-2", "X7"},
	} {
		p := map[string]string{}
		if x.params != "" {
			p["serial"] = x.params
		}
		dev, err := d.Attach(reader.Device{Address: x.device, Params: p})
		if err != nil || dev.Address != x.address || dev.Serial != x.serial || dev.Bus != "sim" || dev.Slots != 1 || dev.ID.Model == "" {
			t.Errorf("%+v, %v", dev, err)
		}
	}
}

// The commands of ctl, and the errors for wrong ones.
func TestCommands(t *testing.T) {
	type step struct{ device, words, err string }
	for _, x := range []struct {
		name  string
		steps []step
	}{
		{"a card reader", []step{
			{"t1", "", "a command must follow the number"},
			{"t1", "explode", "is no command; there are unplug, plug"},
			{"t1", "insert", "there is a card in the slot"},
			{"t1", "remove now", `"now" is one word too many`},
			{"t1", "remove", ""},
			{"t1", "remove", "there is no card in the slot"},
			{"t1", "insert visa", `no card "visa"`},
			{"t1", "insert", ""},
			{"t1", "remove", ""},
			{"t1", "insert echo", ""},
			{"t1", "slow", "a duration must follow"},
			{"t1", "slow 3", `"3" is no duration`},
			{"t1", "slow 30ms", ""},
			{"t1", "noisy often", `"often" is no fraction such as 1/8`},
			{"t1", "noisy 1/0", "is no fraction"},
			{"t1", "noisy 1/3", ""},
			{"t1", "noisy", ""},
			{"t1", "mute", ""},
			{"t1", "normal", ""},
			{"t1", "keys 1234", "this reader has no keys"},
			{"t1", "plug", "the reader is plugged in already"},
			{"t1", "unplug", ""},
			{"t1", "unplug", "the reader is not plugged in"},
			{"t1", "remove", ""}, // the card may be taken out of an unplugged reader
			{"t1", "insert", ""},
			{"t1", "plug", ""},
		}},
		{"a token", []step{
			{"ikey3k", "remove", "the card of a token cannot be taken out"},
			{"ikey3k", "insert", "a token has its card built in"},
			{"ikey3k", "unplug", ""},
			{"ikey3k", "plug", ""},
			{"ikey3k", "plug", "the reader is plugged in already"},
		}},
		{"an empty reader", []step{
			{"t1 none", "insert", "say which one to put in: token, t0"},
			{"t1 none", "insert token", ""},
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			d, h := New(), new(host)
			name, card, _ := strings.Cut(x.steps[0].device, " ")
			dev := reader.Device{Driver: "sim", Address: name}
			if card != "" {
				dev.Params = map[string]string{"card": card}
			}
			dev, err := d.Attach(dev)
			if err != nil {
				t.Fatal(err)
			}
			dev.Host = h
			for _, s := range x.steps {
				err := d.Command(context.Background(), dev, strings.Fields(s.words))
				switch {
				case s.err == "" && err != nil, s.err != "" && err == nil:
					t.Errorf("%s: %v", s.words, err)
				case s.err != "" && (!errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), s.err)):
					t.Errorf("%s: %v, want %q", s.words, err, s.err)
				}
			}
		})
	}
}

// start= delays the opening, and ends early with ctx and with unplug.
func TestStart(t *testing.T) {
	d := New()
	dev, _ := d.Attach(reader.Device{Driver: "sim", Address: "t1", Params: map[string]string{"start": "1h"}})
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(5*time.Millisecond, cancel)
	if _, err := d.Open(ctx, dev); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	dev, _ = d.Attach(reader.Device{Driver: "sim", Address: "t1", Params: map[string]string{"start": "1h"}})
	time.AfterFunc(5*time.Millisecond, func() { d.Command(context.Background(), dev, []string{"unplug"}) })
	if _, err := d.Open(context.Background(), dev); !errors.Is(err, reader.ErrGone) {
		t.Error(err)
	}
}

// A thousand idle tokens cost a few KiB each and no goroutine.
func TestManyAreCheap(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector multiplies memory")
	}
	const n = 1000
	masterFile()
	before := runtime.NumGoroutine()
	var m0, m1 runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m0)
	d := New()
	var readers []reader.Reader
	var links []*plug
	for range n {
		dev, err := d.Attach(reader.Device{Driver: "sim", Address: "ikey3k"})
		if err != nil {
			t.Fatal(err)
		}
		r, err := d.Open(context.Background(), dev)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Slots()[0].PowerOn(context.Background(), reader.Cold); err != nil {
			t.Fatal(err)
		}
		x := reader.Transfer{Out: unhex("00 00 05 00 84 00 00 08 89"), Wait: time.Second}
		if _, err := r.Slots()[0].Exchange(context.Background(), x, nil); err != nil {
			t.Fatal(err)
		}
		readers = append(readers, r)
		links = append(links, dev.Link.(*plug))
	}
	runtime.GC()
	runtime.ReadMemStats(&m1)
	each := (int64(m1.HeapAlloc) - int64(m0.HeapAlloc)) / n
	t.Logf("%d bytes each", each)
	if each > 6<<10 {
		t.Errorf("%d bytes each", each)
	}
	if got := runtime.NumGoroutine(); got > before {
		t.Errorf("%d goroutines more", got-before)
	}
	for i, r := range readers {
		r.Close()
		links[i].Detached()
	}
	if len(d.devices) != 0 {
		t.Errorf("%d devices left", len(d.devices))
	}
}

// A slow card asks for time. If it is removed or unplugged during a command, the command
// ends, executed once at most.
func TestSlowAndRemoved(t *testing.T) {
	for _, x := range []struct {
		device, command string
		err             error
	}{
		{"t1", "remove", reader.ErrNoCard},
		{"char-t1", "remove", reader.ErrNoCard},
		{"t0", "remove", reader.ErrNoCard},
		{"char-t0", "remove", reader.ErrNoCard},
		{"apdu", "remove", reader.ErrNoCard},
		{"ikey3k", "unplug", reader.ErrGone},
		{"t1", "unplug", reader.ErrGone},
		{"apdu", "unplug", reader.ErrGone},
	} {
		t.Run(x.device+" "+x.command, func(t *testing.T) {
			m, d := manager(t)
			ctl(t, m, "attach sim "+x.device)
			contact := d.devices[x.device+"-1"].hw.contacts()[0]
			s := open(t, m, 0)
			before := contact.APDUs()
			ctl(t, m, "sim 0 slow 1h")
			end := make(chan error, 1)
			go func() {
				_, err := s.Transmit(context.Background(), unhex("80EE0000 03 010203 00"), nil)
				end <- err
			}()
			for contact.APDUs() == before {
				runtime.Gosched()
			}
			ctl(t, m, "sim 0 "+x.command)
			if err := <-end; !errors.Is(err, x.err) {
				t.Errorf("%v, want %v", err, x.err)
			}
			if got := contact.APDUs() - before; got != 1 {
				t.Errorf("executed %d times", got)
			}
		})
	}
}

// A mute card: opens fail with ErrMute, and work again once it is normal.
func TestMuteThroughTheCore(t *testing.T) {
	for _, m := range models {
		t.Run(m.name, inBubble(func(t *testing.T) {
			mgr, _ := manager(t)
			ctl(t, mgr, "attach sim "+m.name)
			by := core.Caller{Owner: t, Wait: true}
			if err := mgr.Slot(0).WaitReady(context.Background(), true); err != nil {
				t.Fatal(err)
			}
			ctl(t, mgr, "sim 0 mute")
			if _, err := mgr.Slot(0).Open(context.Background(), by); !errors.Is(err, reader.ErrMute) {
				t.Errorf("open: %v", err)
			}
			ctl(t, mgr, "sim 0 normal")
			command, want := "00A4000C023F00", "90 00"
			if m.name == "piv" || m.name == "openpgp" { // which have no files
				want = "6D 00"
			}
			if got := transmit(t, open(t, mgr, 0), command); got != want {
				t.Error(got)
			}
		}))
	}
}

// inBubble is a test with a clock of its own.
func inBubble(f func(*testing.T)) func(*testing.T) {
	return func(t *testing.T) { synctest.Test(t, f) }
}

// The default of `make run`.
func TestDefault(t *testing.T) {
	m, _ := manager(t)
	ctl(t, m, "attach sim ikey3k")
	s := open(t, m, 0)
	if want := unhex("3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1"); !bytes.Equal(s.ATR(), want) {
		t.Errorf("% X", s.ATR())
	}
	for _, c := range []string{"00A4000C023F00", "00A40000023F00"} {
		if got := transmit(t, s, c); got != "90 00" {
			t.Errorf("%s: %s", c, got)
		}
	}
}

// reader.Transfer: a silent card has Wait, but not beyond Until; "the slot then says
// ErrTimeout". A slow card has until then as well.
func TestUntil(t *testing.T) {
	for _, x := range []struct{ wait, until, want time.Duration }{
		{time.Minute, 2 * time.Second, 2 * time.Second},
		{2 * time.Second, time.Minute, 2 * time.Second},
		{2 * time.Second, 0, 2 * time.Second}, // no limit
		{0, 0, defaultWait},
	} {
		for _, f := range []icc.Faults{{Mute: true}, {Slow: time.Hour}} {
			if f.Slow > 0 && x.until != 2*time.Second {
				continue // a T=0 card that computes ignores the time
			}
			synctest.Test(t, func(t *testing.T) {
				h := &plainHardware{level: reader.TPDU}
				card, _ := NewCard("t0", "1")
				h.contact.Insert(card)
				r, err := h.plug(reader.Device{Address: "t0-1"}, nil)(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer h.unplug()
				s := r.Slots()[0]
				if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
					t.Fatal(err)
				}
				h.contact.SetFaults(f)
				start := time.Now()
				transfer := reader.Transfer{Out: unhex("0084000008"), Wait: x.wait}
				if x.until > 0 {
					transfer.Until = start.Add(x.until)
				}
				_, err = s.Exchange(t.Context(), transfer, nil)
				if !errors.Is(err, reader.ErrTimeout) || time.Since(start) != x.want {
					t.Errorf("%+v, %+v: %v after %v", x, f, err, time.Since(start))
				}
			})
		}
	}
}
