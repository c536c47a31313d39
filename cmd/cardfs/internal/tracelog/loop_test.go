package tracelog

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
)

// slot is a directory whose trace a test writes.
func slot(t *testing.T) (client.Slot, *os.File) {
	t.Helper()
	s := client.Slot{Dir: t.TempDir(), Name: "7"}
	if err := unix.Mkfifo(s.Path("trace"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.Path("trace"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return s, f
}

// Lines come whole, however they are cut; what is there is read before a context's end
// counts; a file's end is told, and ends the loop if it is the last.
func TestLoop(t *testing.T) {
	one, toOne := slot(t)
	two, toTwo := slot(t)
	var got []string
	var loop Loop
	defer loop.Close()
	follow := func(s client.Slot, name string) {
		if err := loop.Trace(s, func(text string) error {
			got = append(got, name+text)
			return nil
		}, func() error {
			got = append(got, name+"ended")
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	follow(one, "1:")
	follow(two, "2:")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	toOne.WriteString("a\nb")
	if err := loop.Run(over); err != nil {
		t.Fatal(err)
	}
	toOne.WriteString("c\n\nd\n")
	toTwo.WriteString("e\n")
	if err := loop.Run(over); err != nil {
		t.Fatal(err)
	}
	toTwo.Close()
	toOne.WriteString("f\ncut")
	toOne.Close()
	if err := loop.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"1:a", "1:bc", "1:", "1:d", "2:e", "1:f", "1:ended", "2:ended"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A context that ends while nothing comes ends the loop, and an error of a function does.
func TestLoopEnds(t *testing.T) {
	s, to := slot(t)
	for _, fault := range []error{nil, os.ErrClosed} {
		var loop Loop
		ctx, cancel := context.WithCancel(t.Context())
		if err := loop.Trace(s, func(string) error { cancel(); return fault }, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		to.WriteString("line\n")
		if err := loop.Run(ctx); !errors.Is(err, fault) {
			t.Errorf("%v, want %v", err, fault)
		}
		cancel()
		loop.Close()
	}
	var loop Loop
	defer loop.Close()
	if err := loop.Trace(s, func(string) error { return nil }, func() error { return os.ErrClosed }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Millisecond, cancel)
	if err := loop.Run(ctx); err != nil {
		t.Error(err)
	}
	to.Close()
	if err := loop.Run(t.Context()); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

// descriptors counts the open descriptors.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// A silent file does not hold up others, and no descriptor stays open.
func TestLoopOneIsSilent(t *testing.T) {
	one, _ := slot(t)
	two, toTwo := slot(t)
	before := descriptors(t)
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var loop Loop
		for _, s := range []client.Slot{one, two} {
			if err := loop.Trace(s, func(string) error { cancel(); return nil }, func() error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		toTwo.WriteString("line\n")
		if err := loop.Run(ctx); err != nil || ctx.Err() == nil {
			t.Error(err)
		}
		loop.Close()
	}
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors, there were %d", n, before)
	}
}

// Arrivals are reported and other events are not. A line that is no event is an error.
func TestArrivals(t *testing.T) {
	m := &client.Mount{Dir: t.TempDir()}
	if err := new(Loop).Arrivals(m, nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := unix.Mkfifo(m.Path("event"), 0o600); err != nil {
		t.Fatal(err)
	}
	to, err := os.OpenFile(m.Path("event"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	var got []string
	var loop Loop
	defer loop.Close()
	if err := loop.Arrivals(m, func(s client.Slot) error {
		got = append(got, s.Name)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	to.WriteString("1 0 arrived driver=sim\n2 0 ready\n3 7 arrived driver=sim lost=4\n")
	if err := loop.Run(over); err != nil || !slices.Equal(got, []string{"0", "7"}) {
		t.Error(got, err)
	}
	to.WriteString("nonsense\n")
	if err := loop.Run(over); err == nil || len(got) != 2 {
		t.Error(got, err)
	}
}

// A file that one function adds is followed from then on.
func TestLoopGrows(t *testing.T) {
	one, toOne := slot(t)
	two, toTwo := slot(t)
	var loop Loop
	defer loop.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	none := func() error { return nil }
	if err := loop.Trace(one, func(string) error {
		return loop.Trace(two, func(string) error { cancel(); return nil }, none)
	}, none); err != nil {
		t.Fatal(err)
	}
	toOne.WriteString("line\n")
	toTwo.WriteString("line\n")
	if err := loop.Run(ctx); err != nil || ctx.Err() == nil {
		t.Error(err)
	}
}

func TestLoopRefuses(t *testing.T) {
	var loop Loop
	s := client.Slot{Dir: filepath.Join(t.TempDir(), "none"), Name: "7"}
	if err := loop.Trace(s, nil, nil); err == nil || err.Error() != "reader 7 is gone" {
		t.Error(err)
	}
	if len(loop.followed) != 0 {
		t.Error("it is followed")
	}
}
