package vpcd

import (
	"context"
	"net"
	"testing"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/readertest"
	"golang.org/x/sys/unix"
)

// spy keeps the port that a test opened.
type spy struct {
	Driver
	port *port
}

func (s *spy) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	r, err := s.Driver.Open(ctx, dev)
	s.port, _ = r.(*port)
	return r, err
}

const neverSilent = "one that owes an answer is disconnected, and no reset brings it back (TestHostile)"

func fixture() *readertest.Fixture {
	return &readertest.Fixture{Command: unhex("00 01 02 03"), Answer: unhex("00 01 02 03 90 00")}
}

func TestSuitePort(t *testing.T) {
	readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
		f, d, remove := fixture(), &spy{}, func() {}
		// The card is there before Open returns, as the suite wants it.
		f.Driver, f.Device = inserting{d, func() { remove = insert(t, d.port) }}, reader.Device{Address: "127.0.0.1:0"}
		f.Slots = []readertest.Slot{{Remove: func() { remove() }, Insert: func() { remove = insert(t, d.port) }, NeverSilent: neverSilent}}
		f.Close = func() { remove() }
		f.Unplug = func() { // the listening socket dies
			rc, err := d.port.ln.(*net.TCPListener).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			_ = rc.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
		}
		return f
	})
}

// insert connects a card that answers. It returns when the slot has the card, or has it
// waiting.
func insert(t testing.TB, p *port) (remove func()) {
	before := p.occupied()
	remove = card(t, p)
	for p.occupied() == before {
		await(t, p.slot.changes, "insertion")
	}
	p.slot.changed() // what was taken is the suite's
	return remove
}

func (p *port) occupied() *conn {
	p.slot.mu.Lock()
	defer p.slot.mu.Unlock()
	if p.slot.next != nil {
		return p.slot.next
	}
	return p.slot.card
}

type inserting struct {
	*spy
	insert func()
}

func (d inserting) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	r, err := d.spy.Open(ctx, dev)
	if err == nil {
		d.insert()
	}
	return r, err
}

func TestSuiteGuest(t *testing.T) {
	readertest.Suite(t, func(t *testing.T) *readertest.Fixture {
		f := fixture()
		p, h := attach(t, "127.0.0.1:0", nil)
		first := card(t, p)
		until(t, p.Slots()[0], reader.Present)
		f.Unplug = card(t, p)
		f.Device = await(t, h.seen, "announcement")
		f.Driver = Driver{}
		f.Slots = []readertest.Slot{{Fixed: true, NeverSilent: neverSilent}}
		f.Close = func() { f.Unplug(); first(); _ = p.Close() }
		return f
	})
}
