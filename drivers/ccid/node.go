package ccid

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/chardev"
	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// unproven is what `status` and the log say of readers with a device file.
const unproven = "such a reader has no descriptor, its properties are assumed, and no real one is known to have answered a command"

// nodeModel is a reader with a device file.
type nodeModel struct {
	serialModel
	files string // how its files' names begin
}

// pcCard is what is assumed of a PC card (PCMCIA) with CCID. Nothing asks such a reader what
// it can do: it has no descriptors, and its module in Linux passes messages on as they are.
// OpenCT 0.6.20 guessed too, among them a level of APDUs and a voltage that the reader finds.
// Here the host does what can be done by it: TPDUs, T=1, parameters. PC cards have 5 V. There
// is no PPS for a rate, so that cards keep that of their ATR.
func pcCard(maker, name, files string) nodeModel {
	m := serialModel{
		maker: maker, name: name, slots: 1, clock: 4000, rate: 4_000_000 / 372, voltages: 1,
		features: LevelTPDU | AutoClock | AutoBaud, polled: true,
	}
	return nodeModel{m, files}
}

// nodeModels are more values of the parameter model. The numbers are those in the PC card's
// own description (Linux 6.1, cm4040_cs: manufacturer 0223, card 0200), and no USB ones. Those
// of the other are not known.
var nodeModels = func() map[string]nodeModel {
	cm4040 := pcCard("OMNIKEY", "CardMan 4040", "cmx")
	cm4040.vendor, cm4040.product = 0x0223, 0x0200
	return map[string]nodeModel{"cm4040": cm4040, "scr243": pcCard("SCM", "SCR243", "scr24x")}
}()

// nodeModelOf returns the reader that the parameter model or the name of the file says; false
// if it is one on a serial port.
func nodeModelOf(dev reader.Device) (nodeModel, bool) {
	if name, given := dev.Params["model"]; given {
		m, ok := nodeModels[name]
		return m, ok
	}
	for _, name := range slices.Sorted(maps.Keys(nodeModels)) {
		if m := nodeModels[name]; strings.HasPrefix(filepath.Base(dev.Address), m.files) {
			return m, true
		}
	}
	return nodeModels["cm4040"], false
}

// attachNode completes the announcement of a reader with a device file.
func (d Driver) attachNode(dev reader.Device, m nodeModel) (reader.Device, error) {
	dev.ID, dev.Slots = reader.ID{Model: m.maker + " " + m.name}, int(m.slots)
	return chardev.Attach(dev, d.Log)
}

// nodeLink is the usb.Opener of a reader with a device file.
type nodeLink struct {
	reader.Link
	dev   reader.Device
	model nodeModel
}

var _ usb.Opener = nodeLink{}

// Descriptors is usb.Opener.
func (l nodeLink) Descriptors() []byte { return l.model.descriptors() }

// OpenUSB is usb.Opener. It waits for the file.
func (l nodeLink) OpenUSB(ctx context.Context, _ uint8) (usb.Conn, error) {
	n, err := chardev.Open(ctx, l.dev)
	if err != nil {
		return nil, err
	}
	return &nodeConn{noUSB{l.model.serialModel}, n, reader.Pauser{}}, nil
}

// nodeConn carries the messages of a reader with a device file of Linux's cm4040_cs
// (/dev/cmx0) or scr24x_cs (/dev/scr24x0). As is read in their sources (Linux 6.1), a message
// goes out whole by one write and comes in whole by one read, of which what is not asked for is
// lost; there is no interrupt endpoint, and no request of the class. Both leave an earlier
// user's answers in the reader. A read of cm4040_cs blocks for as long as the command may take,
// but it has a poll, by which package chardev waits; one of scr24x_cs ends after 2 s.
type nodeConn struct {
	noUSB
	node   chardev.Node
	pauser reader.Pauser
}

var _ usb.Conn = (*nodeConn)(nil)

const (
	// nodeMost is the longest message that a module reads: 512 bytes, of scr24x_cs 271.
	nodeMost = 512
	// nodeTick is how often cm4040_cs looks at the reader.
	nodeTick = 10 * time.Millisecond
	// nodeSilence: a read that fails sooner was not waiting for an answer. Modules wait for
	// 2 s (scr24x_cs), and for 3, 35 or 150 s (cm4040_cs, by the kind of the command).
	nodeSilence = time.Second
)

// again calls f while it says EAGAIN, which means that nothing was moved, until then.
func (c *nodeConn) again(ctx context.Context, timeout time.Duration, f func(left time.Duration) (int, error)) (int, error) {
	until := time.Now().Add(timeout)
	for {
		left := time.Until(until)
		if left <= 0 {
			return 0, fmt.Errorf("not within %v: %w", timeout, reader.ErrTimeout)
		}
		n, err := f(left)
		if !errors.Is(err, syscall.EAGAIN) {
			return n, err
		}
		if err := c.pauser.Pause(ctx, c.node.Gone(), nodeTick); err != nil {
			return 0, err
		}
	}
}

// Out sends a command.
func (c *nodeConn) Out(ctx context.Context, _ uint8, p []byte, _ bool, timeout time.Duration) (int, error) {
	n, err := c.again(ctx, timeout, func(left time.Duration) (int, error) { return c.node.Write(ctx, p, left) })
	if errors.Is(err, syscall.EIO) {
		err = fmt.Errorf("the reader did not take it (%w): %w", err, reader.ErrTimeout)
	}
	return n, err
}

// In returns the next message. The kernel's own limit is not that of the command, so that a
// read which it ended for the reader's silence begins anew.
func (c *nodeConn) In(ctx context.Context, _ uint8, p []byte, timeout time.Duration) (int, error) {
	return c.again(ctx, timeout, func(left time.Duration) (int, error) {
		start := time.Now()
		n, err := c.node.Read(ctx, p[:min(len(p), nodeMost)], left)
		switch {
		case !errors.Is(err, syscall.EIO):
		case time.Since(start) >= nodeSilence:
			err = syscall.EAGAIN
		default:
			err = fmt.Errorf("the kernel cannot read it (%w): %w", err, reader.ErrProtocol)
		}
		return n, err
	})
}

// Gone is usb.Conn.
func (c *nodeConn) Gone() <-chan struct{} { return c.node.Gone() }

// Close is usb.Conn.
func (c *nodeConn) Close() error { return c.node.Close() }
