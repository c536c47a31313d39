package main

import (
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/config"
	"github.com/cardfs/cardfs/drivers/ccid"
	"github.com/cardfs/cardfs/fs"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
)

// configured is what a configuration file made of a mount, and can be changed while it is
// used.
type configured struct {
	name    string
	given   func(flag string) bool
	log     *slog.Logger
	manager *core.Manager
	server  *fs.Server
	quirks  *ccid.UserQuirks

	now      *settings
	attached map[string][]reader.Device // by config.Attach.Key
}

// attachAll attaches the readers that the file has when the mount begins.
func (c *configured) attachAll() error {
	for _, a := range c.now.file.Attach {
		if err := c.attach(a); err != nil {
			return err
		}
	}
	return nil
}

func (c *configured) attach(a config.Attach) error {
	dev, err := c.manager.Prepare(a.Driver, a.Device, a.Params)
	if err == nil {
		err = c.manager.Announce(dev)
	}
	if err != nil {
		return &config.Error{File: c.name, Line: a.Line, Err: err}
	}
	c.attached[a.Key()] = append(c.attached[a.Key()], dev)
	return nil
}

// reload reads the file again, and does what changed. A file with an error changes nothing.
func (c *configured) reload() {
	notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonic()), c.log)
	defer notify("READY=1", c.log)
	var scratch mountOptions
	cmd := new(cobra.Command)
	scratch.addFlags(cmd)
	scratch.config = c.name
	next, bad := scratch.settle(cmd, c.given)
	if !bad.none() {
		for _, err := range bad.file {
			c.log.Error("configuration not read again, nothing is changed", "error", err)
		}
		for _, err := range bad.flags {
			c.log.Error("configuration not read again, nothing is changed", "error", err)
		}
		return
	}
	if list := c.fixed(next); len(list) > 0 {
		c.log.Warn("a restart is needed for some changes of the configuration", "options", strings.Join(list, " "))
	}
	if !reflect.DeepEqual(next.quirks, c.now.quirks) {
		c.quirks.Set(next.quirks)
		c.log.Info("the changed quirks count for readers that come from now on")
	}
	// Before the readers come that they are for.
	if !slices.Equal(next.access, c.now.access) {
		c.server.SetAccess(next.access)
	}
	detached, attached := c.detachSurplus(next), c.attachMissing(next)
	c.now = next
	c.log.Info("configuration read again", "detached", detached, "attached", attached)
}

// fixed are the options that changed, and that hold for the whole life of a mount.
func (c *configured) fixed(next *settings) (names []string) {
	values := func(s *settings) map[string][]string {
		all := make(map[string][]string)
		for _, option := range s.file.Mount {
			if !c.given(option.Name) {
				all[option.Name] = option.Values
			}
		}
		return all
	}
	before, after := values(c.now), values(next)
	all := maps.Clone(before)
	maps.Copy(all, after)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !slices.Equal(before[name], after[name]) {
			names = append(names, name)
		}
	}
	return names
}

// detachSurplus detaches the readers whose lines are gone. Of several lines that say the same,
// the reader that came last belongs to the one that is gone.
func (c *configured) detachSurplus(next *settings) (n int) {
	want := make(map[string]int)
	for _, a := range next.file.Attach {
		want[a.Key()]++
	}
	for key, devices := range c.attached {
		for len(devices) > want[key] {
			dev := devices[len(devices)-1]
			devices = devices[:len(devices)-1]
			if err := c.manager.Withdraw(dev); err != nil {
				c.log.Error("detach", "reader", dev.Name(), "error", err)
			}
			n++
		}
		if c.attached[key] = devices; len(devices) == 0 {
			delete(c.attached, key)
		}
	}
	return n
}

// attachMissing attaches the readers whose lines are new, or failed before.
func (c *configured) attachMissing(next *settings) (n int) {
	seen := make(map[string]int)
	for _, a := range next.file.Attach {
		key := a.Key()
		if seen[key]++; seen[key] <= len(c.attached[key]) {
			continue
		}
		if err := c.attach(a); err != nil {
			c.log.Error("attach", "error", err)
			continue
		}
		n++
	}
	return n
}

// monotonic is the time that systemd wants with RELOADING=1, in microseconds.
func monotonic() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return t.Nano() / 1000
}
