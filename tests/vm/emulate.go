package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/cardfs/cardfs/drivers/bus/usb/usbip"
	ccidemu "github.com/cardfs/cardfs/drivers/ccid/emu"
	ikeyemu "github.com/cardfs/cardfs/drivers/ikey/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// emulators are the devices of our own, by kind: a program in the machine serves
// them to its kernel.
var emulators = map[string]func(serial string) usbip.Device{
	"ikey3k":         ikeyKind(ikeyemu.New3000, echo{}),
	"ikey2k":         ikeyKind(ikeyemu.New2032, datakeyEcho{}),
	"ccid-character": ccidKind(ccidemu.CharacterReader()),
	"ccid-tpdu":      ccidKind(ccidemu.TPDUReader()),
	"ccid-short":     ccidKind(ccidemu.ShortAPDUReader()),
	"ccid-extended":  ccidKind(ccidemu.ExtendedAPDUReader()),
	"ccid-two-slots": ccidKind(ccidemu.TwoSlotReader()),
	"ccid-pinpad":    ccidKind(ccidemu.PINPadReader()),
	"iccd-a":         ccidKind(ccidemu.ICCDA()),
	"iccd-b":         ccidKind(ccidemu.ICCDB()),
}

func emulatorNames() []string { return slices.Sorted(maps.Keys(emulators)) }

func ikeyKind(make func(string) *ikeyemu.Token, card icc.Card) func(string) usbip.Device {
	return func(serial string) usbip.Device {
		e := make(serial)
		if err := e.Contact.Insert(card); err != nil {
			panic(err) // its ATR is in order
		}
		return e.Plug()
	}
}

func ccidKind(c ccidemu.Config) func(string) usbip.Device {
	return func(serial string) usbip.Device {
		c := c
		c.Serial = serial
		e := ccidemu.New(c)
		insert(e.Contact(0))
		return e.Plug()
	}
}

func insert(c *icc.Contact) {
	if err := c.Insert(echo{}); err != nil {
		panic(err) // the ATR below is in order
	}
}

// echo is a card that answers each command with what follows its header.
type echo struct{}

// ATR is a STARCOS SPK 2.3's, the card in an iKey 3000.
func (echo) ATR() []byte {
	return []byte{0x3B, 0xB7, 0x94, 0x00, 0x81, 0x31, 0xFE, 0x65, 'S', 'P', 'K', '2', '3', 0x90, 0x00, 0xD1}
}
func (echo) Reset(bool) {}
func (echo) Process(capdu []byte) []byte {
	return append(slices.Clone(capdu[min(5, len(capdu)):]), 0x90, 0x00)
}

// datakeyEcho is the same with a Datakey 330's ATR, the card in an iKey 2032.
type datakeyEcho struct{ echo }

func (datakeyEcho) ATR() []byte {
	return []byte{0x3B, 0xFF, 0x11, 0x00, 0x00, 0x81, 0x31, 0xFE, 0x4D, 0x80, 0x25, 0xA0, 0x00, 0x00, 0x00,
		'V', 'W', 'D', 'K', '3', '3', '0', 0x06, 0x00, 0xD0}
}

// emulate plugs in devices of the given kinds, tells ready (the name of a file)
// when all are, and serves them until ctx ends.
func emulate(ctx context.Context, ready string, kinds []string) error {
	if len(kinds) == 0 {
		return errors.New("emulate: no kind given")
	}
	var ports []*usbip.Port
	defer func() {
		for _, p := range ports {
			p.Unplug()
		}
	}()
	for i, kind := range kinds {
		make, ok := emulators[kind]
		if !ok {
			return fmt.Errorf("emulate: no kind %q; there are: %s: %w", kind, strings.Join(emulatorNames(), " "), reader.ErrInvalid)
		}
		port, err := usbip.Plug(make(fmt.Sprintf("%s-%d-%d", kind, os.Getpid(), i)), usbip.Full)
		if err != nil {
			return err
		}
		ports = append(ports, port)
	}
	if ready != "" {
		if err := os.WriteFile(ready, []byte("ready\n"), 0o644); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

// withEmulators makes a job's command of one that needs emulated devices: this
// program serves them beside it.
func withEmulators(kinds, command []string) []string {
	if len(kinds) == 0 {
		return command
	}
	script := `mkfifo /run/plugged
vm emulate -ready /run/plugged ` + strings.Join(kinds, " ") + ` &
read x </run/plugged
udevadm settle 2>/dev/null
exec "$@"`
	return append([]string{"/bin/sh", "-c", script, "sh"}, command...)
}
