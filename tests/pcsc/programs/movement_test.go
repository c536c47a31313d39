package programs

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/tests/internal/proc"
)

// follower is a program that waits for cards or readers. It ends when its input does.
type follower struct {
	row
	steps map[string]string // what it says of each step
}

// A Python example sleeps for some seconds, and ends then. Here it sleeps until its input
// ends: the file is as it was.
func monitor(name string, steps map[string]string) follower {
	return follower{row{name: "pyscard " + name,
		script: `exec /usr/bin/python3 -u -c 'import runpy, sys, time
time.sleep = lambda seconds, sleep=time.sleep: sleep(seconds) if seconds < 5 else sys.stdin.read()
sys.path.insert(0, "` + examples + `framework")
runpy.run_path("` + examples + name + `", run_name="__main__")'`}, steps}
}

// What happens on both sides while the programs follow it, in this order.
var steps = []string{"start", "sim 1 remove", "sim 1 insert", "sim 3 insert t0", "sim 3 remove"}

// lastRemoved is a whole line: behind it the programs are ended, and they write a line in pieces.
const lastRemoved = "-Removed:  3B 77 94 00 00 53 49 4D 54 30 90 00\n"

// followers are the programs, in groups that run at once: one that uses the card changes
// what another is told of it.
func followers() [][]follower {
	const event = "Simulated T=1 reader %s 00\n  Event number: %s"
	scan := func(reader, number string) string { return fmt.Sprintf(event, reader, number) }
	return [][]follower{
		{
			{row{name: "pcsc_scan", script: `pcsc_scan -n & trap 'kill $!' EXIT; read line`, mask: scanMask},
				map[string]string{"start": "Reader 4:", "sim 1 remove": scan("01", "1"), "sim 1 insert": scan("01", "2"),
					"sim 3 insert t0": scan("03", "1"), "sim 3 remove": scan("03", "2") + "\n  Card state: Card removed, \n"}},
			monitor("framework/sample_MonitorCards.py",
				map[string]string{"start": "+Inserted:  3B 80", "sim 1 remove": "-Removed", "sim 1 insert": "+Inserted:  3B B7",
					"sim 3 insert t0": "+Inserted", "sim 3 remove": lastRemoved}),
			{row{name: "pyscard scard-api/sample_getStatusChange.py", script: `exec /usr/bin/python3 -u ` + examples + `scard-api/sample_getStatusChange.py`},
				map[string]string{"start": "Please insert", "sim 1 remove": "Released"}},
		},
		{
			// When Python forgets a connection, it says so.
			monitor("framework/sample_MonitorCardsAndTransmit.py",
				map[string]string{"start": "+Inserted:  3B 80 01 81\n> A0 A4 00 00 02 7F 10\n<  []", "sim 1 remove": "-Removed", "sim 1 insert": "<  []",
					"sim 3 insert t0": "<  []", "sim 3 remove": lastRemoved}).masked(`disconnecting from [^\n]*\n`),
		},
	}
}

func (f follower) masked(mask string) follower {
	f.mask = mask
	return f
}

// movement moves cards while programs follow.
func movement(t *testing.T, sides [2]*side) (table []line) {
	for _, group := range followers() {
		table = append(table, follow(t, sides, group)...)
	}
	return table
}

func follow(t *testing.T, sides [2]*side, all []follower) (table []line) {
	type running struct {
		*proc.Process
		in io.Closer
	}
	run := make([][2]running, len(all))
	for i, f := range all {
		both(sides, func(k int, s *side) {
			cmd := s.command(f.script)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Error(err)
				return
			}
			p, err := proc.Start(cmd, new(proc.Log))
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(p.Kill)
			run[i][k] = running{p, in}
		})
	}
	if t.Failed() {
		return nil
	}
	from := make([][2]int, len(all))
	for _, step := range steps {
		if step != "start" {
			for _, s := range sides {
				s.daemon.Ctl("%s", step)
			}
		}
		for i, f := range all {
			for k, p := range run[i] {
				if text := f.steps[step]; text != "" {
					if err := awaitAfter(t, p.Log, text, &from[i][k]); err != nil {
						t.Fatalf("%s, side %d, %s: %v\n%s", f.name, k, step, err, p.Log)
					}
				}
			}
		}
	}
	for i, f := range all {
		l := line{row: f.row}
		for k, p := range run[i] {
			_ = p.in.Close()
			_ = p.Wait()
			l.out[k] = p.Log.String()
		}
		t.Run(f.name, func(t *testing.T) { f.compare(t, &l, [2]int{}) })
		table = append(table, l)
	}
	return table
}

// awaitAfter waits for text after *from, and moves *from behind it.
func awaitAfter(t *testing.T, log *proc.Log, text string, from *int) error {
	ctx, cancel := context.WithTimeout(t.Context(), proc.Patience)
	defer cancel()
	if err := log.Wait(ctx, text, *from); err != nil {
		return fmt.Errorf("never said %q: %w", text, err)
	}
	*from += strings.Index(log.String()[*from:], text) + len(text)
	return nil
}
