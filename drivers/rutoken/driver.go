// Package rutoken drives the Aktiv Rutoken S and uaToken S: USB tokens with a T=0 card
// inside. Other Rutokens (ECP, Lite, Magistra) are CCID devices and not this driver's.
//
// The wire format was observed in OpenCT 0.6.20; the maker's later driver grew out of the
// same code. The token takes a T=0 TPDU in phases, each of which the host begins when the
// status byte says so:
//
//	power off -> data: power on (the ATR) -> idle
//	idle -> header -> data: command data  -> SW: SW1 SW2 -> idle
//	              '-> data: answer data   -> SW: SW1 SW2 -> idle
//	              '-----------------------> SW: SW1 SW2 -> idle
//
// The status is read once after each transfer and once more before the next. That is
// what OpenCT does, and nothing else was seen with a token.
package rutoken

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/token"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// The times are OpenCT's.
const (
	longWait  = 10 * time.Second // for a transfer of data
	shortWait = time.Second      // for the ATR and for the status
	pause     = 10 * time.Millisecond
	// standstills are the reads of the status in which a busy card has not worked on.
	standstills = 200
	// powerLimit bounds the wait for the end of a reset whose card keeps working on.
	powerLimit = 10 * time.Second
	// exchangeLimit bounds the wait for a card if the Transfer has no limit.
	exchangeLimit = time.Minute
)

// Driver serves both tokens. Its zero value is usable.
type Driver struct {
	// Rewrite, if not nil, returns what the user said of a token with these IDs: on, off, or
	// nothing. What attach says counts more; nobody attaches a token that is plugged in.
	Rewrite func(vendor, product uint16) string
}

// CheckRewrite returns an error for what is not a value of Rewrite.
func CheckRewrite(value string) error {
	if value != "on" && value != "off" {
		return errors.New("on or off is wanted")
	}
	return nil
}

// Name is "rutoken".
func (Driver) Name() string { return "rutoken" }

// IDs returns both.
func (Driver) IDs() []reader.ID {
	return []reader.ID{
		{Vendor: 0x0A89, Product: 0x0020, Model: "Aktiv Rutoken S"},
		{Vendor: 0x0A89, Product: 0x0012, Model: "Aktiv uaToken S"},
	}
}

// Open claims interface 0, the token's only one. Parameter: rewrite=off leaves commands and
// answers as they are, and T=0 to the core; see rewrite.go.
func (d Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	model := dev.ID.Model
	if model == "" {
		model = d.IDs()[0].Model
	}
	rewrite := dev.Params["rewrite"]
	if rewrite == "" && d.Rewrite != nil {
		rewrite = d.Rewrite(dev.ID.Vendor, dev.ID.Product)
	}
	var r *rewriter
	if rewrite = cmp.Or(rewrite, "on"); rewrite == "on" {
		r = new(rewriter)
	}
	if err := CheckRewrite(rewrite); err != nil {
		return nil, fmt.Errorf("%s: rewrite=%s: %w: %w", dev.Name(), rewrite, err, reader.ErrInvalid)
	}
	return token.Open(ctx, dev, model, 0, func(w *token.Wire) token.Dialect {
		return &dialect{Wire: w, r: r, plain: dev.T0Plain}
	})
}

// dialect is the token.Dialect.
type dialect struct {
	*token.Wire
	r     *rewriter // nil: nothing is rewritten
	plain bool      // t0=plain
	// whole: since the reset no exchange broke off in the middle.
	whole bool
	in    [mostAnswer]byte // the data of the last transfer from the token
}

var _ reader.ProtocolLister = (*dialect)(nil)

// Traits says that the token needs no PPS. Commands are rewritten as a whole, so that T=0
// is then the driver's, and else the core's.
func (d *dialect) Traits() reader.Traits {
	if d.r != nil {
		return reader.Traits{Level: reader.ShortAPDU, AutoPPS: true, AutoT0: true}
	}
	return reader.Traits{Level: reader.TPDU, AutoPPS: true}
}

// Protocols is T=0 alone.
func (d *dialect) Protocols() []int { return []int{0} }

// PowerOn resets the card. Cold and warm resets are the same sequence.
func (d *dialect) PowerOn(ctx context.Context, _ reader.Reset) ([]byte, error) {
	if err := d.PowerOff(ctx); err != nil {
		return nil, err
	}
	const what = "power on"
	s, err := d.settled(ctx, what, &reader.Transfer{Until: time.Now().Add(powerLimit)})
	switch {
	case err != nil:
		return nil, err
	case s == statusMute:
		return nil, d.Fail(what, fmt.Errorf("status %02X: %w", s, reader.ErrMute))
	case s != statusData:
		return nil, d.Fail(what, fmt.Errorf("status %02X, not %02X: %w", s, statusData, reader.ErrProtocol))
	}
	p, err := d.Fetch(ctx, what, setupPowerOn, make([]byte, atrAsked), shortWait)
	if errors.Is(err, usb.ErrStall) || errors.Is(err, reader.ErrTimeout) {
		err = fmt.Errorf("%w: %w", err, reader.ErrMute)
	}
	if err != nil {
		return nil, err
	}
	if len(p) == 0 {
		return nil, d.Fail(what, fmt.Errorf("an ATR of no bytes: %w: %w", reader.ErrProtocol, reader.ErrMute))
	}
	d.whole = true
	if d.r != nil {
		d.r.t0 = iso7816.NewT0(iso7816.T0Config{Params: iso7816.DefaultParams(0), Plain: d.plain})
	}
	return p, nil
}

// PowerOff takes the card's power away, and with it a verified PIN. OpenCT never does so
// but before a reset; the maker's driver does.
func (d *dialect) PowerOff(ctx context.Context) error {
	d.whole = false
	return d.Send(ctx, "power off", setupPowerOff, nil, longWait)
}

// Exchange carries a C-APDU, or a T=0 TPDU if nothing is rewritten.
func (d *dialect) Exchange(ctx context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
	if d.r != nil {
		return d.command(ctx, &x, dst)
	}
	if !isTPDU(x.Out) {
		return dst, d.Fail("exchange", fmt.Errorf("no T=0 TPDU: %w", reader.ErrInvalid))
	}
	return d.tpdu(ctx, &x, x.Out, false, dst)
}

// tpdu sends the TPDU tx and appends the answer to dst. Of a header with P3 = 00 bare
// says that no data may follow it (case 1). After a failure in the middle, a mute card's
// too, the token may hold what belongs to the exchange, so that nothing is sent until the
// next reset.
func (d *dialect) tpdu(ctx context.Context, x *reader.Transfer, tx []byte, bare bool, dst []byte) ([]byte, error) {
	if !d.whole {
		return dst, d.stale(ctx)
	}
	d.whole = false
	rx, err := d.phases(ctx, x, tx, bare, dst)
	if err != nil {
		clear(dst[len(dst):cap(dst)])
		return dst, err
	}
	d.whole = true
	return rx, nil
}

// stale is why a card that is not whole takes no command.
func (d *dialect) stale(ctx context.Context) error {
	if _, err := d.Status(ctx); err != nil {
		return err
	}
	return d.Fail("exchange", fmt.Errorf("the card has no power, or broke off an exchange, and must be reset: %w", reader.ErrStale))
}

func (d *dialect) phases(ctx context.Context, x *reader.Transfer, tx []byte, bare bool, dst []byte) ([]byte, error) {
	header, data := tx[:headerLen], tx[headerLen:]
	if err := d.send(ctx, "send header", x, header); err != nil {
		return nil, err
	}
	if !bare {
		s, err := d.settled(ctx, "data phase", x)
		switch {
		case err != nil:
			return nil, err
		case s != statusData: // SW1 SW2 are due instead
		case len(data) > 0:
			err = d.send(ctx, "send data", x, data)
		default:
			dst, err = d.receive(ctx, "receive data", x, expected(header), dst)
		}
		if err != nil {
			return nil, err
		}
	}
	const what = "receive SW1 SW2"
	s, err := d.settled(ctx, what, x)
	switch {
	case err != nil:
		return nil, err
	case s == statusMute:
		return nil, d.Fail(what, fmt.Errorf("the card is mute (status %02X): %w", s, reader.ErrTimeout))
	case s != statusSW:
		return nil, d.Fail(what, fmt.Errorf("status %02X, not %02X: %w", s, statusSW, reader.ErrProtocol))
	}
	before := len(dst)
	dst, err = d.receive(ctx, what, x, 2, dst)
	if err == nil && len(dst)-before != 2 {
		err = d.Fail(what, fmt.Errorf("one byte: %w", reader.ErrProtocol))
	}
	return dst, err
}

// send sends a header or the data of a command. The status afterwards says nothing yet.
func (d *dialect) send(ctx context.Context, what string, x *reader.Transfer, p []byte) error {
	if err := d.Send(ctx, what, setupSend, p, longWait); err != nil {
		return err
	}
	_, err := d.settled(ctx, what, x)
	return err
}

// receive appends up to n bytes of an answer to dst. Fewer may come than P3 says, as of
// the answer to a GET RESPONSE for 256; none may not.
func (d *dialect) receive(ctx context.Context, what string, x *reader.Transfer, n int, dst []byte) ([]byte, error) {
	defer clear(d.in[:n])
	p, err := d.Fetch(ctx, what, setupReceive, d.in[:n], longWait)
	switch {
	case err != nil:
		return nil, err
	case len(p) == 0:
		return nil, d.Fail(what, fmt.Errorf("no bytes: %w", reader.ErrProtocol))
	}
	dst = append(dst, p...)
	_, err = d.settled(ctx, what, x)
	return dst, err
}

// settled waits until the card is not busy, and returns the status. A card whose counter
// goes on may take until the limit of x; each time it is asked it says that it needs more.
func (d *dialect) settled(ctx context.Context, what string, x *reader.Transfer) (byte, error) {
	s, err := d.status(ctx, what)
	if err != nil || !busy(s) {
		return s, err
	}
	limit := x.Until
	switch {
	case !limit.IsZero():
	case x.Wait > 0:
		limit = time.Now().Add(x.Wait)
	default:
		limit = time.Now().Add(exchangeLimit)
	}
	for still := 0; ; {
		if err := d.Pause(ctx, what, pause); err != nil {
			return 0, err
		}
		before := s
		if s, err = d.status(ctx, what); err != nil || !busy(s) {
			return s, err
		}
		if !advances(before, s) {
			still++
		} else if x.Extended != nil {
			x.Extended()
		}
		switch {
		case still == standstills:
			return 0, d.Fail(what, fmt.Errorf("the card is busy and does not work on: %w", reader.ErrTimeout))
		case !time.Now().Before(limit):
			return 0, d.Fail(what, fmt.Errorf("the card is still busy: %w", reader.ErrTimeout))
		}
	}
}

// status reads the status byte.
func (d *dialect) status(ctx context.Context, what string) (byte, error) {
	p, err := d.Fetch(ctx, what, setupStatus, d.in[:1], shortWait)
	if err != nil {
		return 0, err
	}
	if len(p) != 1 {
		return 0, d.Fail(what, fmt.Errorf("a status of no bytes: %w", reader.ErrProtocol))
	}
	return p[0], nil
}
