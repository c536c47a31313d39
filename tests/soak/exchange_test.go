package soak

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/tests/internal/daemon"
	"github.com/cardfs/cardfs/tests/internal/proc"
)

// commandsHad asks the card in slot 0 how many commands it has received, including this one.
func commandsHad(t *testing.T, dir string) int {
	t.Helper()
	type answer struct {
		n   int
		err error
	}
	got := make(chan answer, 1)
	go func() {
		fd, err := daemon.Open(dir+"/0/apdu", syscall.O_RDWR)
		if err != nil {
			got <- answer{err: err}
			return
		}
		defer syscall.Close(fd)
		for {
			raw, err := ioctl(fd, counter)
			if err == syscall.EINTR { // the Go runtime's own signals
				continue
			}
			n, ok := counted(raw)
			if err == nil && !ok {
				err = fmt.Errorf("counter: % X", raw)
			}
			got <- answer{n, err}
			return
		}
	}()
	select {
	case a := <-got:
		if a.err != nil {
			t.Fatal(a.err)
		}
		return a.n
	case <-time.After(proc.Patience):
		t.Fatal("the card cannot be used")
		return 0
	}
}

// "Two scripts on one card at once, 10,000 exchanges each, never see each
// other's answers."
func TestTwoClients(t *testing.T) {
	for device, few := range map[string]int{"apdu": 10_000, "ikey3k": 3000} {
		t.Run(device, func(t *testing.T) {
			dir := daemon.MountPoint(t)
			d := daemon.Start(t, program, dir, "--sim", device)
			n := soak(t, few)
			before := commandsHad(t, dir)
			begin := time.Now()
			clients := []*process{run(t, "exchanger", dir+"/0/apdu", n, "ioctl"), run(t, "exchanger", dir+"/0/apdu", n, "text")}
			done := 0
			for _, c := range clients {
				done += c.long().Done
			}
			t.Logf("%d exchanges by 2 clients in %v, none wrong", done, time.Since(begin).Round(time.Millisecond))
			if had := commandsHad(t, dir) - before - 1; done != 2*n || had != done {
				t.Errorf("%d exchanges of %d; the card had %d commands", done, 2*n, had)
			}
			d.Stop()
		})
	}
}

// "With flock, sequences never interleave", with a third client that locks
// nothing: within a transaction the card counts its holder's commands only.
func TestTransactions(t *testing.T) {
	dir := daemon.MountPoint(t)
	d := daemon.Start(t, program, dir, "--sim", "ikey3k")
	n := soak(t, 1000)
	clients := []*process{
		run(t, "sequence", dir+"/0/apdu", n), run(t, "sequence", dir+"/0/apdu", n),
		run(t, "exchanger", dir+"/0/apdu", 2*n, "text"),
	}
	var done []int
	for _, c := range clients {
		done = append(done, c.long().Done)
	}
	t.Logf("%d and %d transactions of 4 commands, %d commands of one who does not lock; none interleaved", done[0], done[1], done[2])
	if done[0] != n || done[1] != n || done[2] != 2*n {
		t.Errorf("%v done", done)
	}
	d.Stop()
}

// "A command that was interrupted reached the card at most once (count at the
// card)": an ioctl that says EINTR sent nothing, a read that says EINTR can be
// repeated, and all that was taken reached the card once.
func TestInterrupts(t *testing.T) {
	dir := daemon.MountPoint(t)
	d := daemon.Start(t, program, dir, "--sim", "ikey3k")
	n := soak(t, 2000)
	// A slow card makes the others wait for their turn.
	d.Ctl("sim 0 slow 500us")
	before := commandsHad(t, dir)
	r := run(t, "interrupted", dir+"/0/apdu", n).long()
	had := commandsHad(t, dir) - before - 1
	t.Logf("%d exchanges under signals, %d interrupted before they were sent; the card had %d commands", r.Done, r.Counts["EINTR, nothing sent"], had)
	if had != r.Done {
		t.Errorf("%d exchanges, the card had %d commands", r.Done, had)
	}
	if r.Counts["EINTR, nothing sent"] == 0 {
		t.Error("no command was interrupted before it was sent: nothing was shown")
	}
	d.Stop()
}

// "A client killed with SIGKILL in the middle of anything leaves the card usable
// within the protocol's own deadlines", and its commands reached the card at
// most once.
func TestKilledClients(t *testing.T) {
	dir := daemon.MountPoint(t)
	d := daemon.Start(t, program, dir, "--sim", "ikey3k", "--attach", "sim t1 card=none")
	rounds := min(soak(t, 27), 999)
	rnd := rand.New(rand.NewPCG(5, 6))
	ways := []string{"ioctl", "read", "write", "half a line", "lock", "wait for a lock", "wait for a transaction", "open", "ioctl"}
	had := commandsHad(t, dir)
	first, reached := had, 0
	var longest time.Duration
	for i := range rounds {
		how := ways[i%len(ways)]
		p := run(t, "victim", dir, how)
		begun, err := p.next()
		if err != nil {
			t.Fatal(err)
		}
		// All its reports until it dies.
		told := make(chan report, 1)
		go func() {
			last := begun
			for {
				var r report
				if p.out.Decode(&r) != nil {
					told <- last
					return
				}
				last = r
			}
		}()
		time.Sleep(time.Duration(rnd.IntN(50_000)) * time.Microsecond)
		begin := time.Now()
		if err := p.kill(); err != nil {
			t.Fatal(err)
		}
		last := <-told
		for _, w := range last.Wrong {
			t.Error(w)
		}
		now := commandsHad(t, dir)
		longest = max(longest, time.Since(begin))
		// The last command may not have been sent, or may still be under way. The card handles
		// one command after the other, so it was finished before ours.
		got := now - had - 1
		if most := last.Begun; got > most || got < most-1-spare(how) {
			t.Errorf("round %d, %s: %d commands were begun, %d done, the card had %d", i, how, last.Begun, last.Done, got)
		}
		reached += got
		had = now
	}
	t.Logf("%d clients killed; %d commands reached the card; from SIGKILL to the next one's answer at most %v", rounds, reached, longest)
	if had-first != reached+rounds {
		t.Errorf("the card had %d commands, %d of them the killed ones'", had-first, reached)
	}
	d.Stop()
}

// spare is how many more of the begun commands may not have reached the card: the client
// announced one that it could never send.
func spare(how string) int {
	if how == "wait for a transaction" {
		return 1
	}
	return 0
}
