package ctbcs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// Carrier carries T=1 blocks between host and terminal.
type Carrier interface {
	// Exchange sends and then receives want characters, or a whole block if want is 0.
	// wait is how long the first of them may take. What it returns is valid until the next
	// call.
	Exchange(ctx context.Context, send []byte, want int, wait time.Duration) ([]byte, error)
	// Flush drops what has come and was not read.
	Flush() error
	// Wipe forgets what was sent and received.
	Wipe()
	Gone() <-chan struct{}
	Close() error
}

// ErrBroken is wrapped by the error of a Carrier after which nothing is to be repeated: the
// terminal was reset and has forgotten everything, or it takes nothing any more.
var ErrBroken = errors.New("the connection to the terminal broke")

// Waiting times.
const (
	// AnswerWait is how long the terminal may take for an answer before it asks for more time,
	// or is asked for the answer again. OpenCT waits 20 s, which is about what three times
	// make; the maker of the cyberJack, a terminal of the same kind, 8 s.
	AnswerWait = 10 * time.Second
	// recoverWait is for what the terminal answers by itself: the repetition of a block, and
	// S(RESYNCH).
	recoverWait = 4 * time.Second
	// TerminalLimit is for commands that do not wait for a user, whatever time they ask for.
	TerminalLimit = time.Minute
)

// Connection is the T=1 connection to a terminal, which has one pair of sequence numbers for the
// terminal and its cards. Its methods are called one at a time.
type Connection struct {
	Carrier
	wtx  time.Duration
	cfg  iso7816.T1Config
	t1   *iso7816.T1
	lost bool // the two ends may not agree on what was sent
}

// New makes the T=1 connection over c: cfg is what the terminal takes. wtx is added to the wait
// for each unit of S(WTX request). S(RESYNCH), with which it begins, goes to cfg.NAD.
func New(c Carrier, cfg iso7816.T1Config, wtx time.Duration) *Connection {
	if cfg.Params.IFSC == 0 {
		cfg.Params = iso7816.DefaultParams(1)
	}
	cfg.AutoIFSD = true
	return &Connection{Carrier: c, lost: true, cfg: cfg, wtx: wtx}
}

// Lost reports whether the next exchange has to begin with S(RESYNCH).
func (c *Connection) Lost() bool { return c.lost }

// Dead reports whether S(RESYNCH) was not answered either.
func (c *Connection) Dead() bool { return c.t1 != nil && c.t1.Dead() }

// Times are those of one exchange.
type Times struct {
	Wait     time.Duration // for the answer to begin
	Until    time.Time     // the end of all patience
	Extended func()        // called when the terminal asks for time; may be nil
}

func (t Times) extend() {
	if t.Extended != nil {
		t.Extended()
	}
}

// Resync makes the connection anew. It is not known whether a command that was under way was
// executed, and nothing is sent again.
func (c *Connection) Resync(ctx context.Context) error {
	if err := c.Restart(); err != nil {
		return err
	}
	c.lost = true
	err := c.run(ctx, c.t1.Resync(), Times{recoverWait, time.Now().Add(TerminalLimit), nil})
	if err != nil {
		return fmt.Errorf("S(RESYNCH): %w", err)
	}
	c.lost = false
	return nil
}

// Restart makes the connection anew for a terminal that has just got power.
func (c *Connection) Restart() error {
	if err := c.Flush(); err != nil {
		return err
	}
	c.t1, c.lost = iso7816.NewT1(c.cfg), false
	return nil
}

// Do sends a command to a node and appends the answer to dst.
func (c *Connection) Do(ctx context.Context, nad byte, command []byte, t Times, dst []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return dst, err
	}
	if c.lost {
		if err := c.Resync(ctx); err != nil {
			return dst, err
		}
	}
	c.t1.SetNAD(nad)
	defer c.Wipe()
	if err := c.run(ctx, c.t1.Start(command, dst), t); err != nil {
		return dst, err
	}
	return c.t1.Response(), nil
}

// run carries out the steps of an exchange.
func (c *Connection) run(ctx context.Context, step iso7816.Step, t Times) error {
	defer c.t1.Wipe()
	expired := false
	for sent := 0; !step.Done; sent++ {
		wait := min(step.Wait, CharWait) // for the rest of a block
		switch {
		case len(step.Send) == 0:
		case recovers(step.Send) || expired:
			wait = recoverWait
		default:
			wait = t.Wait + time.Duration(step.WTX)*c.wtx
		}
		if step.Extended {
			t.extend()
		}
		if !expired && len(step.Send) > 0 {
			left := max(time.Until(t.Until), 0)
			if left == 0 && sent > 0 {
				step, expired = c.t1.Expire(), true
				continue
			}
			wait = min(wait, max(left, recoverWait))
		}
		rx, err := c.Exchange(ctx, step.Send, step.Want, wait)
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		if err != nil && (ctx.Err() != nil || errors.Is(err, reader.ErrGone) || errors.Is(err, ErrBroken)) {
			c.lost = true
			return err
		}
		step = c.t1.Next(rx, err)
	}
	c.lost = c.lost || c.t1.Dead() // an error of the exchange alone leaves the connection in order
	return step.Err
}

// recovers reports whether a block asks for a repetition, or is S(RESYNCH request).
func recovers(block []byte) bool {
	pcb := block[1]
	return pcb&0xC0 == 0x80 && pcb&0x0F != 0 || pcb == 0xC0
}

// CharWait is between two characters of a block: the CWT of T=1 by default is 0.9 s at 9600.
const CharWait = time.Second
