package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/cardfs/cardfs/tests/internal/ptys"
)

// The subjects of serial readers, which are emulated in this process, behind
// pseudo-terminals.
const (
	idleTelling = "idle CPU, serial readers that tell of their cards"
	idlePolled  = "idle CPU, serial readers that are polled"
)

// serialReaders is how many serial readers are attached for the idle CPU.
const serialReaders = 16

// open opens a reader that ends with the environment.
func (e *env) open(k ptys.Kind) (*ptys.Reader, error) {
	r, err := k.Open()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.Name(), err)
	}
	e.closers = append(e.closers, func() error { r.Close(); return nil })
	return r, nil
}

// attach starts a cardfs with these readers, and returns when all have read their cards.
func (e *env) attach(ctx context.Context, name string, readers ...*ptys.Reader) (pid int, err error) {
	args := []string{"--usb=off"}
	for _, r := range readers {
		args = append(args, "--attach", strings.TrimPrefix(r.Attach(), "attach "))
	}
	d, err := e.mount(ctx, name, args...)
	if err != nil {
		return 0, err
	}
	all, err := os.ReadDir(e.path(name + "/by-id"))
	if err != nil {
		return 0, err
	}
	for _, slot := range all {
		if !strings.HasSuffix(slot.Name(), "-slot0") {
			continue
		}
		if _, err := os.ReadFile(e.path(name + "/by-id/" + slot.Name() + "/atr")); err != nil {
			return 0, err
		}
	}
	return d.Pid(), nil
}

// serialIdle watches a cardfs with readers that nobody uses: readers that tell of their cards,
// and readers that have to be asked, of all kinds.
func (e *env) serialIdle(ctx context.Context) error {
	for _, x := range []struct {
		name, dir string
		tells     bool
	}{{idleTelling, "telling", true}, {idlePolled, "polled", false}} {
		var kinds []ptys.Kind
		for _, k := range ptys.Kinds {
			if k.Tells == x.tells {
				kinds = append(kinds, k)
			}
		}
		var readers []*ptys.Reader
		for i := range serialReaders {
			r, err := e.open(kinds[i%len(kinds)])
			if err != nil {
				return err
			}
			readers = append(readers, r)
		}
		pid, err := e.attach(ctx, x.dir, readers...)
		if err != nil {
			return err
		}
		e.once = append(e.once, subject{x.name, share, func(ctx context.Context) ([]float64, error) {
			sent := func() (n int) {
				for _, r := range readers {
					out, in := r.Plugged.Sent()
					n += out + in
				}
				return n
			}
			characters := sent()
			before, err := onCPU(pid)
			if err != nil {
				return nil, err
			}
			select {
			case <-time.After(e.idle):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			after, err := onCPU(pid)
			each := float64(sent()-characters) / serialReaders / e.idle.Seconds()
			if x.tells && each > 0 {
				return nil, fmt.Errorf("%.1f characters a second to and from a reader that tells of its card", each)
			}
			e.notes[x.name] = fmt.Sprintf("the poll: %.0f characters a second to and from each", each)
			return []float64{(after - before) / float64(e.idle) / serialReaders}, err
		}})
	}
	return nil
}
