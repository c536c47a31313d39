package usbtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// Table is a device that answers each transfer by a table, for answers that a Device could not
// give: see Failures. It is its own connection.
type Table struct {
	usb.Conn
	// Answers are by transfer: "IN C0 81" has bmRequestType and bRequest; "IN C1 01 0000 0000 20"
	// has wValue, wIndex and the number of bytes as well, and counts before; "IN 81" is an
	// endpoint, and "reset" one of the port. What is not there succeeds without data.
	Answers map[string]Answer
	Desc    []byte // the descriptors

	Waits  []time.Duration // the time-outs that the transfers were given
	Buffer []byte          // that the latest transfer to the host was given
	Resets int             // of the port
}

var _ usb.Opener = (*Table)(nil)

// Answer is what comes of a transfer.
type Answer struct {
	Data []byte
	N    int // if not 0, claimed instead of len(Data)
	Err  error
}

// Failures are answers that no driver accepts, with the error that the core gets.
var Failures = []struct {
	Name string
	Answer
	Is error
}{
	{"stall", Answer{Err: usb.ErrStall}, reader.ErrProtocol},
	{"babble", Answer{Err: usb.ErrOverflow}, reader.ErrProtocol},
	{"reset", Answer{Err: usb.ErrReset}, reader.ErrProtocol},
	{"time-out", Answer{Err: usb.ErrTimeout}, reader.ErrTimeout},
	{"gone", Answer{Err: reader.ErrGone}, reader.ErrGone},
	{"cancelled", Answer{Err: context.Canceled}, context.Canceled},
	{"claims too many bytes", Answer{N: 256}, reader.ErrProtocol},
	{"claims a negative number", Answer{N: -1}, reader.ErrProtocol},
}

// OpenUSB is usb.Opener.
func (d *Table) OpenUSB(context.Context, uint8) (usb.Conn, error) { return d, nil }

// Gone is usb.Conn: it does not leave.
func (d *Table) Gone() <-chan struct{} { return nil }

// Close is usb.Conn.
func (d *Table) Close() error { return nil }

// Descriptors is usb.Conn.
func (d *Table) Descriptors() []byte { return d.Desc }

// Reset is usb.Conn.
func (d *Table) Reset(context.Context) error {
	d.Resets++
	return d.Answers["reset"].Err
}

// Control is usb.Conn.
func (d *Table) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	key := fmt.Sprintf("%v %04X %04X %02X", s, s.Value, s.Index, len(data))
	if _, ok := d.Answers[key]; !ok {
		key = s.String()
	}
	return d.transfer(ctx, key, s.In(), data, timeout)
}

// In is usb.Conn.
func (d *Table) In(ctx context.Context, ep uint8, data []byte, timeout time.Duration) (int, error) {
	return d.transfer(ctx, fmt.Sprintf("IN %02X", ep), true, data, timeout)
}

func (d *Table) transfer(ctx context.Context, key string, in bool, data []byte, timeout time.Duration) (int, error) {
	d.Waits = append(d.Waits, timeout)
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if timeout <= 0 {
		return 0, errors.New("a transfer without a time-out")
	}
	a, ok := d.Answers[key]
	n := len(data)
	switch {
	case in:
		d.Buffer, n = data, copy(data, a.Data)
	case ok:
		n = 0
	}
	if a.N != 0 {
		n = a.N
	}
	return n, a.Err
}
