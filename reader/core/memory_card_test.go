package core_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/icc"
)

// memoryDesk is a manager with one reader for memory cards, and the chip in it.
type memoryDesk struct {
	*testing.T
	*core.Manager
	slot *core.Slot
	chip *icc.Memory
}

func onMemoryCard(t *testing.T, card string, do func(d *memoryDesk)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		driver := sim.New()
		m := core.NewManager(core.Options{Drivers: []reader.Driver{driver}})
		defer m.Close(context.Background())
		if err := m.Attach("sim", "memory", map[string]string{"card": card}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		d := &memoryDesk{T: t, Manager: m, slot: m.Slot(0)}
		d.chip, _ = driver.Contacts(m.Slot(0).Info().Device)[0].Card().(*icc.Memory)
		do(d)
	})
}

func (d *memoryDesk) open(process any) *core.Session {
	d.Helper()
	s, err := d.slot.Open(context.Background(), core.Caller{Owner: new(int), Process: process, Wait: true, Pass: new(core.Pass)})
	if err != nil {
		d.Fatal(err)
	}
	return s
}

func (d *memoryDesk) apdu(s *core.Session, command, want string) {
	d.Helper()
	answer, err := s.Transmit(context.Background(), unhex(command), nil)
	if err != nil || !bytes.Equal(answer, unhex(want)) {
		d.Errorf("%s: % X, %v; want %s", command, answer, err, want)
	}
}

// write writes one byte, and expects err.
func (d *memoryDesk) write(s *core.Session, err error) {
	d.Helper()
	if n, got := s.WriteMemory(context.Background(), 0x40, []byte{1}); !errors.Is(got, err) || (n == 1) != (err == nil) {
		d.Errorf("write: %d, %v; want %v", n, got, err)
	}
}

const rightPSC = "FF 20 00 00 03 FF FF FF"

// "While a verification lasts everybody who may write uses it. It ends with the last open of the
// process whose apdu open verified; ending it cycles power, without ESTALE."
func TestVerificationEndsWithItsProcess(t *testing.T) {
	onMemoryCard(t, "sle4442", func(d *memoryDesk) {
		other := d.open("other")
		if psc := d.slot.Info().PSC; psc != (core.PSC{Tries: 3}) {
			d.Errorf("%+v", psc)
		}
		d.write(other, reader.ErrNoPermission)
		a, b := d.open("process"), d.open("process")
		d.apdu(a, rightPSC, "90 00")
		if psc := d.slot.Info().PSC; psc != (core.PSC{Tries: 3, Verified: true}) {
			d.Errorf("%+v", psc)
		}
		a.Close()
		synctest.Wait()
		d.write(other, nil)
		b.Close()
		d.write(other, reader.ErrNoPermission) // also if nobody had the turn meanwhile
		synctest.Wait()
		if b := d.chip.Bits(); b.Verified || b.Counter != 7 {
			d.Errorf("%+v", b)
		}
		if other.Err() != nil || d.slot.Info().State != core.StatePowered || d.slot.Info().PSC.Verified {
			d.Errorf("%v, %+v", other.Err(), d.slot.Info().PSC)
		}
		d.apdu(other, "00 B0 00 40 01", "01 90 00")

		// Two processes verified: the last of them counts. A third's opens do not.
		a, b = d.open("a"), d.open("b")
		d.apdu(a, rightPSC, "90 00")
		d.apdu(b, rightPSC, "90 00")
		a.Close()
		synctest.Wait()
		d.write(other, nil)
		third := d.open("third")
		third.Close()
		synctest.Wait()
		d.write(other, nil)
		b.Close()
		synctest.Wait()
		d.write(other, reader.ErrNoPermission)
	})
}

// Where the process is not known, the open alone holds what it verified.
func TestVerificationOfAnOpen(t *testing.T) {
	onMemoryCard(t, "sle4442", func(d *memoryDesk) {
		a, b := d.open(nil), d.open(nil)
		d.apdu(a, rightPSC, "90 00")
		b.Close()
		synctest.Wait()
		d.write(a, nil)
		b = d.open(nil)
		a.Close()
		synctest.Wait()
		d.write(b, reader.ErrNoPermission)
	})
}

// Whoever verifies while an earlier verification runs out keeps what he verified.
func TestVerifiedAgainInTime(t *testing.T) {
	onMemoryCard(t, "sle4442", func(d *memoryDesk) {
		a, b := d.open("a"), d.open("b")
		d.apdu(a, rightPSC, "90 00")
		a.Close()
		d.apdu(b, rightPSC, "90 00")
		synctest.Wait()
		d.write(b, nil)
		d.apdu(b, "00 20 00 00 03 00 00 00", "63 C2") // a wrong PSC ends it
		synctest.Wait()
		d.write(b, reader.ErrNoPermission)
		if d.slot.Info().PSC != (core.PSC{Tries: 2}) {
			d.Errorf("%+v", d.slot.Info().PSC)
		}
		b.Close()
		synctest.Wait()
		if log := d.chip.Log(); log[len(log)-1] == "reset" {
			d.Error("power was cycled with nothing to end")
		}
	})
}

// "It ends with power and with removal." A reset of a memory card takes its power, for nothing
// less ends a verification.
func TestVerificationEndsWithPower(t *testing.T) {
	for name, end := range map[string]func(d *memoryDesk) error{
		"reset": func(d *memoryDesk) error {
			return d.slot.Power(context.Background(), core.ResetWarm, core.Caller{Owner: d})
		},
		"off": func(d *memoryDesk) error {
			return d.slot.Power(context.Background(), core.PowerDown, core.Caller{Owner: d})
		},
		"removed": func(d *memoryDesk) error {
			return errors.Join(d.CommandDriver("sim", 0, []string{"remove"}), d.CommandDriver("sim", 0, []string{"insert"}))
		},
	} {
		onMemoryCard(t, "sle4442", func(d *memoryDesk) {
			s := d.open("a")
			d.apdu(s, rightPSC, "90 00")
			if err := end(d); err != nil {
				d.Fatal(name, err)
			}
			synctest.Wait()
			if _, err := s.ReadMemory(context.Background(), 0, 4, nil); !errors.Is(err, reader.ErrStale) {
				d.Errorf("%s: read: %v", name, err)
			}
			if _, err := s.WriteMemory(context.Background(), 0, []byte{1}); !errors.Is(err, reader.ErrStale) {
				d.Errorf("%s: write: %v", name, err)
			}
			d.write(d.open("a"), reader.ErrNoPermission)
			if d.chip.Bits().Verified || d.slot.Info().PSC.Verified {
				d.Errorf("%s: verified still", name)
			}
			s.Close()
		})
	}
}

// "The lock keeps others out": their reads wait, their writes say EBUSY, for the kernel holds a lock of its
// own during a write.
func TestMemoryInATransaction(t *testing.T) {
	onMemoryCard(t, "sle4432", func(d *memoryDesk) {
		holder := core.Caller{Owner: new(int), Wait: true, Pass: new(core.Pass)}
		mine, err := d.slot.Open(context.Background(), holder)
		if err != nil {
			d.Fatal(err)
		}
		other := d.open("other")
		if err := d.slot.Lock(context.Background(), holder, nil); err != nil {
			d.Fatal(err)
		}
		d.write(other, reader.ErrLocked)
		d.write(mine, nil)
		read := make(chan error, 1)
		go func() {
			got, err := other.ReadMemory(context.Background(), 0x40, 1, nil)
			if err == nil && got[0] != 1 {
				err = errors.New("something else")
			}
			read <- err
		}()
		synctest.Wait()
		if len(read) > 0 {
			d.Error("the read did not wait")
		}
		d.slot.Unlock(holder.Owner)
		if err := <-read; err != nil {
			d.Error(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		d.slot.Lock(context.Background(), holder, nil)
		if _, err := other.ReadMemory(ctx, 0, 4, nil); !errors.Is(err, reader.ErrInterrupted) {
			d.Errorf("interrupted: %v", err)
		}
	})
}

// A write that fails half-way says how far it came; what comes next says why, and so does `status`.
func TestWriteHalfWay(t *testing.T) {
	onMemoryCard(t, "sle4432", func(d *memoryDesk) {
		s := d.open("a")
		d.slot.Info()
		if n, err := s.WriteMemory(context.Background(), 250, make([]byte, 10)); n != 6 || err != nil || d.slot.Info().Err != nil {
			d.Errorf("%d, %v; status %v", n, err, d.slot.Info().Err)
		}
		if n, err := s.WriteMemory(context.Background(), 256, make([]byte, 4)); n != 0 || !errors.Is(err, reader.ErrNoSpace) {
			d.Errorf("%d, %v", n, err)
		}
		d.chip.Fill(0, make([]byte, 4)) // locked by the factory
		if n, err := s.WriteMemory(context.Background(), 0, []byte{0, 0, 9, 9}); n != 2 || err != nil {
			d.Errorf("%d, %v", n, err)
		}
		if err := d.slot.Info().Err; err == nil || !strings.Contains(err.Error(), "byte 2 is locked") {
			d.Errorf("status %v", err)
		}
		if n, err := s.WriteMemory(context.Background(), 2, []byte{9, 9}); n != 0 || !errors.Is(err, reader.ErrReadOnly) {
			d.Errorf("%d, %v", n, err)
		}
	})
}

// The card is pulled in the middle of a long read, and of a write.
func TestPulledInTheMiddle(t *testing.T) {
	onMemoryCard(t, "at24c512", func(d *memoryDesk) {
		s := d.open("a")
		if err := d.CommandDriver("sim", 0, []string{"slow", "100ms"}); err != nil {
			d.Fatal(err)
		}
		time.AfterFunc(1050*time.Millisecond, func() { d.CommandDriver("sim", 0, []string{"remove"}) })
		got, err := s.ReadMemory(context.Background(), 0, 65536, nil)
		if err != nil || len(got) != 10*1024 {
			d.Errorf("%d bytes, %v", len(got), err)
		}
		if _, err := s.ReadMemory(context.Background(), 10*1024, 1, nil); !errors.Is(err, reader.ErrNoCard) {
			d.Errorf("then: %v", err)
		}
		d.CommandDriver("sim", 0, []string{"insert"})
		synctest.Wait()
		if _, err := s.ReadMemory(context.Background(), 0, 1, nil); !errors.Is(err, reader.ErrStale) {
			d.Errorf("another card: %v", err)
		}
		s = d.open("a")
		time.AfterFunc(450*time.Millisecond, func() { d.CommandDriver("sim", 0, []string{"remove"}) })
		n, err := s.WriteMemory(context.Background(), 0, make([]byte, 4096))
		if err != nil || n == 0 || n%128 != 0 || n > 512 {
			d.Errorf("%d, %v", n, err)
		}
		if !bytes.Equal(d.chip.Contents()[:n], make([]byte, n)) {
			d.Error("less is on the card")
		}
		if n, err := s.WriteMemory(context.Background(), 0, make([]byte, 4096)); n != 0 || !errors.Is(err, reader.ErrNoCard) {
			d.Errorf("then: %d, %v", n, err)
		}
	})
}

// Others come between the pieces of a long read, and it can be interrupted there.
func TestLongReadLetsOthersIn(t *testing.T) {
	onMemoryCard(t, "at24c512", func(d *memoryDesk) {
		a, b := d.open("a"), d.open("b")
		d.CommandDriver("sim", 0, []string{"slow", "100ms"})
		ctx, cancel := context.WithCancel(context.Background())
		end := make(chan int)
		go func() {
			got, err := a.ReadMemory(ctx, 100, 60000, nil)
			if err != nil {
				d.Error(err)
			}
			end <- len(got)
		}()
		time.Sleep(150 * time.Millisecond)
		start := time.Now()
		if _, err := b.ReadMemory(context.Background(), 0, 4, nil); err != nil || time.Since(start) > 300*time.Millisecond {
			d.Errorf("%v after %v", err, time.Since(start))
		}
		time.Sleep(time.Second)
		cancel()
		if n := <-end; n == 0 || (100+n)%1024 != 0 || n > 20000 {
			d.Errorf("interrupted after %d bytes", n)
		}
	})
}

// An I2C card says no size: "until then opening atr says EOPNOTSUPP", and the words say what to do.
func TestSizeless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := core.NewManager(core.Options{Drivers: []reader.Driver{sim.New()}})
		defer m.Close(context.Background())
		m.Attach("sim", "memory", nil)
		synctest.Wait()
		m.CommandDriver("sim", 0, []string{"remove"})
		m.CommandDriver("sim", 0, []string{"insert", "at24c32"})
		synctest.Wait()
		_, err := m.Slot(0).Open(context.Background(), core.Caller{Owner: t, Wait: true})
		if !errors.Is(err, reader.ErrUnsupported) || !strings.Contains(err.Error(), "memory=i2c:BYTES") || !core.Sizeless(m.Slot(0).Info().Err) {
			t.Errorf("%v; %v", err, m.Slot(0).Info().Err)
		}
	})
}

// What a read of `memory` says in the trace: where and how much, and none of it.
func TestMemoryTrace(t *testing.T) {
	onMemoryCard(t, "sle4432", func(d *memoryDesk) {
		s := d.open("a")
		f := d.slot.FollowTrace()
		defer d.slot.CloseTrace(f)
		s.WriteMemory(context.Background(), 0x40, []byte("secret"))
		s.ReadMemory(context.Background(), 0x40, 6, nil)
		s.WriteMemory(context.Background(), 0x400, []byte("secret"))
		d.apdu(s, "00 B0 00 00 01", "A2 90 00")
		var lines []string
		for range 6 {
			line, _, err := f.Next(context.Background())
			if err != nil {
				d.Fatal(err)
			}
			_, said, _ := strings.Cut(line, " ")
			lines = append(lines, said)
		}
		want := []string{"memory: write 6 bytes at 64", "memory: read 6 bytes at 64", "memory: write 6 bytes at 1024", "! byte 1024: behind the end of the card",
			"> C-APDU 00 B0 00 00 01 READ BINARY", "< R-APDU A2 90 00"}
		if !slices.Equal(lines, want) {
			d.Errorf("%q", lines)
		}
	})
}

// After a VERIFY the error of a write still says where.
func TestAddressAfterVerify(t *testing.T) {
	onMemoryCard(t, "sle4442", func(d *memoryDesk) {
		s := d.open("a")
		d.apdu(s, rightPSC, "90 00")
		s.WriteMemory(context.Background(), 1, []byte{0})
		if err := d.slot.Info().Err; err == nil || !strings.Contains(err.Error(), "byte 1 is locked") {
			d.Errorf("status %v", err)
		}
	})
}

// What is read is appended to what was there, over the pieces of a long read, and counted.
func TestReadMemoryAppends(t *testing.T) {
	onMemoryCard(t, "at24c32", func(d *memoryDesk) {
		want := make([]byte, 4096)
		for i := range want {
			want[i] = byte(i * 3)
		}
		d.chip.Fill(0, want)
		s := d.open("a")
		got, err := s.ReadMemory(context.Background(), 1000, 3000, []byte("ab"))
		if err != nil || !bytes.Equal(got, append([]byte("ab"), want[1000:4000]...)) {
			d.Errorf("%d bytes, %v", len(got), err)
		}
		if got, err := s.ReadMemory(context.Background(), 4000, 3000, []byte("ab")); err != nil || len(got) != 98 {
			d.Errorf("%d bytes, %v", len(got), err)
		}
		if n, err := s.WriteMemory(context.Background(), 30, make([]byte, 50)); n != 50 || err != nil {
			d.Errorf("%d, %v", n, err)
		}
		stats := string(d.slot.Stats(func(syscall.Errno, bool) string { return "" }))
		for _, line := range []string{"bytes-to-card 50\n", "bytes-from-card 3096\n", "exchanges 7\n"} {
			if !strings.Contains(stats, line) {
				d.Errorf("no %q in %s", line, stats)
			}
		}
	})
}

// A card that does not come back when a verification ends is as good as taken out.
func TestRelockFails(t *testing.T) {
	onMemoryCard(t, "sle4442", func(d *memoryDesk) {
		a, b := d.open("a"), d.open("b")
		d.apdu(a, rightPSC, "90 00")
		if err := d.CommandDriver("sim", 0, []string{"mute"}); err != nil {
			d.Fatal(err)
		}
		a.Close()
		if _, err := b.ReadMemory(context.Background(), 0, 4, nil); err == nil {
			d.Error("a mute card was read")
		}
		synctest.Wait()
		if i := d.slot.Info(); i.State == core.StatePowered || i.Err == nil {
			d.Errorf("%v, %v", i.State, i.Err)
		}
		if b.Err() == nil {
			d.Error("the session goes on")
		}
		d.CommandDriver("sim", 0, []string{"normal"})
		d.write(d.open("a"), reader.ErrNoPermission)
	})
}
