package reader

import "context"

// AfterLeft has f called, in a goroutine of its own, once the reader left.
func (b *Bay) AfterLeft(f func()) (stop func()) {
	cancel := context.AfterFunc(b.ctx, f)
	return func() { cancel() }
}

// Watch has wake called whenever what Info tells may have changed, and when the reader
// left, until stop is called. It is called with locks held: it must not wait, and not use
// the Bay.
func (b *Bay) Watch(wake func()) (stop func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.watchers == nil {
		b.watchers = make(map[*func()]struct{})
	}
	key := &wake
	b.watchers[key] = struct{}{}
	stopLeft := b.AfterLeft(wake)
	return func() {
		stopLeft()
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.watchers, key)
	}
}

// tell calls who watches. b.mu is held.
func (b *Bay) tell() {
	for wake := range b.watchers {
		(*wake)()
	}
}
