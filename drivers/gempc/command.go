package gempc

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Commands of a GemCore, as libgempc410 1.0.8, libgempc430 1.0.8, libgcr410 2.4.0 and
// OpenCT 0.6.20 were observed to send them. An answer is a status byte and data.
const (
	opMode       = 0x01
	opLine       = 0x0A
	opPowerDown  = 0x11
	opPowerUp    = 0x12
	opOut        = 0x13 // a T=0 command whose data come from the card
	opIn         = 0x14 // a T=0 command without data, or with data to the card
	opAPDU       = 0x15 // a whole C-APDU
	opStatus     = 0x17
	opReadMemory = 0x22
)

var (
	cmdMode    = []byte{opMode, 0x00, 0x01}
	cmdVersion = []byte{opReadMemory, 0x05, 0x3F, 0xE0, 0x10} // 16 bytes of text
	cmdStatus  = []byte{opStatus}
	cmdDown    = []byte{opPowerDown}
	// The low nibble of a power-up is the class of operation: 3 is 5 V, then 3 V. The high
	// nibble says who does the PPS: 2, the reader, at the best rate; 1, nobody.
	cmdUp     = []byte{opPowerUp, 0x23}
	cmdUpSlow = []byte{opPowerUp, 0x13}
	// A reader in EMV mode takes a power-up only without parameters.
	cmdISO     = []byte{opStatus, 0x00, 0x47}
	cmdUpPlain = []byte{opPowerUp}
)

// In the first data byte of the answer to cmdStatus.
const (
	cardPowered = 0x02
	cardIn      = 0x04
)

// Status bytes.
const (
	done    = 0x00
	unknown = 0x01
	more    = 0x1B // the data are a part of the answer
	silent  = 0xA2
	swEarly = 0xE5 // the card ended the exchange after SW1
	swOther = 0xE7 // the card's SW is not 9000
	pulled  = 0xF7 // the card was pulled out during the command
	noCard  = 0xFB
)

const (
	// rest stands for CLA, INS, P1 and P2 in a command that carries or asks for another
	// part, and for P3 if as much is wanted as there is.
	rest = 0xFF
	// wholePart is less than a part of an answer has that is not the last one: 240 and 254
	// bytes were seen.
	wholePart = 200
	// longestAnswer is Ne of 256, and SW1 SW2.
	longestAnswer = 256 + 2
)

// most is how much of a TPDU or C-APDU one command carries.
var most = map[byte]int{opOut: 5, opIn: 5 + 248, opAPDU: 254}

// meaning has what the other status bytes mean, and the error that they are.
var meaning = map[byte]struct {
	words string
	is    error
}{
	unknown: {"the reader does not know the command", reader.ErrUnsupported},
	0x02:    {"not possible with this card", reader.ErrProtocol},
	0x03:    {"wrong number of parameters", reader.ErrProtocol},
	0x10:    {"the ATR begins with an invalid TS", reader.ErrProtocol},
	0x1D:    {"the ATR has a wrong TCK", reader.ErrProtocol},
	0xA0:    {"an error in the ATR", reader.ErrProtocol},
	0xA1:    {"the card broke the protocol", reader.ErrProtocol},
	silent:  {"the card is silent", reader.ErrTimeout},
	0xA3:    {"parity error", reader.ErrProtocol},
	0xA4:    {"the card aborted the chain", reader.ErrProtocol},
	0xA5:    {"the reader aborted the chain", reader.ErrProtocol},
	0xA6:    {"the reader resynchronised the card", reader.ErrProtocol},
	0xA7:    {"the PPS failed", reader.ErrProtocol},
	0xA8:    {"card and reader are in EMV mode", reader.ErrProtocol},
	pulled:  {"the card was pulled out during the command", reader.ErrNoCard},
	noCard:  {"status FB", reader.ErrNoCard},
}

func statusError(status byte) error {
	if m, ok := meaning[status]; ok {
		return fmt.Errorf("%s: %w", m.words, m.is)
	}
	return fmt.Errorf("status %02X: %w", status, reader.ErrProtocol)
}

// mayRepeat reports whether it does no harm if a command is carried out twice. A card's
// command may be a PIN that is wrong.
func mayRepeat(cmd []byte) bool {
	return cmd[0] != opOut && cmd[0] != opIn && cmd[0] != opAPDU
}

// line carries commands to a GemCore. Its methods are called one at a time.
type line interface {
	// command sends a command and returns the answer, which is at least a status byte and
	// is valid until the next call. wait is how long the answer may take. After an error
	// nothing but resync may be called, unless it is an ErrInvalid: nothing was sent.
	command(ctx context.Context, cmd []byte, wait time.Duration) ([]byte, error)
	// resync makes sure that no answer of an earlier command is due, and returns the answer
	// to cmdVersion.
	resync(ctx context.Context) ([]byte, error)
	Gone() <-chan struct{}
	Close() error
}

// gemcore is what all readers of the family have in common.
type gemcore struct {
	line
	version string
	lost    bool // an answer may be due that nobody will wait for
	cmd     [1 + 255]byte
}

// shortWait is for commands that do not wait for the card. libgempc430 gives 60 s to each.
const shortWait = 5 * time.Second

// do sends a command and returns status and data of the answer.
func (g *gemcore) do(ctx context.Context, wait time.Duration, cmd []byte) (status byte, data []byte, err error) {
	if err := ctx.Err(); err != nil {
		return 0, nil, err
	}
	if g.lost {
		if err := g.restart(ctx); err != nil {
			return 0, nil, fmt.Errorf("an earlier command was left unanswered: %w", err)
		}
	}
	answer, err := g.command(ctx, cmd, wait)
	if err != nil {
		g.lost = true
		return 0, nil, err
	}
	return answer[0], answer[1:], nil
}

// restart makes the reader ready again, which may have been reset, or switched off and on.
func (g *gemcore) restart(ctx context.Context) error {
	if err := g.identify(ctx); err != nil {
		return err
	}
	g.lost = false
	// Old firmware does not know the command.
	status, _, err := g.do(ctx, shortWait, cmdMode)
	if err == nil && status != done && status != unknown {
		err = statusError(status)
	}
	if err != nil {
		g.lost = true
		return fmt.Errorf("set the mode: %w", err)
	}
	return nil
}

// identify makes sure that no answer is due, and asks for the version.
func (g *gemcore) identify(ctx context.Context) error {
	answer, err := g.resync(ctx)
	if err == nil && isVersion(answer) {
		g.version = strings.TrimSpace(string(answer[1:]))
	}
	return err
}

// simple is do for commands that can only succeed or fail.
func (g *gemcore) simple(ctx context.Context, cmd []byte) ([]byte, error) {
	status, data, err := g.do(ctx, shortWait, cmd)
	if err == nil && status != done {
		err = statusError(status)
	}
	return data, err
}

// build makes the command op a… b… in g.cmd.
func (g *gemcore) build(op byte, a ...[]byte) []byte {
	cmd := append(g.cmd[:0], op)
	for _, p := range a {
		cmd = append(cmd, p...)
	}
	return cmd
}

// another is op for another part: of the command, with its bytes, or of the answer.
func (g *gemcore) another(op byte, n int, part []byte) []byte {
	return g.build(op, []byte{rest, rest, rest, rest, byte(n)}, part)
}

// exchange sends a C-APDU of a short case to a card with protocol T=t and appends the
// R-APDU to dst. In T=0 it is the answer to one TPDU: what follows 61xx and 6Cxx is the
// caller's business.
func (g *gemcore) exchange(ctx context.Context, t int, capdu []byte, wait time.Duration, dst []byte) ([]byte, error) {
	defer clear(g.cmd[:])
	if err := iso7816.Carries(capdu, false); err != nil {
		return dst, err
	}
	c, err := iso7816.ParseCommand(capdu)
	if err != nil {
		return dst, err
	}
	switch {
	case t == 1:
		return g.parts(ctx, opAPDU, capdu, 0, wait, dst)
	case len(c.Data) > 0: // without the Le of case 4
		return g.parts(ctx, opIn, capdu[:5+len(c.Data)], 0, wait, dst)
	case c.Ne > 0:
		return g.parts(ctx, opOut, capdu, c.Ne+2, wait, dst)
	}
	return g.parts(ctx, opIn, []byte{c.CLA, c.INS, c.P1, c.P2, 0}, 0, wait, dst)
}

// parts sends a command of op and appends the card's answer to dst, either of them in
// parts if need be. For opOut it is of expect bytes if the card has no complaint.
func (g *gemcore) parts(ctx context.Context, op byte, body []byte, expect int, wait time.Duration, dst []byte) (rx []byte, err error) {
	start := len(dst)
	defer func() {
		if err != nil {
			clear(dst[start:])
			rx = dst[:start]
		}
	}()
	fail := func(format string, args ...any) ([]byte, error) {
		return nil, fmt.Errorf(format+": %w", append(args, reader.ErrProtocol)...)
	}
	if limit := most[op]; len(body) > limit {
		// The last part goes first.
		tail := body[limit:]
		body = body[:limit]
		status, data, err := g.do(ctx, wait, g.another(op, len(tail), tail))
		switch {
		case err != nil:
			return dst, err
		case status != done:
			return dst, statusError(status)
		case len(data) > 0:
			return fail("the first part of the command was answered with %d bytes", len(data))
		}
	}
	status, data, err := g.do(ctx, wait, g.build(op, body))
	for err == nil {
		last := true
		switch status {
		case swEarly, swOther:
		case more:
			last = false
		case done:
			// opOut has no other sign of a part.
			last = op != opOut || len(data) < wholePart || len(dst)-start+len(data) >= expect
		default:
			return dst, statusError(status)
		}
		dst = iso7816.AppendResponse(dst, start, data...)
		clear(data)
		n := len(dst) - start
		switch {
		case n > longestAnswer:
			return fail("an answer of %d bytes; %d are the most", n, longestAnswer)
		case last && n < 2:
			return fail("an answer of %d bytes; SW1 SW2 are the least", n)
		case last && op == opOut && n > expect:
			return fail("an answer of %d bytes, %d were asked for", n, expect)
		case last:
			return dst, nil
		case len(data) == 0:
			return fail("an empty part of an answer")
		}
		left := rest
		if op == opOut {
			left = min(rest, expect-n)
		}
		status, data, err = g.do(ctx, wait, g.another(op, left, nil))
	}
	return dst, err
}
