// Package emu emulates Linux's cm4000_cs with a CardMan Mobile 4000: what the calls on its file
// do. It was written from that driver's behaviour, and shares nothing with the driver of this
// project.
//
// Lock order: Reader.mu, then that of the card in Contact.
package emu

import (
	"context"
	"encoding/binary"
	"math/bits"
	"sync"
	"syscall"
	"time"

	"github.com/cardfs/cardfs/reader/icc"
)

// Reader is an emulated reader behind its driver.
type Reader struct {
	Contact icc.Contact
	// Patience is how long the kernel waits for a silent card; 0: 6 s in T=0, 60 s in T=1.
	Patience time.Duration

	mu     sync.Mutex
	open   bool
	due    time.Time     // when the monitor looks at the card again
	wake   chan struct{} // closed when the card changes
	atr    []byte        // valid
	bad    bool          // the card gives no ATR
	answer []byte        // to be read; nil: none
	told   chan struct{} // closed when there is an answer
}

// monitor is how often the kernel looks for a card.
const monitor = 50 * time.Millisecond

// New makes a reader.
func New() *Reader {
	r := &Reader{wake: make(chan struct{}), told: make(chan struct{})}
	r.Contact.OnChange(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.lose()
	})
	return r
}

// lose forgets the card. r.mu is held.
func (r *Reader) lose() {
	r.atr, r.bad, r.answer = nil, false, nil
	r.due = time.Now().Add(monitor)
	close(r.wake)
	r.wake = make(chan struct{})
}

// Contacts returns the one card position.
func (r *Reader) Contacts() []*icc.Contact { return []*icc.Contact{&r.Contact} }

// Opened is chardevtest.Device.
func (r *Reader) Opened() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open = true
	r.lose()
}

// Closed is chardevtest.Device.
func (r *Reader) Closed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open = false
	r.Contact.Deactivate()
	r.lose()
}

// look is the monitor: it activates a card, and does the PPS. r.mu is held.
func (r *Reader) look(ctx context.Context) {
	if !r.open || r.atr != nil || !r.Contact.Present() || time.Now().Before(r.due) {
		return
	}
	atr, err := r.Contact.Activate(ctx, false)
	if err != nil || len(atr) < 2 {
		r.Contact.Deactivate()
		r.bad = r.Contact.Present() // and it is tried again, which no real kernel may do
		return
	}
	r.bad = false
	r.atr = append([]byte(nil), atr...)
	r.pps()
}

// pps asks for the rate of TA1, if there is no TA2 and no choice of protocols.
func (r *Reader) pps() {
	ta1, t, at := byte(0x11), byte(0), 2
	y := r.atr[1]
	protocols := 0
	for i := 1; y != 0 && at < len(r.atr); i++ {
		next := byte(0)
		for b := byte(0x10); b != 0; b <<= 1 {
			if y&b == 0 || at >= len(r.atr) {
				continue
			}
			switch {
			case b == 0x10 && i == 1:
				ta1 = r.atr[at]
			case b == 0x10 && i == 2:
				return // TA2
			case b == 0x80:
				next = r.atr[at] & 0xF0
				if p := r.atr[at] & 0x0F; protocols == 0 || p != t {
					if p < 2 {
						protocols++
						t = p
					}
				}
			}
			at++
		}
		y = next
	}
	if ta1 == 0x11 || protocols > 1 {
		return
	}
	if r.Contact.PPS([]byte{0xFF, 0x10 | t, ta1, 0xFF ^ 0x10 ^ t ^ ta1}) == nil {
		_, _ = r.Contact.Activate(context.Background(), false)
	}
}

func (r *Reader) status() (s uint32) {
	if !r.Contact.Present() {
		return 0
	}
	s = 0x01
	if r.Contact.Powered() {
		s |= 0x02
	}
	if r.atr != nil {
		s |= 0x0C
	}
	if r.bad {
		s |= 0x20
	}
	return s
}

// valid waits until there is a valid ATR.
func (r *Reader) valid(ctx context.Context) error {
	for {
		r.look(ctx)
		if r.atr != nil {
			return nil
		}
		wake, late := r.wake, time.NewTimer(monitor)
		r.mu.Unlock()
		select {
		case <-wake:
		case <-late.C:
		case <-ctx.Done():
		}
		late.Stop()
		r.mu.Lock()
		if ctx.Err() != nil {
			return syscall.EINTR
		}
	}
}

// Ioctl is chardevtest.Device.
func (r *Reader) Ioctl(ctx context.Context, request uint, data []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look(ctx)
	size := uint(bits.UintSize / 8)
	switch request {
	case 2<<30 | size<<16 | 0x6300:
		binary.NativeEndian.PutUint32(data, r.status())
		return nil
	case 3<<30 | size<<16 | 0x6301:
		if err := r.valid(ctx); err != nil {
			return err
		}
		binary.NativeEndian.PutUint32(data, uint32(len(r.atr)))
		copy(data[4:68], r.atr)
		return nil
	case 0x6304:
		if !r.Contact.Powered() {
			return nil
		}
		r.Contact.Deactivate()
		r.lose()
		return r.valid(ctx)
	}
	return syscall.ENOTTY
}

// Write is chardevtest.Device: it returns when the card has answered.
func (r *Reader) Write(ctx context.Context, p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look(ctx)
	card := &r.Contact
	switch {
	case r.atr == nil || !card.Powered():
		return 0, syscall.EIO
	case len(p) < 4:
		return 0, syscall.EIO
	}
	tx, limit := append([]byte(nil), p...), 60*time.Second
	if card.Protocol() == 0 {
		limit = 6 * time.Second
		if len(tx) == 4 {
			tx = append(tx, 0)
		}
	}
	if r.Patience > 0 {
		limit = r.Patience
	}
	r.answer = nil
	wake := r.wake
	r.mu.Unlock()
	rx := append([]byte(nil), card.TPDU(ctx, tx)...)
	if len(rx) == 0 {
		card.Hold(ctx, limit)
	}
	r.mu.Lock()
	switch {
	case ctx.Err() != nil:
		return 0, syscall.EINTR
	case len(rx) == 0 || wake != r.wake:
		return 0, syscall.EIO
	}
	r.answer = rx
	close(r.told)
	r.told = make(chan struct{})
	return len(p), nil
}

// Read is chardevtest.Device: the answer, of which what is not asked for is lost.
func (r *Reader) Read(ctx context.Context, p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		r.look(ctx)
		if r.answer != nil {
			n := copy(p, r.answer)
			r.answer = nil
			return n, nil
		}
		if r.atr == nil {
			return 0, syscall.EIO
		}
		told, wake := r.told, r.wake
		r.mu.Unlock()
		select {
		case <-told:
		case <-wake:
		case <-ctx.Done():
		}
		r.mu.Lock()
		if ctx.Err() != nil {
			return 0, syscall.EINTR
		}
	}
}
