package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"

	"os/exec"

	"github.com/cardfs/cardfs/tests/foreign"
	"github.com/cardfs/cardfs/tests/internal/ptys"
)

// The subjects of serial readers that another project's driver drives as well.
const (
	ioctlGemPC   = "ioctl, GemPC410"
	scGemPC      = "SCardTransmit, libgempc410"
	ioctlTwin    = "ioctl, GemPC Twin"
	scTwin       = "SCardTransmit, libccidtwin"
	bytesGemPC   = "characters, GemPC410"
	bytesGemPCSC = "characters, libgempc410"
	bytesTwin    = "characters, GemPC Twin"
	bytesTwinSC  = "characters, libccidtwin"
)

// read256 is GET CHALLENGE for 256 bytes.
const read256 = "0084000000"

// serialAgainst has cardfs and another driver, under pcscd, each drive an emulator of the same
// reader.
func (e *env) serialAgainst(ctx context.Context) error {
	gempc, err := foreign.Fetch(ctx, "libgempc410")
	if err != nil {
		return err
	}
	for _, x := range []struct {
		kind                         ptys.Kind
		dir, library                 string
		ours, theirs, bytes, bytesSC string
	}{
		{kindOf("gempc", ""), "gempc", filepath.Join(gempc, "usr/lib/pcsc/drivers/serial/libGemPC410.so.1.0.8"), ioctlGemPC, scGemPC, bytesGemPC, bytesGemPCSC},
		{kindOf("ccid", "model=twin"), "twin", "/usr/lib/pcsc/drivers/serial/libccidtwin.so", ioctlTwin, scTwin, bytesTwin, bytesTwinSC},
	} {
		ours, err := e.open(x.kind)
		if err != nil {
			return err
		}
		theirs, err := e.open(x.kind)
		if err != nil {
			return err
		}
		if _, err := e.attach(ctx, x.dir, ours); err != nil {
			return err
		}
		srv, err := e.pcscd(ctx, x.dir, conf("Serial", x.library, "DEVICENAME "+theirs.Port()))
		if err != nil {
			return err
		}
		apduFile := e.path(x.dir + "/0/apdu")
		e.add(x.ours, nanoseconds, e.filebench("ioctl", 100, apduFile))
		e.add(x.theirs, nanoseconds, e.scbench(srv.Command, "transmit", "Serial", "100", apdu))
		e.once = append(e.once,
			characters(x.bytes, ours, func(ctx context.Context, n int) error {
				return exec.CommandContext(ctx, e.path("filebench"), "ioctl", strconv.Itoa(n), read256, apduFile).Run()
			}),
			characters(x.bytesSC, theirs, func(ctx context.Context, n int) error {
				return srv.Command(ctx, e.path("scbench"), "transmit", "Serial", strconv.Itoa(n), read256).Run()
			}))
	}
	return nil
}

func kindOf(driver, params string) ptys.Kind {
	for _, k := range ptys.Kinds {
		if k.Driver == driver && k.Params == params {
			return k
		}
	}
	panic("no kind " + driver + " " + params)
}

// characters counts the characters of one exchange, both ways. What a client does besides, and
// what is polled meanwhile, is taken out by the difference of many exchanges to one, and by
// the median of several.
func characters(name string, r *ptys.Reader, exchanges func(ctx context.Context, n int) error) subject {
	const few, many = 1, 20 // and a tenth unmeasured
	show := func(v float64) string { return fmt.Sprintf("%.0f characters", v) }
	return subject{name, show, func(ctx context.Context) (each []float64, err error) {
		sent := func(n int) (float64, error) {
			out, in := r.Plugged.Sent()
			err := exchanges(ctx, n)
			out2, in2 := r.Plugged.Sent()
			return float64(out2 - out + in2 - in), err
		}
		for range 9 {
			one, err := sent(few)
			if err != nil {
				return nil, err
			}
			all, err := sent(many)
			if err != nil {
				return nil, err
			}
			each = append(each, (all-one)/(many+many/10-few))
		}
		return each, nil
	}}
}
