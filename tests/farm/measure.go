package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cardfs/cardfs/tests/internal/farm"
	"github.com/cardfs/cardfs/tests/internal/proc"
)

// apdu is SELECT of the MF without an answer.
const apdu = "00A4000C023F00"

// column is what was measured of one farm.
type column struct {
	options
	farm *farm.Farm
	rows []row
}

type row struct{ what, value string }

func (c *column) row(what, format string, args ...any) {
	c.rows = append(c.rows, row{what, fmt.Sprintf(format, args...)})
}

// here is a file of a machine's reader in the farm, and there the same through sshfs alone.
func (c *column) here(machine, reader int, name string) string {
	return filepath.Join(c.farm.Dir, strconv.Itoa(c.farm.Machines[machine].Slots[reader]), name)
}

func (c *column) there(machine, reader int, name string) string {
	return filepath.Join(c.farm.Machines[machine].Near, strconv.Itoa(reader), name)
}

// samples runs filebench, which prints nanoseconds, or for many exchanges a second.
func (c *column) samples(ctx context.Context, args ...string) ([]float64, error) {
	cmd := exec.CommandContext(ctx, c.filebench, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("filebench %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	var list []float64
	for word := range strings.FieldsSeq(string(out)) {
		v, err := strconv.ParseFloat(word, 64)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	if len(list) == 0 {
		return nil, errors.New("filebench printed nothing")
	}
	slices.Sort(list)
	return list, nil
}

func median(v []float64) float64 { return v[len(v)/2] }

func short(ns float64) string {
	d := time.Duration(ns)
	switch {
	case d >= 10*time.Second:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}

func (c *column) size(context.Context) error {
	c.row("machines", "%d", len(c.farm.Machines))
	c.row("readers", "%d", len(c.farm.Machines)*c.readers)
	return nil
}

func (c *column) start(context.Context) error {
	c.row("first attach → all readers ready", "%s", short(float64(c.farm.Took)))
	return nil
}

// rounds is how often what is compared is measured in turn.
const rounds = 5

func (c *column) exchange(ctx context.Context) error {
	var here, there []float64
	last := c.readers - 1 // not the reader that is used here: an open of a path shares its connection
	for range rounds {
		a, err := c.samples(ctx, "text", "20", apdu, c.here(0, 0, "apdu"))
		if err != nil {
			return err
		}
		b, err := c.samples(ctx, "text", "20", apdu, c.there(0, last, "apdu"))
		if err != nil {
			return err
		}
		here, there = append(here, a...), append(there, b...)
	}
	slices.Sort(here)
	slices.Sort(there)
	requests, err := c.farm.Machines[0].Line.PerCall(11, 121, func(n int) error { // a tenth of them before its samples
		_, err := c.samples(ctx, "text", strconv.Itoa(n*10/11), apdu, c.here(0, 0, "apdu"))
		return err
	})
	if err != nil {
		return err
	}
	c.row("an exchange", "%s", short(median(here)))
	c.row("… against write+read by sshfs", "%.2f", median(here)/median(there))
	c.row("… requests that cross the line", "%.2f", requests)
	return nil
}

func (c *column) open(ctx context.Context) error {
	v, err := c.samples(ctx, "open", "20", apdu, filepath.Dir(c.here(0, 0, "apdu")))
	if err != nil {
		return err
	}
	c.row("cat atr, open apdu, an exchange", "%s", short(median(v)))
	return nil
}

// events measures from the card's leaving and coming there to the line in event here.
func (c *column) events(ctx context.Context) error {
	out, in, err := c.farm.EventTimes(ctx, c.farm.Machines[len(c.farm.Machines)-1], 2*rounds)
	if err != nil {
		return err
	}
	slices.Sort(out)
	slices.Sort(in)
	c.row("card out there → event here, beyond the line", "%s", short(median(out)))
	c.row("card in there → event here, beyond the line", "%s", short(median(in)))
	return nil
}

// atOnce has a client at each reader of the farm.
func (c *column) atOnce(ctx context.Context) error {
	v, err := c.samples(ctx, "many", strconv.FormatInt(c.watch.Milliseconds(), 10), apdu, c.farm.Dir, strconv.Itoa(len(c.farm.Machines)*c.readers))
	if err != nil {
		return err
	}
	c.row("a client at each reader: exchanges a second", "%.0f", v[0])
	return nil
}

func (c *column) memory(context.Context) error {
	pids, err := c.farm.Pids()
	if err != nil {
		return err
	}
	var here, threads, sshfs, servers, connections int
	for _, pid := range pids {
		u, err := proc.UsageOf(pid)
		if err != nil {
			return err
		}
		here += u.RSS
		threads += u.Threads
	}
	for _, m := range c.farm.Machines {
		pid, far := m.Pids()
		n, err := proportional(pid)
		if err != nil {
			return err
		}
		sshfs += n
		connections += len(far)
		for _, pid := range far {
			n, err := proportional(pid)
			if err != nil {
				return err
			}
			servers += n
		}
	}
	n := len(c.farm.Machines)
	c.row("memory of cardfs and its children", "%.1f MiB", float64(here)/1024)
	c.row("… a reader, beyond a cardfs that has none", "%.0f KiB", float64(here-c.farm.Empty)/float64(n*c.readers))
	c.row("threads of both", "%d", threads)
	c.row("memory of sshfs, a machine", "%.1f MiB", float64(sshfs)/float64(n)/1024)
	c.row("connections, a machine", "%.1f", float64(connections)/float64(n))
	c.row("memory of sftp-servers, a machine", "%.1f MiB", float64(servers)/float64(n)/1024)
	return nil
}

// proportional is the memory of a process in KiB, what it shares with others divided by how
// many share it.
func proportional(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("process %d: no Pss", pid)
}

func (c *column) idle(ctx context.Context) error {
	pids, err := c.farm.Pids()
	if err != nil {
		return err
	}
	for _, m := range c.farm.Machines {
		pid, _ := m.Pids()
		pids = append(pids, pid)
	}
	used := func() (sum time.Duration, err error) {
		for _, pid := range pids {
			d, err := proc.OnCPU(pid)
			if err != nil {
				return 0, err
			}
			sum += d
		}
		return sum, nil
	}
	before, err := used()
	if err != nil {
		return err
	}
	select {
	case <-time.After(c.watch):
	case <-ctx.Done():
		return ctx.Err()
	}
	after, err := used()
	c.row("at rest: CPU of cardfs and all sshfs", "%.2f %%", 100*float64(after-before)/float64(c.watch))
	return err
}

// hang stops a machine, has a client wait for it, and measures the others' readers.
func (c *column) hang(ctx context.Context) error {
	n := len(c.farm.Machines)
	if n == 1 {
		c.row("one machine stopped: the others' exchanges, against before", "-")
		c.row("… the slowest of them", "-")
		return nil
	}
	others := func() (all []float64, err error) {
		for i := 1; i < n; i += max(1, n/20) {
			v, err := c.samples(ctx, "text", "10", apdu, c.here(i, 0, "apdu"))
			if err != nil {
				return nil, err
			}
			all = append(all, v...)
		}
		slices.Sort(all)
		return all, nil
	}
	before, err := others()
	if err != nil {
		return err
	}
	sick := c.farm.Machines[0]
	sick.Hang()
	defer sick.Resume()
	var log proc.Log
	waits, err := proc.Start(exec.Command(c.filebench, "text", "1", apdu, c.here(0, 0, "apdu")), &log)
	if err != nil {
		return err
	}
	defer waits.Kill()
	during, err := others()
	if err != nil {
		return err
	}
	if !waits.Alive() {
		return fmt.Errorf("the exchange with a machine that hangs has ended: %s", &log)
	}
	sick.Resume()
	if err := waits.Wait(); err != nil {
		return fmt.Errorf("after the machine has gone on: %w", err)
	}
	c.row("one machine stopped: the others' exchanges, against before", "%.2f", median(during)/median(before))
	c.row("… the slowest of them", "%.2f", during[len(during)-1]/before[len(before)-1])
	return nil
}
