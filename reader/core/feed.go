package core

import (
	"context"
	"strconv"
	"sync"

	"github.com/cardfs/cardfs/reader"
)

// Event is one thing that happened to a slot.
type Event struct {
	Seq  uint64 // counts from 1 for the life of the daemon
	Slot int    // number of the slot's directory
	What What
	More string // " key=value key=value", or ""
}

// What says what happened.
type What string

const (
	Arrived  What = "arrived"  // the device was announced; its directory is there
	Ready    What = "ready"    // the driver initialised it
	Failed   What = "failed"   // it could not, or the card could not be powered
	Inserted What = "inserted" // a card is in the slot
	PowerSet What = "powered"  // the card was activated, or (power=off) deactivated
	WasReset What = "reset"    // the card was reset while powered
	Removed  What = "removed"  // the card is gone
	Left     What = "left"     // the reader is gone
)

// Append renders the event as a line without its newline.
func (e Event) Append(dst []byte) []byte {
	dst = strconv.AppendUint(dst, e.Seq, 10)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, int64(e.Slot), 10)
	dst = append(dst, ' ')
	dst = append(dst, e.What...)
	return append(dst, e.More...)
}

// feedLen is how many events or trace lines wait for a slow reader before the
// oldest are dropped.
const feedLen = 1024

// feedBytes bounds the waiting bytes of trace as well: a line may have 200 kB.
const feedBytes = 4 << 20

// Feed is one follower of a stream: a bounded queue that never slows the
// writer. T is what the stream carries.
type Feed[T any] struct {
	source *source[T]

	mu    sync.Mutex
	queue []T
	head  int
	limit int // of what waits
	bytes int // of what waits, where the source weighs it
	lost  uint64
	err   error // set when the source ended; what is queued is delivered first
	wake  chan struct{}
	watch func() // nil: nobody watches
}

// Next returns the next item and how many were dropped before it. It waits for
// one until ctx ends (ErrInterrupted) or the source does (its error).
func (f *Feed[T]) Next(ctx context.Context) (item T, lost uint64, err error) {
	for {
		item, lost, ok, err := f.TryNext()
		if ok || err != nil {
			return item, lost, err
		}
		select {
		case <-f.wake:
		case <-ctx.Done():
			if item, lost, ok, err := f.TryNext(); ok || err != nil {
				return item, lost, err // what is there comes before the interruption
			}
			return item, 0, reader.ErrInterrupted
		}
	}
}

// TryNext is Next without waiting; ok is false when nothing is there yet.
func (f *Feed[T]) TryNext() (item T, lost uint64, ok bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.head < len(f.queue) {
		lost, f.lost = f.lost, 0
		return f.take(), lost, true, nil
	}
	return item, 0, false, f.err
}

// take takes the oldest item, which is there.
func (f *Feed[T]) take() T {
	var zero T
	item := f.queue[f.head]
	f.queue[f.head] = zero
	f.bytes -= f.source.weight(item)
	if f.head++; f.head == len(f.queue) {
		f.queue, f.head = f.queue[:0], 0
	}
	return item
}

// Watch has wake called whenever an item comes or the source ends; nil ends that. It is called
// with locks held: it must not wait, and not use the feed.
func (f *Feed[T]) Watch(wake func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watch = wake
}

// Ready reports what TryNext would find: an item, or that the source ended.
func (f *Feed[T]) Ready() (item, ended bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.head < len(f.queue), f.err != nil
}

// told wakes whoever waits for the next item. f.mu is held.
func (f *Feed[T]) told() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
	if f.watch != nil {
		f.watch()
	}
}

// Close ends the subscription.
func (f *Feed[T]) Close() { f.source.remove(f) }

func (f *Feed[T]) put(item T) {
	f.mu.Lock()
	if f.err == nil {
		n := f.source.weight(item)
		for f.head < len(f.queue) && (len(f.queue)-f.head >= f.limit || f.bytes+n > feedBytes) {
			f.take()
			f.lost++
		}
		f.bytes += n
		// The dropped and delivered part in front is reused before growing.
		if f.head > 0 && len(f.queue) == cap(f.queue) {
			n := copy(f.queue, f.queue[f.head:])
			clear(f.queue[n:])
			f.queue, f.head = f.queue[:n], 0
		}
		f.queue = append(f.queue, item)
	}
	f.told()
	f.mu.Unlock()
}

func (f *Feed[T]) end(err error) {
	f.mu.Lock()
	f.err = err
	f.told()
	f.mu.Unlock()
}

// source is the writing end of feeds. Its zero value is ready.
type source[T any] struct {
	weigh func(T) int // bytes; nil: they do not count

	mu    sync.Mutex
	feeds map[*Feed[T]]struct{}
	err   error
}

// add subscribes; what snapshot returns comes first, with nothing lost or
// doubled between it and what follows.
func (s *source[T]) add(snapshot func() []T) *Feed[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &Feed[T]{source: s, wake: make(chan struct{}, 1), err: s.err}
	if snapshot != nil {
		f.queue = snapshot()
		for _, item := range f.queue {
			f.bytes += s.weight(item)
		}
	}
	f.limit = len(f.queue) + feedLen
	if s.err == nil {
		if s.feeds == nil {
			s.feeds = make(map[*Feed[T]]struct{})
		}
		s.feeds[f] = struct{}{}
	}
	return f
}

func (s *source[T]) weight(item T) int {
	if s.weigh == nil {
		return 0
	}
	return s.weigh(item)
}

func (s *source[T]) remove(f *Feed[T]) {
	s.mu.Lock()
	delete(s.feeds, f)
	s.mu.Unlock()
	f.end(reader.ErrGone)
}

func (s *source[T]) put(item T) {
	s.mu.Lock()
	for f := range s.feeds {
		f.put(item)
	}
	s.mu.Unlock()
}

// end delivers what is queued to each follower and then err for ever.
func (s *source[T]) end(err error) {
	s.mu.Lock()
	s.err = err
	for f := range s.feeds {
		f.end(err)
	}
	clear(s.feeds)
	s.mu.Unlock()
}
