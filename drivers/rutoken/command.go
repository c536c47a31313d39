package rutoken

import (
	"context"
	"fmt"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// getResponse is GET RESPONSE for all that there is.
var getResponse = []byte{0x00, 0xC0, 0x00, 0x00, 0x00}

// rewriter exchanges C-APDUs, rewritten.
type rewriter struct {
	t0   *iso7816.T0 // anew after each reset
	data [mostData]byte
	out  [headerLen + mostData + 1]byte
	rx   [mostAnswer + 2]byte
}

// command exchanges the C-APDU x.Out for an R-APDU, which it appends to dst. The machine
// of package iso7816 makes the TPDUs and follows 61xx and 6Cxx. The card differs from
// others in this:
//
//	SELECT                   its record is fetched without Le, too, unless P2 says that
//	                         none is wanted (ISO/IEC 7816-4:2013 table 40: 0C)
//	case 4, 90 00, no data   the data are there all the same: GET RESPONSE for 256
//	case 3, 61xx             the data nobody asked for are fetched and dropped
//
// What a GET RESPONSE brings, its SW1 SW2 too, is then the answer. With t0=plain there
// is none.
func (d *dialect) command(ctx context.Context, x *reader.Transfer, dst []byte) ([]byte, error) {
	const what = "exchange"
	c, err := iso7816.ParseCommand(x.Out)
	switch {
	case err != nil: // which tells lengths
		return dst, d.Fail(what, fmt.Errorf("no C-APDU of any case: %w", reader.ErrInvalid))
	case c.Extended:
		return dst, d.Fail(what, fmt.Errorf("extended length: %w", reader.ErrUnsupported))
	case !d.whole:
		return dst, d.stale(ctx)
	}
	r := d.r
	defer func() {
		r.t0.Wipe()
		clear(r.data[:])
		clear(r.out[:])
		clear(r.rx[:])
	}()
	answer := formOf(&c)
	asked := c.Ne // by the program
	wanted := len(c.Data) > 0 && (asked > 0 || isSelect(&c) && c.P2&0x0C != 0x0C)
	bare := len(c.Data) == 0 && asked == 0
	c.Data = rewritten(&c, r.data[:0])
	switch {
	case isSelect(&c) && len(c.Data) == 0:
		c.Ne, bare = recordLen, false
	case isInfo(&c) && len(c.Data) == 0 && asked > 0:
		c.Ne = 0xFF
	case wanted && (isSelect(&c) || isInfo(&c)):
		c.Ne = mostAnswer
	}
	capdu, err := c.Append(r.out[:0])
	if err != nil {
		return dst, d.Fail(what, err)
	}
	rx, err := d.run(ctx, x, capdu, bare, dst)
	if err != nil {
		return dst, err
	}
	n, sw1, sw2 := split(rx[len(dst):])
	switch {
	case d.plain:
	case wanted && n == 0 && sw1 == 0x90 && sw2 == 0x00:
		rx, err = d.run(ctx, x, getResponse, false, dst)
	case len(c.Data) > 0 && !wanted && sw1 == 0x61:
		header := append(r.out[:0], getResponse...)
		header[4] = sw2
		if rx, err = d.run(ctx, x, header, false, dst); err == nil {
			rx = keep(rx, len(dst), 0)
		}
	}
	if err != nil {
		return dst, err
	}
	n, sw1, sw2 = split(rx[len(dst):])
	switch {
	case bare || isSelect(&c) && asked == 0 && len(c.Data) == 0:
		return keep(rx, len(dst), 0), nil
	case answer == asIs && asked > 0:
		return keep(rx, len(dst), asked), nil
	case answer == asIs || sw1 != 0x90 || sw2 != 0x00:
		return rx, nil
	}
	data := r.rx[:copy(r.rx[:], rx[len(dst):len(dst)+n])]
	return append(restored(answer, data, rx[:len(dst)]), sw1, sw2), nil
}

// split takes an R-APDU apart.
func split(rapdu []byte) (n int, sw1, sw2 byte) {
	n = len(rapdu) - 2
	return n, rapdu[n], rapdu[n+1]
}

// keep shortens the data of the R-APDU at rx[start:] to at most n bytes.
func keep(rx []byte, start, n int) []byte {
	has, sw1, sw2 := split(rx[start:])
	if has <= n {
		return rx
	}
	clear(rx[start+n:])
	return append(rx[:start+n], sw1, sw2)
}

// run exchanges a C-APDU as it is; bare says that it is of case 1.
func (d *dialect) run(ctx context.Context, x *reader.Transfer, capdu []byte, bare bool, dst []byte) ([]byte, error) {
	t0 := d.r.t0
	step := t0.Start(capdu, dst)
	for !step.Done {
		rx, err := d.tpdu(ctx, x, step.Send, bare, d.r.rx[:0])
		if err != nil {
			return nil, err
		}
		step = t0.Next(rx, nil)
	}
	if step.Err != nil {
		return nil, d.Fail("exchange", step.Err)
	}
	return t0.Response(), nil
}
