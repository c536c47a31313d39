package main

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/config"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/ccid"
	"github.com/cardfs/cardfs/drivers/rutoken"
	"github.com/cardfs/cardfs/fs"
	"github.com/cardfs/cardfs/reader/core"
)

// settings are what flags and a configuration file say, looked at.
type settings struct {
	mode      uint32
	gid       int // -1: none was given
	escape    func(uid uint32) bool
	transport usb.Transport // nil: none

	file   config.File
	access []fs.Access
	quirks []ccid.Quirk
}

// faults are all that is wrong in flags and in the file.
type faults struct {
	file  config.Errors
	flags []error
}

// none reports whether nothing is wrong.
func (f *faults) none() bool { return len(f.file) == 0 && len(f.flags) == 0 }

// err tells w all of it, a line each. A line about the file begins with FILE:LINE.
func (f *faults) err(w io.Writer) error {
	if f.none() {
		return nil
	}
	if err := f.file.Sorted(); err != nil {
		fmt.Fprintln(w, err)
	}
	for _, err := range f.flags {
		fmt.Fprintf(w, "cardfs: %v\n", err)
	}
	return exit.Status{Code: exit.BadUsage}
}

// flagsOnly are flags that no configuration file has, and what to do instead.
var flagsOnly = map[string]string{
	"background": "it is for the command line",
	"check":      "it is for the command line",
	"config":     "it is for the command line",
	"help":       "it is for the command line",
	"sim":        "write [[attach]] and driver = \"sim\"",
	"attach":     "write [[attach]]",
}

// settle reads the configuration file, if there is one, and checks all that it and the
// flags say. A flag that was given counts, whatever the file says.
func (o *mountOptions) settle(cmd *cobra.Command, given func(flag string) bool) (*settings, *faults) {
	s, bad := new(settings), new(faults)
	lines := make(map[string]int) // of options that are the file's
	if o.config != "" {
		f, err := config.Read(o.config)
		if err != nil && !errors.As(err, &bad.file) {
			bad.flags = append(bad.flags, err)
		}
		if err != nil {
			return s, bad
		}
		s.file = *f
		for _, option := range f.Mount {
			if given(option.Name) {
				continue
			}
			lines[option.Name] = option.Line
			if err := setOption(cmd, option); err != nil {
				bad.file.Add(f.Name, option.Line, err)
			}
		}
		s.readers(&bad.file)
		s.ccid(&bad.file)
		s.attachments(&bad.file)
	}
	o.check(s, func(flag, shown string, err error) {
		if line := lines[flag]; line != 0 {
			bad.file.Add(s.file.Name, line, fmt.Errorf("%s: %w", flag, err))
			return
		}
		bad.flags = append(bad.flags, fmt.Errorf("%s: %w", shown, err))
	})
	return s, bad
}

// setOption gives a flag the value that the file has.
func setOption(cmd *cobra.Command, option config.Option) error {
	flag := cmd.Flags().Lookup(option.Name)
	switch {
	case flagsOnly[option.Name] != "":
		return fmt.Errorf("%s: not in [mount]: %s", option.Name, flagsOnly[option.Name])
	case flag == nil:
		return fmt.Errorf("[mount] has no key %q; its keys are the flags that cardfs mount --help lists", option.Name)
	case len(option.Values) != 1 && flag.Value.Type() != "stringSlice":
		return fmt.Errorf("%s: one value is wanted", option.Name)
	}
	for _, value := range option.Values {
		switch {
		case flag.Value.Type() == "bool" && value != "true" && value != "false":
			return fmt.Errorf("%s: true or false is wanted", option.Name)
		case flag.NoOptDefVal == "" || flag.Value.Type() == "bool":
		case value == "true": // as the flag without a value
			value = flag.NoOptDefVal
		case value == "false" && flag.Value.Type() != "string":
			continue
		}
		if err := cmd.Flags().Set(option.Name, value); err != nil {
			if cause := errors.Unwrap(err); cause != nil {
				err = cause
			}
			return fmt.Errorf("%s: %w", option.Name, err)
		}
	}
	return nil
}

// check looks at the options whose type alone does not say that they make sense.
func (o *mountOptions) check(s *settings, bad func(flag, shown string, err error)) {
	var err error
	if s.mode, err = parseMode(o.mode); err != nil {
		bad("mode", "--mode "+o.mode, err)
	}
	if s.escape, err = mayEscape(o.allowEscape); err != nil {
		bad("allow-escape", "--allow-escape", err)
	}
	s.gid = -1
	if o.group != "" {
		if s.gid, err = lookupGroup(o.group); err != nil {
			bad("group", "--group "+o.group, err)
		}
	}
	if s.transport, err = usbTransport(o.usb); err != nil {
		bad("usb", "--usb="+o.usb, err)
	}
	if o.exchangeLimit <= 0 {
		bad("exchange-limit", fmt.Sprintf("--exchange-limit %v", o.exchangeLimit), errors.New("a time above 0 is wanted"))
	}
	if o.openTimeout < 0 {
		bad("open-timeout", fmt.Sprintf("--open-timeout %v", o.openTimeout), errors.New("a time is wanted, or 0 for none"))
	}
	if o.idleOff < 0 {
		bad("idle-off", fmt.Sprintf("--idle-off %v", o.idleOff), errors.New("a time is wanted, or 0 for never"))
	}
}

// parseMode reads the permissions of files that can be written.
func parseMode(text string) (uint32, error) {
	mode, err := strconv.ParseUint(text, 8, 32)
	if err != nil || mode&^0o666 != 0 {
		return 0, errors.New("three octal digits of read and write bits are wanted, such as 0660")
	}
	return uint32(mode), nil
}

// readers makes access of the [[reader]] tables.
func (s *settings) readers(bad *config.Errors) {
	for _, r := range s.file.Readers {
		a := fs.Access{ByID: r.ByID, GID: -1}
		add := func(err error) { bad.Add(s.file.Name, r.Line, fmt.Errorf("[[reader]] %w", err)) }
		if _, err := path.Match(r.ByID, ""); err != nil || r.ByID == "" {
			add(fmt.Errorf(`wants by-id = "usb-*", a pattern for names in by-id, and not %q`, r.ByID))
		}
		if r.Group == "" && r.Mode == "" {
			add(errors.New("wants a group or a mode"))
		}
		var err error
		if r.Group != "" {
			if a.GID, err = lookupGroup(r.Group); err != nil {
				add(fmt.Errorf("group %s: %w", r.Group, err))
			}
		}
		if r.Mode != "" {
			if a.Mode, err = parseMode(r.Mode); err == nil && a.Mode == 0 {
				err = errors.New("the bits of somebody are wanted, at least 0400")
			}
			if err != nil {
				add(fmt.Errorf("mode %s: %w", r.Mode, err))
			}
		}
		s.access = append(s.access, a)
	}
}

// ccid makes quirks of the [[quirk]] tables.
func (s *settings) ccid(bad *config.Errors) {
	for _, q := range s.file.Quirks {
		if len(q.Settings) == 0 {
			bad.Add(s.file.Name, q.Line, errors.New("[[quirk]] says nothing of the reader; cardfs.conf(5) lists what it may say"))
		}
		for key, value := range q.Settings {
			if err := checkSetting(q, key, value); err != nil {
				bad.Add(s.file.Name, q.Lines[key], err)
			}
		}
		s.quirks = append(s.quirks, ccid.Quirk{Vendor: q.Vendor, Product: q.Product, Settings: q.Settings})
	}
}

// checkSetting checks a setting of [[quirk]] by the driver that the IDs belong to.
func checkSetting(q config.Quirk, key, value string) error {
	for _, id := range (rutoken.Driver{}).IDs() {
		if q.Vendor != id.Vendor || q.Product != id.Product {
			continue
		}
		if key != "rewrite" {
			return fmt.Errorf("no setting %q of an %s; there is rewrite", key, id.Model)
		}
		if err := rutoken.CheckRewrite(value); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		return nil
	}
	return ccid.CheckSetting(key, value)
}

// attachments checks the [[attach]] tables, by drivers of their own.
func (s *settings) attachments(bad *config.Errors) {
	m := checker()
	for _, a := range s.file.Attach {
		if _, err := m.Prepare(a.Driver, a.Device, a.Params); err != nil {
			bad.Add(s.file.Name, a.Line, err)
		}
	}
}

// checker is a manager that only prepares.
func checker() *core.Manager {
	return core.NewManager(core.Options{Drivers: drivers.All(drivers.Env{})})
}

// checkAttach checks --sim and --attach, which else are found wrong when they are done.
func (o *mountOptions) checkAttach(bad *faults) {
	m := checker()
	for _, a := range o.attachWords() {
		driver, device, params, err := fs.AttachWords(a.words)
		if err == nil {
			_, err = m.Prepare(driver, device, params)
		}
		if err != nil {
			bad.flags = append(bad.flags, fmt.Errorf("%s: %w", a.flag, err))
		}
	}
}

// attachWords are the readers that flags attach.
func (o *mountOptions) attachWords() (list []attachFlag) {
	for _, sim := range o.sims {
		list = append(list, attachFlag{"--sim " + sim, append([]string{"sim"}, strings.Fields(sim)...)})
	}
	for _, line := range o.attach {
		list = append(list, attachFlag{fmt.Sprintf("--attach %q", line), strings.Fields(line)})
	}
	return list
}

type attachFlag struct {
	flag  string
	words []string
}
