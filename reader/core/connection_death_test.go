package core

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/reader"
)

// "When such a client dies holding the transaction the card is reset, as pcscd does it, so
// that other sessions say ESTALE; if it dies without the lock the card is left as it is. An
// orderly end is: unlock, then CARDFS_SHARE_NONE or close." A process that dies closes its
// opens in any order.
func TestClientDies(t *testing.T) {
	bg := context.Background()
	for _, share := range []Share{ShareExclusive, ShareShared, ShareDirect} {
		for name, tt := range map[string]struct {
			ends   func(b *Slot, c *client, apdu Caller)
			resets bool
		}{
			"apdu, then control":       {func(b *Slot, c *client, apdu Caller) { b.Abandon(apdu.Owner); c.Close() }, true},
			"control, then apdu":       {func(b *Slot, c *client, apdu Caller) { c.Close(); b.Abandon(apdu.Owner) }, true},
			"unlock, close":            {func(b *Slot, c *client, apdu Caller) { b.Unlock(apdu.Owner); c.Close(); b.Abandon(apdu.Owner) }, false},
			"unlock, close apdu first": {func(b *Slot, c *client, apdu Caller) { b.Unlock(apdu.Owner); b.Abandon(apdu.Owner); c.Close() }, false},
			"unlock, none": {func(b *Slot, c *client, apdu Caller) {
				b.Unlock(apdu.Owner)
				c.share(ShareNone)
				c.Close()
				b.Abandon(apdu.Owner)
			}, false},
			"none, then a death":          {func(b *Slot, c *client, apdu Caller) { c.share(ShareNone); c.Close(); b.Abandon(apdu.Owner) }, false},
			"control closed, then unlock": {func(b *Slot, c *client, apdu Caller) { c.Close(); b.Unlock(apdu.Owner); b.Abandon(apdu.Owner) }, false},
		} {
			t.Run(fmt.Sprint(share, " ", name), func(t *testing.T) {
				bubble(t, Options{}, func(t *testing.T, r *rig) {
					slot := newFakeSlot(t)
					_, b := r.plug(reader.Device{}, slot)
					apdu, other := of("client", hasty()), of("other", someone())
					mustOpen(t, b, apdu)
					os := mustOpen(t, b, other)
					c := newClient(b, "client")
					if err := c.share(share); err != nil {
						t.Fatal(err)
					}
					if err := b.Lock(bg, apdu, nil); err != nil {
						t.Fatal(err)
					}
					locks := async(func() (int, error) { return 0, b.Lock(bg, of("third", someone()), nil) })
					synctest.Wait()
					changes := b.swaps
					tt.ends(b, c, apdu)
					if _, err := locks.get(); err != nil {
						t.Fatal(err)
					}
					want := 0
					if tt.resets {
						want = 1
					}
					if n := slot.count("power on warm"); n != want {
						t.Errorf("%d resets; %q", n, slot.calls())
					}
					if err := os.Err(); tt.resets {
						wantErr(t, "another's session", err, reader.ErrStale)
					} else if err != nil {
						t.Errorf("another's session: %v", err)
					}
					if i := b.Info(); i.Connections != 0 || i.Exclusive || i.CardChanges != changes {
						t.Errorf("%d connections, exclusive: %v, %d changes of the card", i.Connections, i.Exclusive, i.CardChanges)
					}
				})
			})
		}
	}
}

// A death is one's own: another's connection, one of nobody knows whom, and a lock of another
// do not make a close a death. A card without power stays so.
func TestNoDeath(t *testing.T) {
	bg := context.Background()
	for name, tt := range map[string]struct {
		client, holder any
		off            bool
	}{
		"another's connection": {"other", "client", false},
		"both not known":       {nil, nil, false},
		"no power":             {"client", "client", true},
	} {
		for _, first := range []string{"apdu", "control"} {
			bubble(t, Options{}, func(t *testing.T, r *rig) {
				slot := newFakeSlot(t)
				_, b := r.plug(reader.Device{}, slot)
				holder, client := someone(), hasty()
				holder.Process, client.Process = tt.holder, tt.client
				mustOpen(t, b, holder)
				c := b.NewConnection(client)
				if _, err := c.Share(bg, ShareShared, lag, nil); err != nil {
					t.Fatal(err)
				}
				if err := b.Lock(bg, holder, nil); err != nil {
					t.Fatal(err)
				}
				if tt.off {
					if err := b.Power(bg, PowerDown, holder); err != nil {
						t.Fatal(err)
					}
				}
				ups := slot.count("power on cold")
				if first == "control" {
					c.Close()
				}
				b.Abandon(new(int)) // who holds nothing
				b.Abandon(holder.Owner)
				c.Close()
				if b.Info().Locked {
					t.Errorf("%s, %s first: the lock stays", name, first)
				}
				synctest.Wait()
				if slot.count("power on warm") != 0 || slot.count("power on cold") != ups {
					t.Errorf("%s, %s first: %q", name, first, slot.calls())
				}
			})
		}
	}
}

// Nobody gets the card of who died before it is reset, also if its reset waits for the turn;
// an open with O_NONBLOCK is not refused for that.
func TestNobodyGetsTheCardOfTheDead(t *testing.T) {
	bg := context.Background()
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		slot := newFakeSlot(t)
		_, b := r.plug(reader.Device{}, slot)
		apdu := of("client", hasty())
		mustOpen(t, b, apdu)
		waits, quick := mustOpen(t, b, someone()), mustOpen(t, b, hasty())
		c := newClient(b, "client")
		if err := c.share(ShareShared); err != nil {
			t.Fatal(err)
		}
		if err := b.Lock(bg, apdu, c.admits); err != nil {
			t.Fatal(err)
		}
		if err := b.acquire(bg); err != nil {
			t.Fatal(err)
		}
		// They wait for the turn, and have it before the reset.
		before := asyncTransmit(waits, bg, "00 01 00 00")
		hurried := asyncTransmit(quick, bg, "00 02 00 00")
		synctest.Wait()
		c.Close()
		b.Abandon(apdu.Owner)
		// A client that comes now is granted what it wants.
		next := newClient(b, "next")
		for _, share := range []Share{ShareShared, ShareExclusive, ShareNone} {
			if err := next.share(share); err != nil {
				t.Errorf("%d: %v", share, err)
			}
		}
		synctest.Wait()
		b.release()
		synctest.Wait() // for the reset, too
		for name, o := range map[string]*outcome[[]byte]{"waits": before, "does not wait": hurried} {
			_, err := o.get()
			wantErr(t, "the command of an open that "+name, err, reader.ErrStale)
		}
		if len(slot.sent) != 0 || b.Info().Locked {
			t.Errorf("sent % X, locked %v", slot.sent, b.Info().Locked)
		}
	})
}
