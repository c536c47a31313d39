package ccid

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
)

// stream is a reader that answers each XfrBlock with n bytes, in packets of 64. A
// transfer ends when the host's buffer is full, or with a packet that is not full (USB
// 2.0 §5.8.3). After a last packet that is full nothing follows, unless empty is set:
// then an empty packet does.
type stream struct {
	mirror
	n     int
	says  uint32 // announced in dwLength; 0: the true length
	empty bool
	left  []byte
	fresh bool  // nothing of the message was read yet
	asked []int // sizes of the reads of the last message
}

func (s *stream) OpenUSB(context.Context, uint8) (usb.Conn, error) { return s, nil }

func (s *stream) Out(ctx context.Context, ep uint8, p []byte, zlp bool, d time.Duration) (int, error) {
	n, err := s.mirror.Out(ctx, ep, p, zlp, d)
	s.left, s.fresh, s.asked = bytes.Clone(s.answer), true, nil
	if p[0] == cmdXfrBlock {
		s.left = append(s.left[:headerLen], pattern(s.n)...)
		binary.LittleEndian.PutUint32(s.left[1:], uint32(s.n))
		if s.says > 0 {
			binary.LittleEndian.PutUint32(s.left[1:], s.says)
		}
	}
	return n, err
}

func (s *stream) In(ctx context.Context, ep uint8, p []byte, d time.Duration) (int, error) {
	s.asked = append(s.asked, len(p))
	if len(s.left) == 0 && !s.fresh && !s.empty {
		return 0, usb.ErrTimeout
	}
	n := copy(p, s.left)
	s.left, s.fresh = s.left[n:], false
	if len(s.left) == 0 && n%64 == 0 && n < len(p) && !s.empty {
		return n, usb.ErrTimeout // the host still waits for the end of the transfer
	}
	return n, nil
}

// Reads ask for whole packets, and for no more than the header announces. Otherwise the
// driver would wait for a reader that sends no empty packet after a message of whole
// packets that is longer than the first read.
func TestMessageLongerThanTheFirstRead(t *testing.T) {
	for _, n := range []int{2, 1013, 1014, 1015, 1024 + 64 - 10, 1024 + 65 - 10, 4096 - 10, 65544} {
		for _, empty := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d bytes, empty packet %v", n, empty), func(t *testing.T) {
				s := streaming(t, &stream{n: n, empty: empty})
				for range 2 { // the empty packet after the first message precedes the second
					got, err := s.exchange()
					if err != nil || !bytes.Equal(got, pattern(n)) {
						t.Fatalf("%d bytes, %v; reads of %v", len(got), err, s.asked)
					}
				}
				if first := s.asked[0]; first > firstRead {
					t.Errorf("the first read asked for %d bytes", first)
				}
			})
		}
	}
}

// An impossible length costs no memory and ends in a protocol error.
func TestMessageThatSaysItIsLonger(t *testing.T) {
	for _, says := range []uint32{70000, 0x7FFFFFFF, 0xFFFFFFF6, 0xFFFFFFFF} {
		s := streaming(t, &stream{n: 2000, says: says})
		if _, err := s.exchange(); !errors.Is(err, reader.ErrProtocol) {
			t.Errorf("dwLength %08X: %v", says, err)
		}
		for _, n := range s.asked {
			if n > s.most {
				t.Errorf("dwLength %08X: a read of %d bytes", says, n)
			}
		}
	}
}

type streamed struct {
	*stream
	slot reader.Slot
	most int
}

func (s streamed) exchange() ([]byte, error) {
	return s.slot.Exchange(ctx, reader.Transfer{Out: []byte{0, 0xB0, 0, 0, 0}, Wait: time.Second}, nil)
}

func streaming(t *testing.T, s *stream) streamed {
	t.Helper()
	cfg := emu.ExtendedAPDUReader()
	cfg.NoInterrupt = true
	cfg.MaxMessage = 65556
	s.mirror = mirror{chaos: chaos{desc: newDevice(cfg).Descriptors(), gone: make(chan struct{})}}
	r, err := Driver{}.Open(ctx, reader.Device{Link: s})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return streamed{s, r.Slots()[0], 65556 + 2*firstRead}
}
