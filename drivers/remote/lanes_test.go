package remote

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// rig is a line's lanes without files. A start takes a second.
type rig struct {
	*lanes
	log  bytes.Buffer
	lost *lane

	mu     sync.Mutex
	starts int
	closed int
	fail   error // of the next starts
	last   *fakeLane
}

// fakeLane may end by itself.
type fakeLane struct {
	end context.CancelCauseFunc
}

func newRig() *rig {
	r := &rig{}
	first, _ := r.lane()
	first.room, first.gone = firstCards, nil
	r.lanes = newLanes(first, slog.New(slog.NewTextHandler(&r.log, nil)), nil)
	r.start, r.lanes.lost = r.startOne, func(n *lane) { r.lost = n }
	return r
}

func (r *rig) lane() (*lane, *fakeLane) {
	ctx, cancel := context.WithCancelCause(context.Background())
	closeIt := sync.OnceFunc(func() {
		r.mu.Lock()
		r.closed++
		r.mu.Unlock()
		cancel(nil)
	})
	return &lane{room: cardsMost, gone: ctx.Done(), err: func() error { return context.Cause(ctx) }, close: closeIt}, &fakeLane{cancel}
}

func (r *rig) startOne(ctx context.Context) (*lane, error) {
	r.mu.Lock()
	r.starts++
	r.mu.Unlock()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return nil, r.fail
	}
	n, fake := r.lane()
	r.last = fake
	return n, nil
}

// expect checks how often a lane was started and closed, and the cards in each.
func (r *rig) expect(t *testing.T, starts, closed int, cards ...int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lanes.mu.Lock()
	defer r.lanes.mu.Unlock()
	var got []int
	for _, n := range r.all {
		got = append(got, n.cards)
	}
	if r.starts != starts || r.closed != closed || len(got) != len(cards) {
		t.Fatalf("%d starts, %d closed, cards %d; want %d, %d, %d", r.starts, r.closed, got, starts, closed, cards)
	}
	for i := range cards {
		if got[i] != cards[i] {
			t.Fatalf("cards %d, want %d", got, cards)
		}
	}
}

// takeAll has n cards take places at once.
func (r *rig) takeAll(t *testing.T, n int) (taken []*lane) {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range n {
		wg.Go(func() {
			n, err := r.take(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			taken = append(taken, n)
			mu.Unlock()
		})
	}
	wg.Wait()
	return taken
}

// Cards have room for their calls; lanes are started one at a time, no more than are needed,
// and closed when they have carried none for a while.
func TestLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		defer r.close()
		began := time.Now()
		taken := r.takeAll(t, firstCards)
		r.expect(t, 0, 0, firstCards)
		further := r.takeAll(t, 2*cardsMost)
		r.expect(t, 2, 0, firstCards, cardsMost, cardsMost)
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("two starts of a second, one after the other, took %v", took)
		}
		r.leave(taken[0])
		r.takeAll(t, 1)
		r.expect(t, 2, 0, firstCards, cardsMost, cardsMost)
		for _, n := range further {
			r.leave(n)
		}
		r.expect(t, 2, 0, firstCards, 0, 0)
		time.Sleep(laneRest - time.Second)
		back := r.takeAll(t, 1)[0]
		time.Sleep(time.Minute)
		synctest.Wait()
		r.expect(t, 2, 1, firstCards, 1)
		r.leave(back)
		time.Sleep(laneRest + time.Second)
		synctest.Wait()
		r.expect(t, 2, 2, firstCards)
	})
}

// There is a bound, above which cards share the lanes.
func TestLanesMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		want := []int{firstCards + 2}
		for len(want) < lanesMost {
			want = append(want, cardsMost+1)
		}
		r.takeAll(t, firstCards+(lanesMost-1)*cardsMost+lanesMost+1)
		r.expect(t, lanesMost-1, 0, want...)
		r.close()
		r.expect(t, lanesMost-1, lanesMost)
	})
}

// A directory that somebody else mounted has one lane for all.
func TestOneLane(t *testing.T) {
	r := newRig()
	r.start = nil
	r.takeAll(t, 100)
	r.expect(t, 0, 0, 100)
	r.close()
}

// "Never an error for the user while the first works": without another lane cards share the
// first; it is said, and not tried again for each card.
func TestNoFurtherLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		defer r.close()
		r.fail = errors.New("MaxStartups")
		r.takeAll(t, firstCards+3)
		r.expect(t, 1, 0, firstCards+3)
		if said := r.log.String(); strings.Count(said, "cannot be started") != 1 || !strings.Contains(said, "MaxStartups") {
			t.Errorf("the log has %q", said)
		}
		time.Sleep(laneRest)
		r.fail = nil
		r.takeAll(t, 1)
		r.expect(t, 2, 0, firstCards+3, 1)
	})
}

// A lane that ends by itself gets no card any more. Its cards go where there is room, and none
// is started in its place at once.
func TestLaneEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		defer r.close()
		r.takeAll(t, firstCards)
		lost := r.takeAll(t, 1)[0]
		r.expect(t, 1, 0, firstCards, 1)
		r.last.end(errors.New("cut"))
		if !lost.ended() {
			t.Error("the lane has not ended")
		}
		if n := r.takeAll(t, 1)[0]; n == lost {
			t.Error("a card takes a place in a lane that has ended")
		}
		synctest.Wait()
		r.leave(lost)
		time.Sleep(laneRest)
		synctest.Wait()
		r.expect(t, 1, 1, firstCards+1)
		if r.lost != lost {
			t.Error("its sessions were not ended")
		}
		if said := r.log.String(); strings.Count(said, "ended") != 1 || !strings.Contains(said, "cut") {
			t.Errorf("the log has %q", said)
		}
	})
}

// Who starts a lane may give up; another one who waits for it starts it.
func TestLaneGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		defer r.close()
		r.takeAll(t, firstCards)
		for _, patience := range []time.Duration{900, 500} { // of the one who starts it, and of one who waits
			ctx, cancel := context.WithTimeout(t.Context(), patience*time.Millisecond)
			defer cancel()
			go func() {
				if n, err := r.take(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v, %v", n, err)
				}
			}()
			synctest.Wait()
		}
		r.takeAll(t, 1)
		r.expect(t, 2, 0, firstCards, 1)
		if r.log.Len() > 0 {
			t.Errorf("the log has %q", &r.log)
		}
	})
}

// "Close must close all", and one that is being started.
func TestLanesClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		r.takeAll(t, firstCards+cardsMost)
		ended := make(chan error)
		go func() {
			_, err := r.take(t.Context())
			ended <- err
		}()
		synctest.Wait()
		r.close()
		if err := <-ended; !errors.Is(err, reader.ErrAway) {
			t.Error(err)
		}
		r.expect(t, 2, 3)
		if n, err := r.take(t.Context()); err == nil {
			t.Errorf("a place in %v after the end", n)
		}
	})
}
