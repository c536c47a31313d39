package ccid

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/limitlog"
)

// Driver serves CCID and ICCD devices: on USB, and CCID on serial ports and PC cards.
type Driver struct {
	// Log, if not nil, receives messages of the driver beside its errors.
	Log *slog.Logger
	// Quirks, if not nil, are the user's.
	Quirks *UserQuirks
}

var _ reader.Driver = Driver{}

// Name is "ccid".
func (Driver) Name() string { return "ccid" }

// IDs returns the interface class, and the readers whose interface is of class FF.
func (Driver) IDs() []reader.ID {
	return append([]reader.ID{{Class: classCCID, Model: "CCID reader"}}, known...)
}

// Open claims the interfaces of the class and brings the reader into a state in which it
// accepts commands. dev.Link is a usb.Opener, a serial.Opener or a chardev.Opener. The
// descriptors tell the driver which interfaces are its own before it claims any. Parameters on
// USB: interface=N uses only that interface; firmware=any accepts readers whose firmware is
// refused as too old. Elsewhere: model=NAME, see serialModels and nodeModels.
func (d Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	log := limitlog.New(d.Log).With("reader", dev.Name())
	dev, err := d.asUSB(dev)
	if err != nil {
		return nil, err
	}
	only := anyInterface
	if p, ok := dev.Params["interface"]; ok {
		n, err := strconv.ParseUint(p, 0, 8)
		if err != nil {
			return nil, fmt.Errorf("ccid: interface=%s is no interface number: %w", p, reader.ErrInvalid)
		}
		only = int(n)
	}
	descriptors, err := descriptors(ctx, dev, uint8(max(only, 0)))
	if err != nil {
		return nil, err
	}
	info, ifs, err := Parse(descriptors)
	if err != nil {
		return nil, err
	}
	own := d.Quirks.of(info)
	r := &ifd{info: info, dev: dev, log: log, own: own, effects: lookup(info, own...), gone: make(chan struct{})}
	if info.Release < r.minFirmware && dev.Params["firmware"] != "any" {
		return nil, fmt.Errorf("ccid: %04X:%04X has firmware %s; below %s it has known defects (firmware=any takes it all the same): %w",
			info.Vendor, info.Product, bcd(info.Release), bcd(r.minFirmware), reader.ErrUnsupported)
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	// Nobody can call Close before Open returns, so recovery of the reader ends with
	// Open's ctx.
	opened := context.AfterFunc(ctx, r.cancel)
	if r.effects.startDelay > 0 {
		if err := sleep(ctx, r.effects.startDelay); err != nil {
			return nil, err
		}
	}
	if r.exclusive {
		r.one = make(chan struct{}, 1)
	}
	for _, i := range usable(ifs, r.effects, only) {
		if err := r.open(ctx, dev, i); err != nil {
			r.Close()
			return nil, err
		}
	}
	switch {
	case len(r.slots) > 0:
	case only != anyInterface:
		return nil, fmt.Errorf("ccid: interface %d is not of the class: %w", only, reader.ErrInvalid)
	default:
		return nil, fmt.Errorf("ccid: %04X:%04X has no interface that is a reader: %w", info.Vendor, info.Product, reader.ErrUnsupported)
	}
	if !opened() {
		r.Close()
		return nil, fmt.Errorf("ccid: open: %w", ctx.Err())
	}
	for _, f := range r.functions {
		r.start(f.watch)
	}
	return r, nil
}

// descriptors fetches the input of Parse.
func descriptors(ctx context.Context, dev reader.Device, iface uint8) ([]byte, error) {
	if l, ok := dev.Link.(usb.Opener); ok {
		if b := l.Descriptors(); len(b) > 0 {
			return b, nil
		}
	}
	conn, err := usb.Open(ctx, dev, iface)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.Descriptors(), nil
}

// ifd is one open device.
type ifd struct {
	info    usb.Device
	log     *slog.Logger
	effects         // quirks
	own     []Quirk // the user's among them

	functions []*function
	slots     []reader.Slot

	dev    reader.Device // as announced
	gone   chan struct{} // closed by leave; nothing else signals the departure
	once   sync.Once
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup

	one      chan struct{}            // holds a token while an interface is in use; nil unless a quirk allows only one at a time
	selected atomic.Pointer[function] // the one in use, for the same quirk
}

var (
	_ reader.Reader     = (*ifd)(nil)
	_ reader.Identifier = (*ifd)(nil)
)

// function is one interface.
type function struct {
	*ifd
	Interface
	conn     usb.Conn
	rates    []uint32 // GET_DATA_RATES; nil: no table
	pipe     *pipe    // nil: ICCD
	notifies []chan struct{}
	own      []*slot
}

func (r *ifd) open(ctx context.Context, dev reader.Device, i Interface) error {
	conn, err := usb.Open(ctx, dev, i.Number)
	if err != nil {
		return fmt.Errorf("ccid: claim interface %d: %w", i.Number, err)
	}
	r.apply(&i)
	for _, n := range i.Notes {
		r.log.Info("descriptor corrected", "interface", i.Number, "what", n)
	}
	f := &function{ifd: r, Interface: i, conn: conn}
	r.functions = append(r.functions, f)
	if i.Intr.Address != 0 {
		for range i.slots() {
			f.notifies = append(f.notifies, make(chan struct{}, 1))
		}
	}
	if i.Protocol != ProtocolCCID {
		s, err := f.openICCD(ctx)
		if err != nil {
			return err
		}
		r.slots = append(r.slots, s)
		return nil
	}
	f.pipe = newPipe(r, conn, &i)
	if r.one != nil {
		f.pipe.busy = r.one
	}
	for _, l := range f.pipe.lanes {
		s := &slot{function: f, lane: l, voltage: -1}
		f.own = append(f.own, s)
		switch {
		case f.Mechanical&canEject != 0:
			r.slots = append(r.slots, ejecting{s})
		case slices.Contains(memoryReaders, model{r.info.Vendor, r.info.Product}):
			m, err := newMemorySlot(s, dev)
			if err != nil {
				return err
			}
			r.slots = append(r.slots, m)
		default:
			r.slots = append(r.slots, s)
		}
	}
	if err := f.contact(ctx); err != nil {
		return f.noContact(err)
	}
	if c, ok := conn.(*serialConn); ok {
		return f.own[0].askFirmware(ctx, c)
	}
	return f.fetchRates(ctx)
}

// contact sends the first command. Answers that an earlier user left in the reader are
// skipped; a command that is still running is aborted.
func (f *function) contact(ctx context.Context) error {
	limit := times(statusLimit, f.openFactor*f.factor)
	_, err := f.pipe.lanes[0].do(ctx, command{kind: cmdSlotStatus}, nil, limit)
	if failed := (*Error)(nil); err == nil || errors.As(err, &failed) || ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, reader.ErrGone) {
		return err
	}
	_, err = f.pipe.lanes[0].do(ctx, command{kind: cmdSlotStatus}, nil, limit)
	if failed := (*Error)(nil); errors.As(err, &failed) {
		return nil
	}
	return err
}

// noContact returns the error for a device that did not answer the first command. A
// device that is still plugged in has failed, and is not gone.
func (f *function) noContact(err error) error {
	_, line := f.conn.(*serialConn)
	_, node := f.conn.(*nodeConn)
	if (line || node) && !f.left() {
		return fmt.Errorf("ccid: no reader answers at this port as a %s does: %w", f.dev.ID.Model, reader.ErrTimeout)
	}
	if !f.left() && errors.Is(err, reader.ErrGone) {
		return fmt.Errorf("ccid: interface %d: the reader does not answer, not after a USB reset either; plug it in anew: %w", f.Number, reader.ErrTimeout)
	}
	return fmt.Errorf("ccid: interface %d: first contact: %w", f.Number, err)
}

// watch waits for the device to leave, and serves its interrupt endpoint.
func (f *function) watch() {
	if f.Intr.Address != 0 {
		f.start(f.listen)
	}
	select {
	case <-f.conn.Gone():
		f.leave()
	case <-f.gone: // this pipe, or that of another interface, died
	case <-f.ctx.Done():
	}
}

// left reports whether the device is gone.
func (f *function) left() bool {
	select {
	case <-f.conn.Gone():
		return true
	default:
		return false
	}
}

// start runs f on a goroutine that Close waits for. A panic in f fails the reader.
func (r *ifd) start(f func()) {
	r.work.Add(1)
	reader.Go(r.dev.Host, func() {
		defer r.work.Done()
		f()
	})
}

// leave tells the core that the device left or no longer answers.
func (r *ifd) leave() { r.once.Do(func() { close(r.gone) }) }

// Slots returns the slots of all interfaces in the order of their numbers.
func (r *ifd) Slots() []reader.Slot { return r.slots }

// Gone is closed when the device was unplugged or no longer answers.
func (r *ifd) Gone() <-chan struct{} { return r.gone }

// Err returns why the reader no longer answers. It is nil if the device simply left.
func (r *ifd) Err() error {
	for _, f := range r.functions {
		if f.pipe == nil {
			continue
		}
		if err := f.pipe.reason(); err != nil {
			return err
		}
	}
	return nil
}

// Close releases the interfaces.
func (r *ifd) Close() error {
	r.cancel()
	var errs []error
	for _, f := range r.functions {
		if err := f.conn.Close(); err != nil && !errors.Is(err, reader.ErrGone) {
			errs = append(errs, fmt.Errorf("ccid: close interface %d: %w", f.Number, err))
		}
	}
	r.work.Wait()
	return errors.Join(errs...)
}

// Identify names the reader by its own strings and describes its descriptor.
func (r *ifd) Identify() (string, map[string]string) {
	f := r.functions[0]
	name := r.dev.ID.Model
	maker, product := strings.TrimSpace(f.conn.String(r.info.Manufacturer)), strings.TrimSpace(f.conn.String(r.info.Name))
	if product != "" {
		name = product
		if maker != "" && !strings.HasPrefix(strings.ToLower(product), strings.ToLower(maker)) {
			name = maker + " " + product
		}
	}
	if name == "" {
		name = fmt.Sprintf("CCID reader %04X:%04X", r.info.Vendor, r.info.Product)
	}
	more := map[string]string{
		"version": bcd(r.info.Release),
		"level":   f.levelName(),
	}
	switch c := f.conn.(type) {
	case *serialConn:
		more["version"] = c.firmware
	case *nodeConn:
		delete(more, "version") // nothing says it
		more["unproven"] = unproven
	}
	if r.dev.Serial == "" { // otherwise the announcement of the device contained it
		if serial := f.conn.String(r.info.Serial); serial != "" {
			more["serial"] = serial
		}
	}
	if f.PINSupport&3 != 0 {
		more["pinpad"] = [...]string{1: "verify", 2: "modify", 3: "verify, modify"}[f.PINSupport&3]
	}
	var notes []string
	for _, f := range r.functions {
		notes = append(notes, f.Notes...)
	}
	for i := range quirks {
		if q := &quirks[i]; q.matches(r.info) && !(q.pinpad && f.PINSupport == 0) {
			notes = append(notes, q.wrong+": cardfs "+q.does)
		}
	}
	for i := range r.own {
		notes = append(notes, r.own[i].note())
	}
	if len(notes) > 0 {
		more["quirks"] = strings.Join(notes, "; ")
	}
	return name, more
}

func (f *function) levelName() string {
	name := [...]string{"character", "TPDU", "short APDU", "extended APDU"}[f.level()]
	switch f.Protocol {
	case ProtocolICCDA:
		name += ", ICCD A"
	case ProtocolICCDB:
		name += ", ICCD B"
	}
	return name
}

// level returns what one exchange carries. ICCD devices without a level bit take TPDUs.
func (f *function) level() reader.Level {
	l := f.Features.Level()
	if f.Protocol != ProtocolCCID && l == reader.Character || f.Protocol == ProtocolICCDA {
		return reader.TPDU
	}
	return l
}

// bcd formats bcdDevice.
func bcd(v uint16) string { return fmt.Sprintf("%X.%02X", v>>8, v&0xFF) }

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
