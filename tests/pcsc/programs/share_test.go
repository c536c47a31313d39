package programs

import (
	"fmt"
	"slices"
	"testing"

	"github.com/cardfs/cardfs/tests/internal/daemon"
)

const (
	token  = `"Simulated T=1 reader 01 00"`
	answer = "SUCCESS 01 02 90 00"
)

// "The mount gone and back: SCARD_E_NO_SERVICE, then recovery without a new context": a
// program whose cardfs is killed is told so by each call, and goes on with the context that
// it has once cardfs is back.
func TestRestart(t *testing.T) {
	s := newSide(t, false)
	c, waiting := s.client(), s.client()
	for _, c := range []*client{c, waiting} {
		c.say("establish()", "SUCCESS")
		c.say(fmt.Sprintf("connect(%s)", token), "SUCCESS")
		c.say("send()", answer)
	}
	c.say("begin()", "SUCCESS")
	change := fmt.Sprintf("change(%s, PRESENT)", token)
	waiting.start(change)
	waiting.waits(change)
	s.daemon.Kill()
	waiting.result(change, "NO_SERVICE")
	for _, call := range []string{"send()", "status()", "end()", "begin()", "reconnect()", "reset()"} {
		c.say(call, "NO_SERVICE|READER_UNAVAILABLE")
	}
	c.say("disconnect()", "SUCCESS|NO_SERVICE|READER_UNAVAILABLE")
	c.say("readers()", "NO_SERVICE ")
	c.say(fmt.Sprintf("connect(%s)", token), "NO_SERVICE")
	c.say(fmt.Sprintf("change(%s, UNAWARE, 0)", token), "NO_SERVICE")
	s.client().say("establish()", "NO_SERVICE")
	s.daemon.Start()
	s.daemon.Await("1/status", "state present")
	c.say("valid()", "SUCCESS")
	c.say(fmt.Sprintf("change(%s)", token), "SUCCESS CHANGED PRESENT")
	c.say(fmt.Sprintf("connect(%s)", token), "SUCCESS")
	c.say("send()", answer)
	c.say("begin()", "SUCCESS")
	// What was open before stays away: it was another mount.
	waiting.say("send()", "NO_SERVICE|READER_UNAVAILABLE")
	connect := fmt.Sprintf("connect(%s)", token)
	waiting.start(connect)
	c.say("send()", answer)
	waiting.waits(connect) // for the transaction's end
	c.say("end()", "SUCCESS")
	waiting.result(connect, "SUCCESS")
	waiting.say("send()", answer)
}

// A program on pcscd with the IFD handler, and one on the library, at the same card.
func TestShare(t *testing.T) {
	s := newSide(t, false)
	p := &side{t: t, daemon: s.daemon, env: slices.Clone(s.env[:len(s.env)-3])}
	p.servePCSC()
	lib, pc := s.client(), p.client()
	for _, c := range []*client{lib, pc} {
		c.say("establish()", "SUCCESS")
	}
	daemon.Eventually(t, "pcscd's readers", func() bool {
		out, _ := p.said("opensc-tool -l")
		return pcscdReady(out)
	})
	for _, c := range []*client{lib, pc} {
		c.say(fmt.Sprintf("connect(%s)", token), "SUCCESS")
		c.say("send()", answer)
	}

	t.Log("A transaction of the library holds pcscd off until it ends.")
	lib.say("begin()", "SUCCESS")
	pc.start("send()")
	for range 20 {
		lib.say("send()", answer)
	}
	pc.waits("send()")
	lib.say("end()", "SUCCESS")
	pc.result("send()", answer)

	t.Log(`"pcscd's own transactions and exclusive connections bind pcscd's clients only: its drivers are not told."`)
	pc.say("begin()", "SUCCESS")
	lib.say("send()", answer)
	pc.say("send()", answer)
	pc.say("end()", "SUCCESS")

	t.Log("Who resets the card goes on, and the other's commands are refused until it reconnects. pcscd learns of it by such a command.")
	lib.say("reset()", "SUCCESS")
	lib.say("send()", answer)
	toldByPcscd := func() {
		t.Helper()
		pc.say("send()", "NOT_TRANSACTED")
		pc.sayUntil("status()", "REMOVED_CARD|RESET_CARD")
		pc.sayUntil("reconnect()", "SUCCESS")
		pc.say("send()", answer)
	}
	toldByPcscd()
	lib.say("send()", answer)
	pc.say("reset()", "SUCCESS")
	pc.say("send()", answer)
	lib.say("send()", "RESET_CARD")
	lib.say("status()", "RESET_CARD")
	lib.say("reconnect()", "SUCCESS")
	lib.say("send()", answer)

	t.Log("While the library's exclusive connection lasts, others' commands are refused.")
	lib.say("disconnect()", "SUCCESS")
	lib.say(fmt.Sprintf("exclusive(%s)", token), "SUCCESS")
	lib.say("send()", answer)
	pc.say("send()", "NOT_TRANSACTED")
	pc.say("reset()", "UNRESPONSIVE_CARD")
	lib.say("send()", answer)
	lib.say("disconnect()", "SUCCESS")
	pc.sayUntil("reset()", "SUCCESS") // pcscd takes a card that it could not reset for unpowered
	pc.say("send()", answer)

	t.Log(`"When such a client dies holding the transaction the card is reset."`)
	lib.say(fmt.Sprintf("connect(%s)", token), "SUCCESS")
	lib.say("begin()", "SUCCESS")
	lib.say("send()", answer)
	lib.kill()
	toldByPcscd()
}
