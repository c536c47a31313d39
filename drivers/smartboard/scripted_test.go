package smartboard

import (
	"context"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
)

// scripted is a port with a reader whose answers a test chooses.
type scripted struct {
	serial.Port
	answers []string // to each command, in hex; empty: silence
	last    string   // the answer to all others
	in      []byte
	sent    []string
	waits   []time.Duration // the first for each answer
	wrote   bool
	breaks  int
	lines   error // of SetLines
	left    error // of what is written
}

func (p *scripted) Write(_ context.Context, b []byte) error {
	p.sent, p.wrote = append(p.sent, fmt.Sprintf("% X", b)), true
	answer := p.last
	if len(p.answers) > 0 {
		answer, p.answers = p.answers[0], p.answers[1:]
	}
	p.in = append(p.in, unhex(answer)...)
	return p.left
}

func (p *scripted) Read(ctx context.Context, b []byte, wait time.Duration) (int, error) {
	if p.wrote {
		p.waits, p.wrote = append(p.waits, wait), false
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if len(p.in) == 0 {
		time.Sleep(wait)
		return 0, serial.ErrTimeout
	}
	n := copy(b, p.in)
	p.in = p.in[n:]
	return n, nil
}

func (p *scripted) SetLines(context.Context, serial.Lines, serial.Lines) error { return p.lines }
func (p *scripted) Break(context.Context, time.Duration) error                 { p.breaks++; return nil }
func (p *scripted) Flush() error                                               { p.in = p.in[:0]; return nil }
func (p *scripted) Gone() <-chan struct{}                                      { return nil }
func (p *scripted) Close() error                                               { return nil }

func (p *scripted) OpenSerial(context.Context, serial.Mode) (serial.Port, error) { return p, nil }

// slotWith is an open slot whose reader gives these answers, and the port.
func slotWith(answers ...string) (*slot, *scripted) {
	p := &scripted{answers: answers}
	s := &slot{name: "smartboard /dev/ttyS0", powered: true}
	s.Port = p
	return s, p
}

const (
	waits    = "00 05 61 08 00 00 02" // a card that was not reset
	after    = "00 05 61 19 01 00 04" // one that was
	noCard   = "00 05 61 00 00 00 01"
	accepted = "00 01 62"
)
