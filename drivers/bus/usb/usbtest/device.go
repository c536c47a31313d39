package usbtest

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/cardfs/cardfs/drivers/bus/usb"
)

// Model is one kind of device. Functions that are nil do nothing, and transfers that no
// function serves stall. None is called with a lock held.
type Model struct {
	// Identity is what the device says of itself.
	Identity Identity
	// Descriptors are the device descriptor followed by the configuration descriptors, as
	// usb.Conn has them. They and Strings replace Identity in a model that has any: what a
	// device was seen to say, or should not say.
	Descriptors []byte
	// Strings are the string descriptors from number 1 on. An empty string stands for a
	// descriptor that the device does not have.
	Strings []string

	// Control serves a control transfer other than a standard request. In a
	// transfer to the host it fills data, which is wLength long; in one to the
	// device data is the data stage. It returns the bytes moved. An error is
	// usb.ErrStall, ErrNAK, or one that the host is to see. ctx ends when the host
	// gives the transfer up. The device does one control transfer at a time.
	Control func(ctx context.Context, s usb.Setup, data []byte) (int, error)
	// Accepts reports whether an OUT endpoint takes a transfer. One that is refused stalls,
	// and halts the endpoint. Nil takes all.
	Accepts func(ep uint8, p []byte) bool
	// Out takes a transfer to an OUT endpoint. p is the function's to keep.
	Out func(ep uint8, p []byte)
	// In is asked for a transfer when the host reads from an IN endpoint for
	// which nothing was sent. It reports false when there is none; Wake has it
	// asked again.
	In func(ep uint8) ([]byte, bool)

	// Configured is called when a host begins to use the device: it selects a
	// configuration, or claims an interface in this process.
	Configured func()
	// Reset is called when the host resets the port, before what was sent and not fetched
	// is dropped.
	Reset func()
	// Unplugged is called when the device has lost its power.
	Unplugged func()
}

// ErrNAK is returned by Model.Control when the device has no answer. The transfer
// waits until the host gives it up.
var ErrNAK = errors.New("usbtest: the device has no answer")

// Device is an emulated USB device. It outlives being unplugged.
type Device struct {
	model Model

	plugging sync.Mutex // held while the device is plugged in or out; comes before mu
	work     sync.WaitGroup

	mu        sync.Mutex
	port      *Port // where the device is plugged in; nil: nowhere
	endpoints [32]endpoint
	wake      chan struct{} // closed and replaced when a transfer that waits may go on
	resets    int
	config    uint8
	alternate map[uint16]uint8 // setting, by interface
	faults    []*Fault
	dead      bool // answers nothing until its port is reset
	forGood   bool // nor after that
	observe   func(Line)
}

// endpoint is one endpoint, or the default pipe.
type endpoint struct {
	packet int // wMaxPacketSize; 0: there is no such endpoint
	halted bool
	held   bool

	// What the host has not fetched is queue[first:].
	queue []transfer
	first int
}

type transfer struct {
	data []byte
	err  error // instead of data
	// exact: an end in a full packet is not told from the beginning of more, unless an
	// empty packet follows (zlp).
	exact, zlp bool
}

func (e *endpoint) push(t transfer) { e.queue = append(e.queue, t) }

func (e *endpoint) pop() {
	e.queue[e.first] = transfer{}
	if e.first++; e.first == len(e.queue) {
		e.queue, e.first = e.queue[:0], 0
	}
}

func (e *endpoint) reset() { e.queue, e.first, e.halted = nil, 0, false }

// at is the endpoint with that address. d.mu is held.
func (d *Device) at(address uint8) *endpoint {
	return &d.endpoints[address&0x0F|address>>3&0x10]
}

// New makes a device. It is not plugged in.
func New(m Model) *Device {
	if m.Descriptors == nil {
		m.Descriptors, m.Strings = m.Identity.Descriptors(), m.Identity.strings()
	}
	d := &Device{model: m, wake: make(chan struct{}), alternate: make(map[uint16]uint8)}
	for _, i := range usb.Interfaces(m.Descriptors) {
		for _, e := range i.Endpoints {
			d.at(e.Address).packet = max(1, e.MaxPacket)
		}
	}
	return d
}

// Plug plugs the device in. If it is plugged in already it is unplugged first.
func (d *Device) Plug() *Port {
	d.plugging.Lock()
	defer d.plugging.Unlock()
	d.unplug()
	p := &Port{d: d, claims: make(map[uint8]bool), control: make(chan struct{}, 1)}
	p.ctx, p.leave = context.WithCancel(context.Background())
	d.mu.Lock()
	defer d.mu.Unlock()
	d.port = p
	return p
}

// Unplug unplugs the device: every transfer ends with reader.ErrGone. It returns when all
// functions started by Go have returned.
func (d *Device) Unplug() {
	d.plugging.Lock()
	defer d.plugging.Unlock()
	d.unplug()
}

// Drop unplugs the device from within its own functions, for which Unplug would wait.
func (d *Device) Drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop()
}

// drop is Drop with d.mu held.
func (d *Device) drop() {
	if d.port != nil && d.port.ctx.Err() == nil {
		d.port.leave()
		d.note(Line{Kind: Unplug})
	}
}

// unplug is Unplug with plugging held.
func (d *Device) unplug() {
	d.mu.Lock()
	was := d.port
	d.drop()
	d.port = nil
	d.mu.Unlock()
	d.work.Wait()
	if was == nil {
		return
	}
	d.mu.Lock()
	for i := range d.endpoints {
		d.endpoints[i].reset()
	}
	clear(d.alternate)
	d.config, d.dead = 0, d.forGood
	d.mu.Unlock()
	if d.model.Unplugged != nil {
		d.model.Unplugged()
	}
}

// unplugged is the context of a device that is not plugged in.
var unplugged = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// Context ends when the device is unplugged.
func (d *Device) Context() context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.port == nil {
		return unplugged
	}
	return d.port.ctx
}

// Go runs f beside the transfers. Unplug waits for it. A device that is not
// plugged in does not run it.
func (d *Device) Go(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.port != nil && d.port.ctx.Err() == nil {
		d.work.Go(f)
	}
}

// Send queues a transfer to the host on an IN endpoint. It keeps p.
func (d *Device) Send(ep uint8, p []byte) { d.send(ep, transfer{data: p}) }

// SendTimes is Send n times, with nothing in between.
func (d *Device) SendTimes(ep uint8, p []byte, n int) {
	d.send(ep, slices.Repeat([]transfer{{data: p}}, n)...)
}

// SendPackets queues a transfer to the host as the packets of a bus. If p fills its last
// packet, a host that asked for more waits for the packet that follows, and one that asked
// for as much is done. The packet is an empty one with zlp, and the next transfer's without.
func (d *Device) SendPackets(ep uint8, p []byte, zlp bool) {
	d.send(ep, transfer{data: p, exact: true, zlp: zlp})
}

// SendError queues a transfer that fails. With usb.ErrStall the endpoint halts
// when its turn comes.
func (d *Device) SendError(ep uint8, err error) { d.send(ep, transfer{err: err}) }

// Queued reports whether there is something for the host on an IN endpoint.
func (d *Device) Queued(ep uint8) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.at(ep).queue) > 0
}

func (d *Device) send(ep uint8, transfers ...transfer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.port != nil {
		for _, t := range transfers {
			d.at(ep).push(t)
		}
		d.wakeAll()
	}
}

// Halt halts an endpoint: its transfers stall until the host clears the halt.
func (d *Device) Halt(ep uint8) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at(ep).halted = true
	d.wakeAll()
}

// Hold makes the transfers of an endpoint wait until it is called with false. Endpoint 0
// stands for all control transfers but the standard requests.
func (d *Device) Hold(ep uint8, hold bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at(ep).held = hold
	d.wakeAll()
}

// Wake makes waiting transfers call Model.In again.
func (d *Device) Wake() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wakeAll()
}

// Die makes the device stop answering until its port is reset, or for good. It still answers
// the standard requests, as hung firmware mostly does: otherwise the kernel would try for
// minutes to reset it and then report it as unplugged.
func (d *Device) Die(forGood bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead, d.forGood = true, forGood
}

// wakeAll wakes the transfers that wait. d.mu is held.
func (d *Device) wakeAll() {
	close(d.wake)
	d.wake = make(chan struct{})
}

// Observe makes the device call f for each line of the session from now on. f must not
// call the device, and must not keep the line's Data.
func (d *Device) Observe(f func(Line)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.observe = f
}

// note gives a line to the observer. d.mu is held.
func (d *Device) note(l Line) {
	if d.observe != nil {
		d.observe(l)
	}
}

// Descriptors are the device descriptor and the configurations behind it.
func (d *Device) Descriptors() []byte { return slices.Clone(d.model.Descriptors) }

// String returns string descriptor i.
func (d *Device) String(i uint8) string {
	if i == 0 || int(i) > len(d.model.Strings) {
		return ""
	}
	return d.model.Strings[i-1]
}

// reset is a reset of the port.
func (d *Device) reset() {
	if d.model.Reset != nil {
		d.model.Reset()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.endpoints {
		d.endpoints[i].reset()
	}
	d.dead = d.forGood
	d.resets++
	d.note(Line{Kind: Reset})
	d.wakeAll()
}

// clearHalt ends the halt of an endpoint.
func (d *Device) clearHalt(ep uint8) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at(ep).halted = false
	d.note(Line{Kind: ClearHalt, Endpoint: ep})
	d.wakeAll()
}
