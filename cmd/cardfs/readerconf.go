package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/client"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/drivers"
	"github.com/cardfs/cardfs/drivers/bus/usb/hotplug"
)

// What pcscd takes in a reader.conf file (pcsc-lite 1.9.9 to 2.5.1,
// src/configfile.l, src/readerfactory.c, src/PCSC/pcsclite.h).
const (
	// bareChars make a value without quotes. pcscd takes quotes off
	// FRIENDLYNAME alone, so that all other values must be of these.
	bareChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789=\\/-._@:"
	// maxFriendly is what is kept of a name: to MAX_READERNAME, 128 with its
	// NUL, pcscd adds reader and slot as " 00 00".
	maxFriendly = 121
	// maxDevice is MAX_DEVICENAME without its NUL.
	maxDevice = 254
)

// ifdLibrary is the IFD handler as `make install` puts it, and bundle is the
// directory beside it, by which pcscd finds USB readers itself. pcscd warns of a
// LIBPATH inside a bundle.
const (
	ifdLibrary = "/usr/lib/pcsc/drivers/serial/libifdcardfs.so"
	bundle     = "../ifd-cardfs.bundle"
)

func newReaderConf() *cobra.Command {
	var lib string
	var all bool
	cmd := &cobra.Command{
		Use:   "reader-conf",
		Short: "Print pcscd's reader.conf entries for the readers present",
		Long: `reader-conf prints an entry for each reader, by which pcscd and all PC/SC programs
use it through the IFD handler libifdcardfs.so. DEVICENAME holds the reader's lasting
name: unplugged and plugged in again, or after a reboot, it is the same reader. It
may be absent when pcscd starts, and cardfs may be restarted: that is a reader
without a card meanwhile. pcscd reads its configuration only when it starts.

A reader with several slots has one entry; pcscd asks the handler for its slots.
USB readers that pcscd finds by the bundle ifd-cardfs.bundle are left out where
that is installed beside the library, for they would be listed twice.`,
		Example: `  sudo cardfs reader-conf | sudo tee /etc/reader.conf.d/cardfs && sudo systemctl restart pcscd
  cardfs reader-conf --lib $PWD/build/libifdcardfs.so`,
		Args:              args(0, 0, "reader-conf takes no argument"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	dir := mountFlag(cmd)
	cmd.Flags().StringVar(&lib, "lib", "", "`FILE` of the IFD handler (default: "+ifdLibrary+", else the one beside this program)")
	cmd.Flags().BoolVar(&all, "all", false, "print also the readers that the installed bundle finds")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := client.FindMount(*dir)
		if err != nil {
			return err
		}
		if c.Dir, err = filepath.Abs(c.Dir); err != nil {
			return err
		}
		if lib == "" {
			lib = findLibrary()
		}
		if lib, err = filepath.Abs(lib); err != nil {
			return err
		}
		if !bare(lib) || !bare(c.Dir) {
			return exit.Usage("pcscd takes only letters, digits and = \\ / - . _ @ : in a path; use others than %s, %s", lib, c.Dir)
		}
		if _, err := os.Stat(lib); err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "cardfs: %v: until it is there pcscd ends when it reads these lines; run make install, or say --lib\n", err)
		}
		_, err = os.Stat(filepath.Join(filepath.Dir(lib), bundle, "Contents/Info.plist"))
		return readerConf(c, cmd.OutOrStdout(), cmd.ErrOrStderr(), lib, err == nil && !all)
	}
	return cmd
}

// findLibrary is where the IFD handler is, or should be.
func findLibrary() string {
	if _, err := os.Stat(ifdLibrary); err == nil {
		return ifdLibrary
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), filepath.Base(ifdLibrary))
		if _, err := os.Stat(beside); err == nil {
			return beside
		}
	}
	return ifdLibrary
}

// readerConf prints an entry for each reader, in the order of their slots.
func readerConf(c *client.Mount, out, hints io.Writer, lib string, skipUSB bool) error {
	slots, err := settled(c, hints)
	if err != nil {
		return err
	}
	names := map[string]bool{}
	var entries strings.Builder
	for _, s := range slots {
		if len(s.Siblings) > 0 && s.Number != slices.Min(s.Siblings) {
			continue // a slot of a reader that has its entry
		}
		if skipUSB && inBundle(s) {
			fmt.Fprintf(hints, "cardfs: %s (%d) is left out, since pcscd finds it by ifd-cardfs.bundle; --all prints it too\n", s.Reader, s.Number)
			continue
		}
		device := deviceName(c, s, hints)
		if len(device) > maxDevice {
			return fmt.Errorf("%s: longer than the %d characters that pcscd takes; mount at a shorter path", device, maxDevice)
		}
		name := unique(friendlyName(s), names)
		// pcscd takes an entry as complete with FRIENDLYNAME, LIBPATH and one of
		// the other two: those come first. CHANNELID tells entries of the same
		// name apart and has no other meaning beside DEVICENAME; from 0x200000 on
		// it would look like a USB reader's.
		fmt.Fprintf(&entries, "# %s, %s\nCHANNELID    0x%X\nDEVICENAME   %s\nLIBPATH      %s\nFRIENDLYNAME \"%s\"\n\n",
			dash(s.Reader), dash(s.Driver), s.Number%0x200000, device, lib, name)
	}
	if len(slots) == 0 {
		fmt.Fprintf(hints, "cardfs: no reader at %s; attach one, as in: cardfs attach sim ikey3k\n", c.Dir)
	}
	if entries.Len() == 0 {
		return nil
	}
	_, err = fmt.Fprintf(out, "# The readers of cardfs at %s, for /etc/reader.conf.d/cardfs. pcscd reads\n# it when it starts.\n\n%s", c.Dir, entries.String())
	return err
}

// settled waits until no reader is starting, and lists the slots: before, neither a reader's
// name nor the number of its slots need be known.
func settled(c *client.Mount, hints io.Writer) ([]client.Info, error) {
	slots, err := c.List()
	if err != nil {
		return nil, err
	}
	for _, s := range slots {
		if s.State != "starting" {
			continue
		}
		if _, err := c.Slot(s.Number).WaitReady(client.AttachWait); err != nil {
			fmt.Fprintf(hints, "cardfs: %v\n", err) // it has its entry by what is known
		}
	}
	return c.List()
}

// deviceName is DEVICENAME: the lasting name of the reader's first slot, and the number of
// slots, which the IFD handler cannot see while the reader is absent.
func deviceName(c *client.Mount, s client.Info, hints io.Writer) string {
	scheme := "cardfs:"
	if n := len(s.Siblings); n > 1 {
		scheme += fmt.Sprintf("slots=%d:", n)
	}
	if s.ByID != "" && bare(s.ByID) {
		return scheme + c.Path("by-id", s.ByID)
	}
	fmt.Fprintf(hints, "cardfs: by-id/%s has characters that pcscd does not take in DEVICENAME; the entry has the slot's number %d, which may change\n", s.ByID, s.Number)
	return scheme + c.Path(fmt.Sprint(s.Number))
}

// friendlyName is the model and the serial number, in the form that pcscd's
// hotplug gives to USB readers.
func friendlyName(s client.Info) string {
	name := s.Reader
	if name == "" {
		name = s.Driver
	}
	if serial := s.Status["serial"]; serial != "" && !strings.Contains(name, serial) {
		name += " (" + serial + ")"
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"': // it would end the value
			return '\''
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, name)
}

// unique makes a name unlike those given before, and no longer than pcscd keeps.
func unique(name string, given map[string]bool) string {
	end := ""
	for i := 2; ; i++ {
		candidate := strings.TrimSpace(name[:min(len(name), maxFriendly-len(end))]) + end
		if !given[candidate] {
			given[candidate] = true
			return candidate
		}
		end = fmt.Sprintf(" %d", i)
	}
}

// inBundle reports whether pcscd finds the reader by ifd-cardfs.bundle.
func inBundle(s client.Info) bool {
	if s.Status["bus"] != "usb" {
		return false
	}
	return slices.ContainsFunc(hotplug.KnownIDs(drivers.All(drivers.Env{})), func(id hotplug.Known) bool { return id.ID == s.Status["usb-id"] })
}

func bare(s string) bool { return s != "" && strings.Trim(s, bareChars) == "" }
