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
	"github.com/cardfs/cardfs/drivers/emulators"
	"github.com/cardfs/cardfs/drivers/sim"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/tests/vm/machine"
)

// kinds are the devices of our own, by kind: a program in the machine serves them to its
// kernel. The names are those of `attach sim`, but where QEMU has a device of that name, and
// those that tell the CCID levels apart.
func kinds() map[string]emulators.Emulator {
	m := map[string]emulators.Emulator{}
	for _, e := range emulators.All() {
		name := e.Name
		if _, taken := machine.Kinds[name]; taken {
			name = "sim-" + name
		}
		m[name] = e
		if level, ok := levels[e.Name]; ok {
			m[level] = e
		}
	}
	return m
}

// levels are additional names, those of `attach sim`.
var levels = map[string]string{
	"ccid": "ccid-tpdu", "ccid-char": "ccid-character", "ccid-ext": "ccid-extended",
	"twoslot": "ccid-two-slots", "pinpad": "ccid-pinpad", "iccd": "iccd-b",
}

func kindNames() []string { return slices.Sorted(maps.Keys(kinds())) }

// plug plugs a device with its cards into the kernel's virtual bus.
func plug(e emulators.Emulator, serial string) (*usbip.Port, error) {
	d := e.New(serial)
	for i, c := range d.Contacts() {
		card, ok := sim.NewCard(e.Cards[i], serial)
		if !ok {
			return nil, fmt.Errorf("emulate %s: no card %q", e.Name, e.Cards[i])
		}
		if err := c.Insert(card); err != nil {
			return nil, fmt.Errorf("emulate %s: %w", e.Name, err)
		}
	}
	port := emulators.PlugUSB(d, serial)
	if port == nil {
		return nil, fmt.Errorf("emulate %s: only attach sim makes one: %w", e.Name, reader.ErrUnsupported)
	}
	return usbip.Plug(port, usbip.Full)
}

// emulate plugs in devices of the given kinds, creates the file ready when all are plugged
// in, and serves them until ctx ends.
func emulate(ctx context.Context, ready string, names []string) error {
	if len(names) == 0 {
		return errors.New("emulate: no kind given")
	}
	var ports []*usbip.Port
	defer func() {
		for _, p := range ports {
			p.Unplug()
		}
	}()
	for i, name := range names {
		e, ok := kinds()[name]
		if !ok {
			return fmt.Errorf("emulate: no kind %q; there are: %s: %w", name, strings.Join(kindNames(), " "), reader.ErrInvalid)
		}
		port, err := plug(e, fmt.Sprintf("%s-%d-%d", name, os.Getpid(), i))
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
