package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// eventNames are the words of the event files, in the order of a slot's life.
var eventNames = []string{"arrived", "ready", "failed", "inserted", "powered", "reset", "removed", "left"}

// event is a line of an event file, and of `cardfs watch --json`.
type event struct {
	Seq   uint64            `json:"seq"`
	Slot  int               `json:"slot"`
	Event string            `json:"event"` // one of eventNames
	More  map[string]string `json:"more"`  // the key=value words
	Lost  uint64            `json:"lost"`  // events lost before this one
}

// parseEvent reads "SEQ SLOT WHAT key=value…".
func parseEvent(line string) (event, error) {
	words := strings.Fields(line)
	e := event{More: map[string]string{}}
	if len(words) < 3 {
		return e, fmt.Errorf("%q is not an event", line)
	}
	var err error
	if e.Seq, err = strconv.ParseUint(words[0], 10, 64); err == nil {
		e.Slot, err = strconv.Atoi(words[1])
	}
	if err != nil {
		return e, fmt.Errorf("%q is not an event: %w", line, err)
	}
	e.Event = words[2]
	for _, pair := range words[3:] {
		key, value, _ := strings.Cut(pair, "=")
		if key == "lost" {
			e.Lost, _ = strconv.ParseUint(value, 10, 64)
			continue
		}
		e.More[key] = value
	}
	return e, nil
}

// text is the event for a person. The event files write blanks as underscores.
func (e event) text() string {
	words := func(key string) string { return strings.ReplaceAll(e.More[key], "_", " ") }
	var s string
	switch {
	case e.Event == "arrived":
		s = "reader arrived"
		if e.More["reader"] != "" {
			s += ": " + words("reader")
		}
		s += fmt.Sprintf(" (%s %s)", e.More["driver"], e.More["device"])
	case e.Event == "ready":
		s = "reader ready"
	case e.Event == "failed":
		s = "failed: " + words("error")
	case e.Event == "inserted":
		s = "card inserted"
	case e.Event == "powered" && e.More["power"] == "off":
		s = "card powered off"
	case e.Event == "powered", e.Event == "reset":
		s = fmt.Sprintf("card %s, %s, ATR %s", e.Event, e.More["protocol"], e.More["atr"])
	case e.Event == "removed":
		s = "card removed"
	case e.Event == "left":
		s = "reader left"
	default:
		s = e.Event
	}
	if e.Lost > 0 {
		s += fmt.Sprintf(" (%d events before this were lost)", e.Lost)
	}
	return fmt.Sprintf("slot %d: %s", e.Slot, s)
}

func newWatch() *cobra.Command {
	var asJSON, once, stamp bool
	var until string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "watch [flags] [N]",
		Short: "Follow what happens to the readers, or to slot N",
		Long: `watch prints how things stand, as the events that led there, and then each event as
it comes: readers arrive, become ready, leave; cards are inserted, powered, reset,
removed (cardfs help events). It ends when the reader left (watch N) or the mount
ends, or as the flags say.

--json prints an object a line: seq (number of the event), slot, event (arrived,
ready, failed, inserted, powered, reset, removed, left), more (an object of
strings: driver, device, reader, atr, protocol, power, error), lost (how many
events before this one were lost because they were not read in time).

` + slotHelp,
		Example: `  cardfs watch
  cardfs watch --once                          # how things stand
  cardfs watch 0 --until inserted --timeout 1m && cardfs send 0 0084000008
  cardfs watch --json | jq -r 'select(.event == "inserted") | .slot'`,
		Args:              args(0, 1, "watch takes one slot or none"),
		ValidArgsFunction: completeSlot,
	}
	dir := mountFlag(cmd)
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "print a JSON object a line")
	f.BoolVar(&once, "once", false, "only print how things stand")
	f.BoolVarP(&stamp, "time", "t", false, "begin each line with the time at which it was read")
	f.StringVar(&until, "until", "", "end after the first `EVENT` of that name, those that say how things stand included")
	f.DurationVar(&timeout, "timeout", forever, "exit 1 if it did not end within `DURATION`")
	f.Lookup("timeout").DefValue = "for ever"
	cmd.RegisterFlagCompletionFunc("until", cobra.FixedCompletions(eventNames, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if until != "" && !slices.Contains(eventNames, until) {
			return usageError("--until %s: the events are %s", until, strings.Join(eventNames, ", "))
		}
		source, err := eventsOf(*dir, args)
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		show := func(e event) (done bool, err error) {
			prefix := ""
			if stamp {
				prefix = time.Now().Format("2006-01-02T15:04:05.000 ")
			}
			if asJSON {
				text, err := json.Marshal(e)
				if err != nil {
					return true, err
				}
				_, err = fmt.Fprintf(out, "%s%s\n", prefix, text)
				return e.Event == until, err
			}
			_, err = fmt.Fprintf(out, "%s%s\n", prefix, e.text())
			return e.Event == until, err
		}
		if once {
			now, err := source.snapshot()
			for _, e := range now {
				if _, err := show(e); err != nil {
					return err
				}
			}
			return err
		}
		f, err := source.follow()
		if err != nil {
			return err
		}
		done, err := f.each(timeout, show)
		switch {
		case errors.Is(err, errTimeout) && until != "":
			return fmt.Errorf("no event %s within %v", until, timeout)
		case errors.Is(err, errTimeout):
			return fmt.Errorf("watch did not end within %v", timeout)
		case err != nil:
			return err
		case !done && until != "" && len(args) > 0:
			return exitStatus{exitNone, fmt.Errorf("reader %s left before an event %s", args[0], until)}
		case !done && until != "":
			return fmt.Errorf("the mount ended before an event %s", until)
		}
		return nil
	}
	return cmd
}

// events is an event file: of one slot, or of all.
type events struct {
	path    string
	one     bool // of one slot, whose reader may leave
	explain func(error) error
}

func (c *client) events() events { return events{path: c.path("event"), explain: c.explain} }

func (s slot) events() events { return events{path: s.path("event"), one: true, explain: s.explain} }

// eventsOf are those of the slot that args names, or of all in the mount at dir.
func eventsOf(dir string, args []string) (events, error) {
	if len(args) == 0 {
		c, err := newClient(dir)
		if err != nil {
			return events{}, err
		}
		return c.events(), nil
	}
	s, err := findSlot(dir, args[0])
	return s.events(), err
}

func (c *client) snapshot() ([]event, error) { return c.events().snapshot() }

func (s slot) follow() (*following, error) { return s.events().follow() }

// snapshot is how things stand.
func (src events) snapshot() ([]event, error) {
	fd, err := unix.Open(src.path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, src.explain(err)
	}
	defer unix.Close(fd)
	// Not an os.File: Go would wait for an EAGAIN to end.
	text, err := readNow(func(p []byte) (int, error) { return unix.Read(fd, p) })
	if err != nil {
		return nil, src.explain(err)
	}
	var list []event
	for line := range strings.Lines(string(text)) {
		e, err := parseEvent(line)
		if err != nil {
			return list, err
		}
		list = append(list, e)
	}
	return list, nil
}

// readNow reads what is there without waiting for more.
func readNow(read func([]byte) (int, error)) (text []byte, err error) {
	buf := make([]byte, 1<<16)
	for {
		n, err := read(buf)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN, err == nil && n == 0:
			return text, nil
		case err != nil:
			return nil, err
		default:
			text = append(text, buf[:n]...)
		}
	}
}

// following is an open event file. It is open, and read, until the program ends.
type following struct {
	source events
	file   *os.File
	events chan event
	err    error // why events was closed
}

// follow opens the events. From its return on none is missed.
func (src events) follow() (*following, error) {
	file, err := os.Open(src.path)
	if err != nil {
		return nil, src.explain(err)
	}
	f := &following{source: src, file: file, events: make(chan event)}
	go f.read()
	return f, nil
}

func (f *following) read() {
	defer close(f.events)
	in := bufio.NewReader(f.file)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			if err != io.EOF {
				f.err = err
			}
			return
		}
		e, err := parseEvent(line)
		if err != nil {
			f.err = err
			return
		}
		f.events <- e
	}
}

var errTimeout = errors.New("timed out")

// each calls show with the events until it is done (true), the reader left or
// the mount ended (false), or timeout is over (errTimeout).
func (f *following) each(timeout time.Duration, show func(event) (bool, error)) (bool, error) {
	var over <-chan time.Time
	if timeout != forever {
		over = time.After(timeout)
	}
	for {
		select {
		case e, ok := <-f.events:
			if !ok {
				if f.source.one && errors.Is(f.err, unix.ENODEV) {
					return false, nil
				}
				return false, f.source.explain(f.err)
			}
			if done, err := show(e); done || err != nil {
				return done, err
			}
		case <-over:
			return false, errTimeout
		}
	}
}
