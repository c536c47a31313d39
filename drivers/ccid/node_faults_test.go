package ccid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/chardev"
	"github.com/cardfs/cardfs/drivers/bus/chardev/chardevtest"
	"github.com/cardfs/cardfs/drivers/ccid/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// What the reader may do behind its module, at each message: nothing hangs, the card sees the
// command once at most, an answer is the right one, and the reader works afterwards, or has
// failed with a reason.
func TestNodeFaults(t *testing.T) {
	kinds := map[string]emu.Fault{
		"the answer is lost": {Kind: emu.StallIn}, "takes nothing": {Kind: emu.StallOut}, "runt": {Kind: emu.Runt},
		"truncated": {Kind: emu.Truncated}, "long": {Kind: emu.Long}, "wrong length": {Kind: emu.LengthLie},
		"an old answer first": {Kind: emu.StaleFirst}, "wrong number": {Kind: emu.WrongSeq}, "wrong slot": {Kind: emu.WrongSlot},
		"wrong type": {Kind: emu.WrongType}, "babble": {Kind: emu.Babble}, "flood": {Kind: emu.Flood}, "silence": {Kind: emu.Silence},
		"dead": {Kind: emu.Stone}, "endless": {Kind: emu.Endless}, "failure": {Kind: emu.Fail, Code: 0xFB}, "left": {Kind: emu.Detach},
	}
	for name, make := range nodes {
		for what, fault := range kinds {
			if make().NoAbort && fault.Kind != emu.Silence && fault.Kind != emu.Endless {
				continue
			}
			for _, on := range []byte{cmdSlotStatus, cmdPowerOn, cmdSetParameters, cmdXfrBlock, cmdPowerOff} {
				t.Run(fmt.Sprintf("%s/%s/%s", name, what, commandName(on)), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						e, card := newNode(t, make, atrT0)
						p := chardevtest.Plug(e)
						defer p.Unplug()
						m := nodeBench(t, p)
						defer m.Close(ctx)
						nodeSession(t, m)
						fault := fault
						fault.On = on
						e.Inject(fault)
						start := time.Now()
						_ = m.Slot(0).Power(ctx, core.ResetCold, core.Caller{Wait: true})
						slot := nodeSlot(m)
						if slot == nil {
							if fault.Kind != emu.Detach {
								t.Error("the reader has gone")
							}
							return
						}
						if s, err := slot.Open(ctx, core.Caller{Owner: t, Wait: true}); err == nil {
							got, err := s.Transmit(ctx, unhex("00 20 00 01 04 31 32 33 34"), nil)
							if err == nil && !bytes.Equal(got, unhex("90 00")) {
								t.Errorf("% X", got)
							}
							if n := card.count(); n > 1 || err == nil && n != 1 {
								t.Errorf("the card saw the command %d times; %v", n, err)
							}
						}
						limit := 10 * time.Minute
						if fault.Kind == emu.Endless {
							limit += 2 * exchangeLimit
						}
						if took := time.Since(start); took > limit {
							t.Errorf("it took %v", took)
						}
						if fault.Kind == emu.Stone || fault.Kind == emu.Detach || fault.Kind == emu.Endless && e.NoAbort {
							return
						}
						time.Sleep(5 * time.Minute) // a call that was left ends
						s, err := nodeSlot(m).Open(ctx, core.Caller{Owner: t, Wait: true})
						if err != nil {
							s = nodeSession(t, m)
						}
						transmit(t, s, unhex("00 84 00 00 02"), unhex("00 01 90 00"))
					})
				})
			}
		}
	}
}

// nodeSlot returns the reader's slot, or nil if the reader left. A reader that died has none
// until the core opens it again.
func nodeSlot(m *core.Manager) *core.Slot {
	if slot := m.Slot(0); slot != nil {
		return slot
	}
	time.Sleep(time.Second)
	return m.Slot(0)
}

// The reader leaves at each call, and comes back.
func TestNodeLeaves(t *testing.T) {
	for at := 0; ; at++ {
		calls := 0
		synctest.Test(t, func(t *testing.T) {
			e, card := newNode(t, emu.NewCM4040, atrT1)
			f := &handled{Plugged: chardevtest.Plug(e)}
			f.on = func(call string, p []byte, do func([]byte) (int, error)) (int, error) {
				if calls++; calls > at {
					f.Unplug()
				}
				return do(p)
			}
			defer f.Unplug()
			r, err := Driver{}.Open(ctx, nodeDevice(f))
			if err == nil {
				defer r.Close()
				s := r.Slots()[0]
				if _, err = s.PowerOn(ctx, reader.Cold); err == nil {
					_, err = s.Exchange(ctx, reader.Transfer{Out: unhex("00 00 05 00 84 00 00 04 85")}, nil)
				}
				if err == nil {
					_, err = s.Status(ctx)
				}
			}
			if (calls > at) != errors.Is(err, reader.ErrGone) {
				t.Errorf("at call %d of %d: %v", at, calls, err)
			}
			if calls > at && r != nil {
				<-r.Gone()
			}
			p := chardevtest.Plug(e)
			defer p.Unplug()
			m := nodeBench(t, p)
			defer m.Close(ctx)
			transmit(t, nodeSession(t, m), unhex("00 84 00 00 02"), unhex("00 01 90 00"))
			if n := card.count(); n > 2 {
				t.Errorf("%d commands", n)
			}
		})
		if calls <= at {
			if at < 6 {
				t.Errorf("%d calls in all", at)
			}
			return
		}
	}
}

// What the user before has left in the reader is not taken for an answer.
func TestNodeLeftovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newNode(t, emu.NewCM4040, atrT0)
		p := chardevtest.Plug(e)
		defer p.Unplug()
		n, err := p.OpenNode(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for seq := range byte(3) {
			if _, err := n.Write(ctx, []byte{cmdSlotStatus, 0, 0, 0, 0, 0, 0xF0 + seq, 0, 0, 0}, 0); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		n.Close()
		m := nodeBench(t, p)
		defer m.Close(ctx)
		transmit(t, nodeSession(t, m), unhex("00 84 00 00 02"), unhex("00 01 90 00"))
	})
}

// Nobody answers: an error that says so, in time, and not that the reader left.
func TestNodeSilent(t *testing.T) {
	for name, make := range nodes {
		synctest.Test(t, func(t *testing.T) {
			e := make()
			e.Inject(emu.Fault{Kind: emu.Stone})
			p := chardevtest.Plug(e)
			defer p.Unplug()
			start := time.Now()
			_, err := Driver{}.Open(ctx, nodeDevice(p))
			if !errors.Is(err, reader.ErrTimeout) || errors.Is(err, reader.ErrGone) || !strings.Contains(err.Error(), "no reader answers") || time.Since(start) > time.Minute {
				t.Errorf("%s: %v after %v", name, err, time.Since(start))
			}
		})
	}
}

// silentNode is a file whose calls take their time, and fail.
type silentNode struct {
	chardev.Node
	err   error
	takes time.Duration
	waits []time.Duration
}

func (n *silentNode) Gone() <-chan struct{} { return nil }

func (n *silentNode) Read(_ context.Context, _ []byte, wait time.Duration) (int, error) {
	n.waits = append(n.waits, wait)
	time.Sleep(min(n.takes, wait))
	if n.takes > wait {
		return 0, reader.ErrTimeout
	}
	return 0, n.err
}

// "A read which the kernel ended for the reader's silence begins anew", and has what is left of
// the command's time.
func TestNodeWaits(t *testing.T) {
	for _, err := range []error{syscall.EIO, syscall.EAGAIN} {
		synctest.Test(t, func(t *testing.T) {
			n := &silentNode{err: err, takes: 2 * time.Second}
			start := time.Now()
			_, err := (&nodeConn{node: n}).In(ctx, 0, make([]byte, 1024), 5*time.Second)
			if took := time.Since(start); !errors.Is(err, reader.ErrTimeout) || took != 5*time.Second {
				t.Errorf("%v after %v", err, took)
			}
			if len(n.waits) != 3 || n.waits[0] != 5*time.Second || n.waits[1] != 3*time.Second-nodeTick || n.waits[2] != time.Second-2*nodeTick {
				t.Errorf("%v: waits %v", n.err, n.waits)
			}
		})
	}
	// The caller gives up between two reads.
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(ctx, 15*time.Millisecond)
		defer cancel()
		if _, err := (&nodeConn{node: &silentNode{err: syscall.EAGAIN}}).In(ctx, 0, make([]byte, 1024), 5*time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}
