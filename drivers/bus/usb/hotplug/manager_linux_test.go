package hotplug

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// lifeDriver opens readers that die when the test says so.
type lifeDriver struct {
	testDriver
	mu    sync.Mutex
	lives []*lifeReader
}

func (d *lifeDriver) Open(context.Context, reader.Device) (reader.Reader, error) {
	r := &lifeReader{gone: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lives = append(d.lives, r)
	return r, nil
}

// newest returns the reader that was opened last, and how many were opened.
func (d *lifeDriver) newest() (*lifeReader, int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lives[len(d.lives)-1], len(d.lives)
}

// lifeReader has one slot without a card.
type lifeReader struct{ gone chan struct{} }

func (r *lifeReader) Slots() []reader.Slot                          { return []reader.Slot{r} }
func (r *lifeReader) Gone() <-chan struct{}                         { return r.gone }
func (r *lifeReader) Close() error                                  { return nil }
func (r *lifeReader) Changes() <-chan struct{}                      { return make(chan struct{}) }
func (r *lifeReader) Traits() reader.Traits                         { return reader.Traits{} }
func (r *lifeReader) PowerOff(context.Context) error                { return nil }
func (r *lifeReader) Status(context.Context) (reader.Status, error) { return reader.Absent, nil }
func (r *lifeReader) PowerOn(context.Context, reader.Reset) ([]byte, error) {
	return nil, reader.ErrNoCard
}
func (r *lifeReader) Exchange(_ context.Context, _ reader.Transfer, dst []byte) ([]byte, error) {
	return dst, reader.ErrNoCard
}

// managed is a tree with a real Manager on top.
type managed struct {
	*tree
	m      *core.Manager
	d      *lifeDriver
	events *core.Feed[core.Event]
}

// started is a bus that the test starts and ends itself.
type started struct{ *Watcher }

func (started) Watch(context.Context, reader.Host, []reader.Driver) error { return nil }
func (started) Close() error                                              { return nil }

func newManaged(t *testing.T) *managed {
	f := &managed{tree: newTree(t), d: &lifeDriver{testDriver: byPair}}
	f.m = core.NewManager(core.Options{Drivers: []reader.Driver{f.d}, Buses: []reader.Bus{started{f.w}}})
	f.m.WatchBuses()
	f.w.host = f.m
	f.events = f.m.Follow()
	t.Cleanup(func() {
		f.events.Close()
		f.m.Close(context.Background())
	})
	return f
}

// hear waits for the due events, in any order: the order of two readers' events is not
// defined.
func (f *managed) hear(due string) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), time.Minute)
	defer cancel()
	want := slices.Sorted(strings.FieldsSeq(due))
	var got []string
	for range want {
		e, _, err := f.events.Next(ctx)
		if err != nil {
			f.Fatalf("%q, want %q: %v", got, due, err)
		}
		got = append(got, string(e.What))
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		f.Fatalf("%q, want %q", got, want)
	}
}

// silent checks that there is no event once everything has been looked at.
func (f *managed) silent(why string) {
	f.Helper()
	f.quiet()
	if e, _, ok, _ := f.events.TryNext(); ok {
		f.Fatalf("%s: %s", why, e.What)
	}
}

// is checks which device has number 0, by its by-id name.
func (f *managed) is(name string) {
	f.Helper()
	b := f.m.Slot(0)
	if b == nil || b.Info().ByID != name || f.m.Named(name) != b {
		f.Fatalf("number 0 is %v, want %s", b, name)
	}
}

// A device keeps its number and name while its reader dies and is opened again, while it is
// detached and announced again by `rescan`, and when it is replaced by itself. When it
// leaves, it leaves once, whichever source says so first.
func TestManagerAndWatcher(t *testing.T) {
	f := newManaged(t)
	d := d1
	d.attrs = map[string]string{"serial": "S1\n"}
	f.plug(d)
	f.start("uevents")
	f.hear("arrived ready")
	name := f.m.Slot(0).Info().ByID
	f.is(name)

	// The reader dies. Another reader that arrives meanwhile gets the next number.
	r, _ := f.d.newest()
	close(r.gone)
	f.hear("left")
	f.plug(d2)
	f.say(d2.event("add"))
	f.hear("arrived ready arrived ready")
	f.is(name)
	if f.m.Slot(1) == nil {
		t.Error("the other has not number 1")
	}
	f.silent("both are there")

	// Detached: only `rescan` announces it again, and it announces nothing else anew.
	f.must(f.m.Detach(0))
	f.hear("left")
	f.say(d.event("change"), d.ifEvent("bind"))
	f.w.scan(false, true)
	f.silent("it was detached")
	f.m.Rescan()
	f.hear("arrived ready")
	f.is(name)
	f.m.Rescan()
	f.silent("all are there")

	// The open device file reports the departure first, while sysfs still shows the device,
	// and the reader dies.
	n := f.w.known[d.name]
	r, opened := f.d.newest()
	n.departed()
	close(r.gone)
	f.hear("left")
	f.say(d.ifEvent("unbind"), d.event("unbind"))
	f.w.scan(false, true)
	f.silent("it is leaving")
	// It did not leave after all, and a rescan finds it.
	f.m.Rescan()
	f.hear("arrived ready")
	f.is(name)
	if _, now := f.d.newest(); now != opened+1 {
		t.Errorf("opened %d times after it left", now-opened)
	}

	// It returns in another port.
	f.say(d.event("remove"))
	f.hear("left")
	f.unplug(d)
	d.name, d.dev = "3-3", 9
	f.plug(d)
	f.say(d.event("add"))
	f.hear("arrived ready")
	f.is(name)
}
