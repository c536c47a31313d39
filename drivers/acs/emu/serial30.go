package emu

import (
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/reader/icc"
)

// Serial30 is an emulated ACR30 on a serial line.
type Serial30 struct {
	core30
	// Pause is how long the reader takes for everything.
	Pause time.Duration

	off  atomic.Bool
	line atomic.Pointer[serialtest.Line] // that it is plugged into, while it has power
}

// NewSerialACR30 makes an ACR30.
func NewSerialACR30() *Serial30 {
	s := &Serial30{Pause: time.Millisecond}
	s.restart()
	s.Contact.OnChange(func() { s.send(s.news()) })
	return s
}

// Contacts returns the one card position.
func (s *Serial30) Contacts() []*icc.Contact { return []*icc.Contact{&s.Contact} }

// Mode is the line's from the beginning.
func (*Serial30) Mode() serial.Mode { return serial.Mode{Baud: 9600, Frame: "8N1"} }

// Switch switches the reader's power supply, which is not the line's.
func (s *Serial30) Switch(on bool) {
	s.off.Store(!on)
	s.restart()
}

// Serve is serialtest.Device.
func (s *Serial30) Serve(l *serialtest.Line) {
	s.line.Store(l)
	defer func() {
		s.line.Store(nil)
		s.restart()
	}()
	var text []byte
	open := false // STX has come
	for {
		e, on := l.Next()
		switch {
		case !on:
			return
		case s.off.Load():
			open = false
		case e.Kind != serialtest.Char:
		case e.Char == 2:
			open, text = true, text[:0]
		case e.Char == 3 && open:
			open = false
			if s.Pause > 0 {
				time.Sleep(s.Pause)
			}
			s.send(s.answer30(l.Context(), string(text)))
		case open && len(text) < 1024:
			text = append(text, e.Char)
		}
	}
}

func (s *Serial30) send(frame string) {
	if l := s.line.Load(); l != nil && !s.off.Load() {
		l.Send([]byte(frame)...)
	}
}
