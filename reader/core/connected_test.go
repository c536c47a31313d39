package core

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// "NAME II SS: NAME the line reader in printable ASCII, cut so that all fits 127 bytes; both at
// least two upper-case hex digits."
func TestPCSCName(t *testing.T) {
	long := strings.Repeat("n", 200)
	for _, tt := range []struct {
		driver, model string
		number, index int
		want          string
	}{
		{"ccid", "Gemalto PC Twin Reader", 0, 0, "Gemalto PC Twin Reader 00 00"},
		{"ccid", "R", 10, 1, "R 0A 01"},
		{"ccid", "R", 255, 15, "R FF 0F"},
		{"ccid", "R", 4096, 256, "R 1000 100"},
		{"ccid", " Lesegerät\t1\x7f ", 0, 0, "Leseger?t?1? 00 00"},
		{"ccid", "~ !", 0, 0, "~ ! 00 00"},
		{"ccid", "", 1, 0, "ccid 01 00"},
		{"ccid", "  ", 1, 0, "ccid 01 00"},
		{"ccid", long, 1, 0, long[:121] + " 01 00"},
		{"ccid", long, 256, 0, long[:120] + " 100 00"},
		{"ccid", long[:121], 0, 0, long[:121] + " 00 00"},
		{"ccid", long[:120] + "  tail", 0, 0, long[:120] + " 00 00"},
	} {
		if got := pcscName(tt.driver, tt.model, tt.number, tt.index); got != tt.want || len(got) > 127 {
			t.Errorf("%q: %q", tt.model, got)
		}
	}
}

// "II the lowest number that no other reader has, kept as directory numbers are; all slots of
// one reader share II, SS is the slot's index."
func TestPCSCNumbers(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		device := func(serial string) reader.Device {
			return reader.Device{Address: serial, Serial: serial, ID: reader.ID{Model: "R"}}
		}
		want := func(b *Slot, names ...string) {
			t.Helper()
			for i, s := range b.Siblings() {
				if got := s.Info().PCSC; got != names[i] {
					t.Errorf("%q, want %q", got, names[i])
				}
			}
		}
		two, a := r.plug(device("a"), newFakeSlot(t), newFakeSlot(t))
		want(a, "R 00 00", "R 00 01")
		_, b := r.plug(device("b"), newFakeSlot(t))
		want(b, "R 01 00")
		three, c := r.plug(device("c"), newFakeSlot(t))
		want(c, "R 02 00")

		two.unplug()
		synctest.Wait()
		three.unplug()
		synctest.Wait()
		_, c = r.plug(device("c"), newFakeSlot(t)) // its old one, and not the lowest
		want(c, "R 02 00")
		_, d := r.plug(device("d"), newFakeSlot(t))
		want(d, "R 00 00")
		_, a = r.plug(device("a"), newFakeSlot(t)) // its old one is taken
		want(a, "R 03 00")

		// A number is free as soon as the directory is away, also while the device is being closed.
		if err := r.Detach(b.Number()); err != nil {
			t.Fatal(err)
		}
		_, e := r.plug(device("e"), newFakeSlot(t))
		want(e, "R 01 00")
		_, b = r.plug(device("b"), newFakeSlot(t))
		want(b, "R 04 00")
	})
}

// A reader that is revived keeps its number meanwhile.
func TestPCSCNumberOfARevivedReader(t *testing.T) {
	bubble(t, Options{Drivers: []reader.Driver{linkDriver{}}}, func(t *testing.T, r *rig) {
		var fakes []*fakeReader
		revivals(t, r, func(int) (*fakeReader, error) {
			fakes = append(fakes, newFakeReader(newFakeSlot(t)))
			return fakes[len(fakes)-1], nil
		})
		if got := r.Slot(0).Info().PCSC; got != "linked 00 00" {
			t.Errorf("%q", got)
		}
		fakes[0].unplug()
		synctest.Wait()
		_, other := r.plug(reader.Device{Serial: "other"}, newFakeSlot(t))
		if got := other.Info().PCSC; got != "fake 01 00" {
			t.Errorf("one that comes meanwhile: %q", got)
		}
		time.Sleep(2 * deathPause)
		if got := r.Slot(0).Info().PCSC; len(fakes) != 2 || got != "linked 00 00" {
			t.Errorf("%d readers, %q", len(fakes), got)
		}
	})
}

// A reader may say its name only when it is open.
func TestPCSCNameOfTheReader(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		fake := &named{newFakeReader(newFakeSlot(t)), "Named"}
		opens := make(chan struct{})
		r.driver.open = func(context.Context, reader.Device) (reader.Reader, error) {
			<-opens
			return fake, nil
		}
		b := r.announce(reader.Device{ID: reader.ID{Model: "Announced"}})
		if got := b.Info().PCSC; got != "Announced 00 00" {
			t.Errorf("at first: %q", got)
		}
		close(opens)
		synctest.Wait()
		if got := b.Info().PCSC; got != "Named 00 00" {
			t.Errorf("once it is open: %q", got)
		}
	})
}

type named struct {
	*fakeReader
	name string
}

func (n *named) Identify() (string, map[string]string) { return n.name, nil }

// "card-changes counts insertions and removals the way pcscd's event counter does (one for
// each insertion and one for each removal; a reset is none)": nor is the card that was there
// when the reader came.
func TestCardChanges(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
		c := newClient(b, "client")
		want := func(what string, n uint32) {
			t.Helper()
			synctest.Wait()
			now, err := c.Share(bg, ShareNone, lag, nil)
			if err != nil || now.Changes != n || b.Info().CardChanges != uint64(n) {
				t.Errorf("%s: %d and %d changes, %v; want %d", what, now.Changes, b.Info().CardChanges, err, n)
			}
		}
		want("a card that was there", 0)
		mustOpen(t, b, someone())
		for _, a := range []Action{ResetWarm, ResetCold, PowerDown, PowerUp} {
			if err := b.Power(bg, a, someone()); err != nil {
				t.Fatal(err)
			}
		}
		want("power and resets", 0)
		slot.card(reader.Absent)
		want("out", 1)
		slot.card(reader.Present)
		want("in", 2)
		mustOpen(t, b, someone())
		slot.card(reader.Present) // it was powered
		want("out and in between two looks", 4)
		b.fail(reader.ErrFailed)
		if n := b.Info().CardChanges; n != 5 {
			t.Errorf("the reader failed: %d", n)
		}
	})
}

// What CARDFS_CONNECT returns. "The protocols that card and reader both have."
func TestConnected(t *testing.T) {
	bg := context.Background()
	for _, tt := range []struct {
		atr             []byte
		speaks          []int
		active, offered uint32
	}{
		{atrT0, nil, ProtocolT0, ProtocolT0},
		{atrT1, nil, ProtocolT1, ProtocolT1},
		{atrBoth, nil, ProtocolT0, ProtocolT0 | ProtocolT1},
		{atrBoth, []int{1}, ProtocolT1, ProtocolT1},
	} {
		bubble(t, Options{}, func(t *testing.T, r *rig) {
			slot := newFakeSlot(t)
			slot.atr = tt.atr
			slot.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
				return append(dst, x.Out...), nil
			}
			var s reader.Slot = slot
			if tt.speaks != nil {
				s = &lister{slot, tt.speaks}
			}
			fake := newFakeReader()
			fake.slots = []reader.Slot{s}
			b := r.plugReader(reader.Device{ID: reader.ID{Model: "R"}}, fake)
			synctest.Wait()
			c := newClient(b, "client")
			now, err := c.Share(bg, ShareDirect, lag, nil)
			if err != nil || now.Card != reader.Present || now.ATR != nil || now.Active != 0 || now.Offered != 0 || now.Memory || now.Reader != "R 00 00" {
				t.Errorf("without power: %+v, %v", now, err)
			}
			mustOpen(t, b, someone())
			now, err = c.Share(bg, ShareDirect, lag, nil)
			if err != nil || now.Card != reader.Powered || string(now.ATR) != string(tt.atr) || now.Active != tt.active || now.Offered != tt.offered || now.Memory {
				t.Errorf("% X, a reader for %v: %+v, %v", tt.atr, tt.speaks, now, err)
			}
			slot.card(reader.Absent)
			synctest.Wait()
			if now, err = c.Share(bg, ShareDirect, lag, nil); err != nil || now.Card != reader.Absent || now.ATR != nil || now.Active != 0 || now.Offered != 0 {
				t.Errorf("without a card: %+v, %v", now, err)
			}
			_, err = c.Share(bg, ShareDirect+1, lag, nil)
			wantErr(t, "no mode", err, reader.ErrInvalid)
			// "The connection lasts until CARDFS_SHARE_NONE", also of a reader that failed.
			b.fail(reader.ErrProtocol)
			_, err = c.Share(bg, ShareShared, lag, nil)
			wantErr(t, "a reader that failed", err, reader.ErrFailed)
			_, err = c.Share(bg, ShareNone, lag, nil)
			wantErr(t, "a reader that failed", err, reader.ErrFailed)
			if n := b.Info().Connections; n != 0 {
				t.Errorf("%d connections after the end", n)
			}
		})
	}
}

type lister struct {
	*fakeSlot
	protocols []int
}

func (l *lister) Protocols() []int { return l.protocols }

// "A change of any of these wakes POLLPRI on status", also one that is undone at once. Who only
// asks changes nothing.
func TestConnectionsWake(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
		woken := 0
		defer b.Watch(func() { woken++ })()
		c, other := newClient(b, "client"), newClient(b, "other")
		for _, tt := range []struct {
			name  string
			does  func()
			wakes bool
		}{
			{"a connection", func() { c.share(ShareShared) }, true},
			{"the same", func() { c.share(ShareShared) }, false},
			{"an exclusive one", func() { c.share(ShareExclusive) }, true},
			{"the same", func() { c.share(ShareExclusive) }, false},
			{"a refused one", func() { other.share(ShareShared) }, false},
			{"none where there was none", func() { other.share(ShareNone) }, false},
			{"a shared one", func() { c.share(ShareShared) }, true},
			{"another", func() { other.share(ShareDirect) }, true},
			{"its close", func() { other.Close() }, true},
			{"none", func() { c.share(ShareNone) }, true},
			{"a close without a connection", func() { c.Close() }, false},
			{"a card that goes", func() { slot.card(reader.Absent); synctest.Wait() }, true},
		} {
			before, changes := woken, b.Changes()
			tt.does()
			if (woken > before) != tt.wakes || (b.Changes() > changes) != tt.wakes {
				t.Errorf("%s: woken %d times, %d changes", tt.name, woken-before, b.Changes()-changes)
			}
		}
	})
}
