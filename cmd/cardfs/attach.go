package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// attachWait is how long attach and detach wait unless told otherwise: longer
// than a reader takes that powers up and tests itself.
const attachWait = 30 * time.Second

func newAttach() *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "attach [flags] DRIVER DEVICE [KEY=VALUE…]",
		Short: "Add a reader and print its number",
		Long: `attach adds a reader that nothing announces by itself, waits until its driver has
initialised it, and prints the number of its slot, a line a slot.

  sim DEVICE           a simulated reader with a card (cardfs help sim): ikey3k, t1,
                       t0 …; keys card=CARD start=DURATION slow=DURATION serial=WORD
  vpcd IP:PORT         virtual cards of other projects connect there, 16 at once; keys
                       timeout=DURATION cards=N public=yes
  vpcd unix:PATH       the same over a UNIX socket; keys timeout=DURATION
                       cards=N mode=OCTAL

With any driver, t0=plain has cards of T=0 answer as they are: no GET RESPONSE after
61xx, no other Le after 6Cxx.

If the reader fails to start, attach exits 1 with the reason, and the reader stays,
failed, until it is detached. The same without this command: write the line
"attach DRIVER DEVICE KEY=VALUE" to ctl, and read event.`,
		Example: `  cardfs attach sim ikey3k
  n=$(cardfs attach sim t1 card=dual) && cardfs send $n 00A4000C023F00
  cardfs attach vpcd 127.0.0.1:35963`,
		Args:              args(2, -1, "attach needs a driver and a device"),
		ValidArgsFunction: completeAttach,
	}
	dir := mountFlag(cmd)
	cmd.Flags().DurationVar(&wait, "wait", attachWait, "wait `DURATION` until the reader is ready, 0 for not at all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := oneWordEach(args); err != nil {
			return err
		}
		c, err := newClient(*dir)
		if err != nil {
			return err
		}
		numbers, err := c.attach(args, wait)
		for _, n := range numbers {
			fmt.Fprintln(cmd.OutOrStdout(), n)
		}
		return err
	}
	return cmd
}

func oneWordEach(args []string) error {
	for _, arg := range args {
		if len(strings.Fields(arg)) != 1 || strings.ContainsRune(arg, '\n') {
			return usageError("%q: ctl takes words without blanks", arg)
		}
	}
	return nil
}

// attach adds a reader and gives the numbers of its slots.
func (c *client) attach(words []string, wait time.Duration) ([]int, error) {
	ctl, err := c.openCtl()
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	before, err := c.snapshot()
	if err != nil {
		return nil, err
	}
	if err := c.writeCtl(ctl, "attach "+strings.Join(words, " ")); err != nil {
		return nil, err
	}
	// Its arrival was published before the write returned.
	now, err := c.snapshot()
	if err != nil {
		return nil, err
	}
	ctl.Close() // others may go on
	n, ok := newcomer(before, now, words[0], words[1])
	if !ok {
		return nil, exitStatus{exitNone, errors.New("the reader arrived and left at once; the log of cardfs mount may say why")}
	}
	if wait == 0 {
		return []int{n}, nil
	}
	return c.numbered(n).waitReady(wait)
}

// newcomer finds the number of the reader that was attached between two
// snapshots. Its driver may have given it another address than it was asked
// for: ikey3k became ikey3k-1, a path absolute. A reader of the same driver that
// came by itself meanwhile is passed over where the names tell them apart.
func newcomer(before, now []event, driver, device string) (number int, ok bool) {
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

// waitReady waits until the slot's reader is ready or failed, and gives the
// numbers of its slots.
func (s slot) waitReady(wait time.Duration) ([]int, error) {
	n, err := s.number()
	if err != nil {
		return nil, err
	}
	f, err := s.follow()
	if err != nil {
		return nil, err
	}
	failed := ""
	settled, err := f.each(wait, func(e event) (bool, error) {
		if e.Event == "failed" {
			failed = strings.ReplaceAll(e.More["error"], "_", " ")
		}
		return e.Event == "ready" || e.Event == "failed", nil
	})
	switch {
	case errors.Is(err, errTimeout):
		return []int{n}, fmt.Errorf("reader %d is still starting after %v; to wait longer: cardfs watch %d --until ready", n, wait, n)
	case err != nil:
		return nil, err
	case !settled:
		return nil, exitStatus{exitNone, fmt.Errorf("reader %d left while it started", n)}
	}
	lines, err := s.status()
	if err != nil {
		return nil, s.explain(err)
	}
	if failed != "" {
		if reason := lines.value("error"); reason != "" {
			failed = reason // status keeps the blanks
		}
		return nil, fmt.Errorf("reader %d failed to start: %s (cardfs detach %d removes it)", n, failed, n)
	}
	numbers := lines.siblings()
	if !slices.Contains(numbers, n) {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return numbers, nil
}

func newDetach() *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "detach [flags] N",
		Short: "Remove the reader that has slot N",
		Long: `detach makes a reader leave, with all its slots: calls that wait in them end, a
command on the wire finishes first. It returns when the directory is gone. A USB
reader that is still plugged in comes back with rescan.

The same without this command: write the line "detach N" to ctl.`,
		Example:           `  cardfs detach 0`,
		Args:              args(1, 1, "detach needs a slot"),
		ValidArgsFunction: completeSlot,
	}
	dir := mountFlag(cmd)
	cmd.Flags().DurationVar(&wait, "wait", attachWait, "wait `DURATION` until it is gone, 0 for not at all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := findSlot(*dir, args[0])
		if err != nil {
			return err
		}
		return s.detach(wait)
	}
	return cmd
}

func (s slot) detach(wait time.Duration) error {
	n, err := s.number()
	if err != nil {
		return err
	}
	ctl, err := s.mount.openCtl()
	if err != nil {
		return err
	}
	defer ctl.Close()
	// The events of the slot, not of the number: another may take it at once.
	events, err := s.follow()
	if err != nil {
		return err
	}
	if _, err := os.Stat(s.dir); err != nil {
		return s.explain(err)
	}
	if err := s.mount.writeCtl(ctl, "detach "+strconv.Itoa(n)); err != nil {
		return err
	}
	if wait == 0 {
		return nil
	}
	_, err = events.each(wait, func(e event) (bool, error) { return e.Event == "left", nil })
	if errors.Is(err, errTimeout) {
		return fmt.Errorf("reader %d is still there after %v: the command under way ends first; to end it: echo abort %d >%s", n, wait, n, s.mount.path("ctl"))
	}
	return err
}
