package client

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
)

// AttachWait is how long attach and detach wait unless told otherwise: longer
// than a reader takes that powers up and tests itself.
const AttachWait = 30 * time.Second

// Attach adds a reader and gives the numbers of its slots.
func (c *Mount) Attach(words []string, wait time.Duration) ([]int, error) {
	ctl, err := c.OpenCtl()
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	before, err := c.Snapshot()
	if err != nil {
		return nil, err
	}
	if err := c.WriteCtl(ctl, "attach "+strings.Join(words, " ")); err != nil {
		return nil, err
	}
	// Its arrival was published before the write returned.
	now, err := c.Snapshot()
	if err != nil {
		return nil, err
	}
	ctl.Close() // others may go on
	n, ok := newcomer(before, now, words[0], words[1])
	if hub, is := c.hub(words[0], words[1]); !ok && is {
		return c.awaitHub(hub, wait)
	}
	if !ok {
		return nil, exit.Status{Code: exit.None, Err: errors.New("the reader arrived and left at once; the log of cardfs mount may say why")}
	}
	if wait == 0 {
		return []int{n}, nil
	}
	return c.Slot(n).WaitReady(wait)
}

// newcomer finds the number of the reader that was attached between two
// snapshots. Its driver may have given it another address than it was asked
// for: ikey3k became ikey3k-1, a path absolute. A reader of the same driver that
// came by itself meanwhile is passed over where the names tell them apart.
func newcomer(before, now []Event, driver, device string) (number int, ok bool) {
	last := uint64(0)
	for _, e := range before {
		last = max(last, e.Seq)
	}
	for _, e := range now {
		if e.Seq <= last || e.Event != "arrived" || e.More["driver"] != driver {
			continue
		}
		if d := e.More["device"]; d == device || strings.HasPrefix(d, device+"-") {
			return e.Slot, true
		}
		if !ok {
			number, ok = e.Slot, true
		}
	}
	return number, ok
}

// WaitReady waits until the slot's reader is ready or failed, and gives the
// numbers of its slots.
func (s Slot) WaitReady(wait time.Duration) ([]int, error) {
	n, err := s.Number()
	if err != nil {
		return nil, err
	}
	f, err := s.Follow()
	if err != nil {
		return nil, err
	}
	failed := ""
	settled, err := f.Each(wait, func(e Event) (bool, error) {
		if e.Event == "failed" {
			failed = strings.ReplaceAll(e.More["error"], "_", " ")
		}
		return e.Event == "ready" || e.Event == "failed", nil
	})
	switch {
	case errors.Is(err, ErrTimeout):
		return []int{n}, fmt.Errorf("reader %d is still starting after %v; to wait longer: cardfs watch %d --until ready", n, wait, n)
	case err != nil:
		return nil, err
	case !settled:
		return nil, exit.Status{Code: exit.None, Err: fmt.Errorf("reader %d left while it started", n)}
	}
	lines, err := s.Status()
	if err != nil {
		return nil, s.Explain(err)
	}
	if failed != "" {
		if reason := lines.Value("error"); reason != "" {
			failed = reason // status keeps the blanks
		}
		return nil, fmt.Errorf("reader %d failed to start: %s (cardfs detach %d removes it)", n, failed, n)
	}
	numbers := lines.Siblings()
	if !slices.Contains(numbers, n) {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return numbers, nil
}

func (s Slot) Detach(wait time.Duration) error {
	n, err := s.Number()
	if err != nil {
		return err
	}
	ctl, err := s.Mount.OpenCtl()
	if err != nil {
		return err
	}
	defer ctl.Close()
	// The events of the slot, not of the number: another may take it at once.
	events, err := s.Follow()
	if err != nil {
		return err
	}
	if _, err := os.Stat(s.Dir); err != nil {
		return s.Explain(err)
	}
	if err := s.Mount.WriteCtl(ctl, "detach "+strconv.Itoa(n)); err != nil {
		return err
	}
	if wait == 0 {
		return nil
	}
	_, err = events.Each(wait, func(e Event) (bool, error) { return e.Event == "left", nil })
	if errors.Is(err, ErrTimeout) {
		return fmt.Errorf("reader %d is still there after %v: the command under way ends first; to end it: cardfs ctl abort %d", n, wait, n)
	}
	return err
}
