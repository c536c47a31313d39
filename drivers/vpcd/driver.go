// Package vpcd is a reader for virtual cards of other projects. They connect over TCP or a
// UNIX socket and speak the vpcd protocol of vsmartcard. cardfs takes the place of
// vsmartcard's own IFD handler, libifdvpcd.
//
// The protocol (vsmartcard, "Virtual Smart Card", section "Protocol between
// vpcd and vpicc"; the details below are those of vpcd.c and of
// VirtualSmartcard.py, release 3.3): each message is a length of two bytes, most
// significant byte first, followed by that many bytes. The reader speaks first:
//
//	00 01 00          power off    no answer
//	00 01 01          power on     no answer
//	00 01 02          reset        no answer
//	00 01 04          get ATR      answered with the ATR
//	LL LL C-APDU      a command    answered with the R-APDU
//
// Nothing in an answer identifies its command. So unsolicited data ends the connection,
// and so does an answer that is late: it can never be taken for the answer to a later
// command.
//
// A port is one reader with one slot, which exists as long as the port is attached. A
// connection is a card in the slot; its end is the removal. While the slot is occupied,
// each further connection becomes a reader of its own, which leaves with the connection. A
// port has a maximum number of cards; further connections are closed. A connection that
// was silent for a minute is asked for its ATR, as vpcd.c does to detect a card, and
// closed if it does not answer. Otherwise connections without a card could occupy the
// places for ever.
//
// # Lock order
//
// port.mu, conn.mu and slot.mu are never held together, and no other package is called
// while holding one of them.
package vpcd

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/limitlog"
)

const (
	// defaultTimeout bounds the wait for one answer. The protocol has no sign of
	// life, and virtual cards generate RSA keys in interpreted languages.
	defaultTimeout = time.Minute
	// maxMessage is the largest length that two bytes can express.
	maxMessage = 0xFFFF
	// defaultCards is the maximum number of cards of a port. Without a limit, anybody
	// who can connect could make any number of readers.
	defaultCards = 16
	// proofTime is how long a connection may be silent before it is asked for its ATR,
	// whether or not it is in use.
	proofTime = time.Minute
	// maxATR is TS and 32 more characters (ISO/IEC 7816-3:2006 §8.2.1).
	maxATR = 33
)

// Driver opens listening ports. The zero value is ready.
//
//	attach vpcd                             127.0.0.1:35963
//	attach vpcd 127.0.0.1:4000 timeout=5m
//	attach vpcd unix:/run/user/1000/card.sock mode=0660
//	attach vpcd 0.0.0.0:35963 public=yes
type Driver struct {
	// Log, if not nil, receives messages of the driver beside its errors.
	Log *slog.Logger
}

var (
	_ reader.Driver   = Driver{}
	_ reader.Attacher = Driver{}
)

// Name is "vpcd".
func (Driver) Name() string { return "vpcd" }

// IDs is empty: ports are attached by hand.
func (Driver) IDs() []reader.ID { return nil }

// Attach checks the address and the parameters. The full address is the name of the reader
// and its port.
func (Driver) Attach(dev reader.Device) (reader.Device, error) {
	o, err := parseOptions(dev.Address, dev.Params)
	if err != nil {
		return dev, err
	}
	dev.Address, dev.Port, dev.Bus, dev.Slots = o.String(), o.address, o.network, 1
	return dev, nil
}

// Open listens at dev.Address, or takes over the connection that a port
// announced. Parameters:
//
//	timeout=DURATION  how long a card may take for an answer; 1m by default
//	cards=N           how many cards there may be at once; 16 by default
//	mode=OCTAL        permissions of a UNIX socket; 0600 by default
//	public=yes        allows an address that other machines can reach
func (d Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	if c, ok := dev.Link.(*conn); ok {
		return newGuest(c), nil
	}
	if dev.Link != nil {
		return nil, fmt.Errorf("vpcd: %s is no virtual card's connection: %w", dev.Address, reader.ErrInvalid)
	}
	o, err := parseOptions(dev.Address, dev.Params)
	if err != nil {
		return nil, err
	}
	ln, err := o.listen(ctx)
	if err != nil {
		return nil, err
	}
	return newPort(dev, o, ln, limitlog.New(d.Log).With("reader", dev.Name())), nil
}

// parseOptions reads the words of `attach vpcd`.
func parseOptions(address string, params map[string]string) (options, error) {
	o := options{timeout: defaultTimeout, mode: 0o600, cards: defaultCards}
	if err := o.parseAddress(address, params["public"]); err != nil {
		return options{}, err
	}
	for _, k := range slices.Sorted(maps.Keys(params)) {
		v := params[k]
		switch {
		case k == "public" && (v == "yes" || v == "no"):
		case k == "public":
			return options{}, fmt.Errorf("vpcd: public=%s: say yes or no: %w", v, reader.ErrInvalid)
		case k == "timeout":
			d, err := time.ParseDuration(v)
			if err != nil || d <= 0 {
				return options{}, fmt.Errorf("vpcd: timeout=%s: give a time above zero with its unit, as in timeout=90s: %w", v, reader.ErrInvalid)
			}
			o.timeout = d
		case k == "cards":
			n, err := strconv.ParseUint(v, 10, 16)
			if err != nil || n == 0 {
				return options{}, fmt.Errorf("vpcd: cards=%s: give a number from 1 to 65535: %w", v, reader.ErrInvalid)
			}
			o.cards = int(n)
		case k == "mode" && o.network == "unix":
			m, err := parseMode(v)
			if err != nil {
				return options{}, err
			}
			o.mode = m
		case k == "mode":
			return options{}, fmt.Errorf("vpcd: mode=%s: only a UNIX socket has permissions: %w", v, reader.ErrInvalid)
		default:
			return options{}, fmt.Errorf("vpcd: no parameter %q; there are %s: %w", k, strings.Join([]string{"timeout", "cards", "mode", "public"}, ", "), reader.ErrInvalid)
		}
	}
	return o, nil
}
