package client

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// EventNames are the words of the event files, in the order of a slot's life.
var EventNames = []string{"arrived", "ready", "failed", "inserted", "powered", "reset", "removed", "left"}

// Event is a line of an event file, and of `cardfs watch --json`.
type Event struct {
	Seq   uint64            `json:"seq"`
	Slot  int               `json:"slot"`
	Event string            `json:"event"` // one of EventNames
	More  map[string]string `json:"more"`  // the key=value words
	Lost  uint64            `json:"lost"`  // events lost before this one
}

// ParseEvent reads "SEQ SLOT WHAT key=value…".
func ParseEvent(line string) (Event, error) {
	words := strings.Fields(line)
	e := Event{More: map[string]string{}}
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

// Text is the event for a person. The event files write blanks as underscores.
func (e Event) Text() string {
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

// Events is an event file: of one slot, or of all.
type Events struct {
	path    string
	one     bool // of one slot, whose reader may leave
	explain func(error) error
}

func (c *Mount) Events() Events { return Events{path: c.Path("event"), explain: c.Explain} }

func (s Slot) Events() Events { return Events{path: s.Path("event"), one: true, explain: s.Explain} }

// EventsOf are those of the slot that args names, or of all in the mount at dir.
func EventsOf(dir string, args []string) (Events, error) {
	if len(args) == 0 {
		c, err := FindMount(dir)
		if err != nil {
			return Events{}, err
		}
		return c.Events(), nil
	}
	s, err := FindSlot(dir, args[0])
	return s.Events(), err
}

func (c *Mount) Snapshot() ([]Event, error) { return c.Events().Snapshot() }

func (s Slot) Follow() (*Follower, error) { return s.Events().Follow() }

// Snapshot is how things stand.
func (src Events) Snapshot() ([]Event, error) {
	fd, err := OpenNow(src.path, unix.O_RDONLY)
	if err != nil {
		return nil, src.explain(err)
	}
	defer unix.Close(fd)
	// Not an os.File: Go would wait for an EAGAIN to end.
	text, err := readNow(func(p []byte) (int, error) { return unix.Read(fd, p) })
	if err != nil {
		return nil, src.explain(err)
	}
	var list []Event
	for line := range strings.Lines(string(text)) {
		e, err := ParseEvent(line)
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

// Follower is an open event file. It is open, and read, until the program ends.
type Follower struct {
	source Events
	file   *os.File
	events chan Event
	err    error // why events was closed
}

// Follow opens the events. From its return on none is missed.
func (src Events) Follow() (*Follower, error) {
	file, err := os.Open(src.path)
	if err != nil {
		return nil, src.explain(err)
	}
	f := &Follower{source: src, file: file, events: make(chan Event)}
	go f.read()
	return f, nil
}

func (f *Follower) read() {
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
		e, err := ParseEvent(line)
		if err != nil {
			f.err = err
			return
		}
		f.events <- e
	}
}

var ErrTimeout = errors.New("timed out")

// Each calls show with the events until it is done (true), the reader left or
// the mount ended (false), or timeout is over (ErrTimeout).
func (f *Follower) Each(timeout time.Duration, show func(Event) (bool, error)) (bool, error) {
	var over <-chan time.Time
	if timeout != Forever {
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
			return false, ErrTimeout
		}
	}
}
