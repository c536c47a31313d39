package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cardfs/cardfs/reader"
)

// Abort ends the exchange under way in slot number; its card is powered off.
func (m *Manager) Abort(number int) error {
	s := m.Slot(number)
	if s == nil {
		return fmt.Errorf("no slot %d: %w", number, reader.ErrInvalid)
	}
	return s.Abort()
}

// Attach makes a device a reader that nothing announces. A driver that completes what it
// is given may have a default for address. The key t0 is the core's own: t0=plain is
// Device.T0Plain.
func (m *Manager) Attach(driver, address string, params map[string]string) error {
	d := m.driver(driver)
	if d == nil {
		return fmt.Errorf("no driver %q; there are %s: %w", driver, strings.Join(m.driverNames(), ", "), reader.ErrInvalid)
	}
	dev := reader.Device{Driver: driver, Address: address, Params: make(map[string]string)}
	maps.Copy(dev.Params, params)
	attacher, completes := d.(reader.Attacher)
	if address == "" && !completes {
		return fmt.Errorf("driver %s wants a device: %w", driver, reader.ErrInvalid)
	}
	if v, ok := dev.Params["t0"]; ok {
		if v != "plain" {
			return fmt.Errorf("attach: t0=%s: only t0=plain is known: %w", v, reader.ErrInvalid)
		}
		dev.T0Plain = true
		delete(dev.Params, "t0")
	}
	if completes {
		var err error
		if dev, err = m.complete(attacher, dev); err != nil {
			return fmt.Errorf("%s %s: %w", dev.Driver, dev.Address, err)
		}
	}
	return m.Announce(dev)
}

func (m *Manager) complete(a reader.Attacher, dev reader.Device) (done reader.Device, err error) {
	done = dev
	defer m.recovered("driver "+dev.Driver+": Attach", &err)
	return a.Attach(dev)
}

func (m *Manager) driverNames() []string {
	var names []string
	for _, d := range m.options.Drivers {
		names = append(names, d.Name())
	}
	slices.Sort(names)
	return names
}

// CommandDriver hands a driver a command of its own, with the device that has, or last
// had, slot number.
func (m *Manager) CommandDriver(driver string, number int, command []string) error {
	c, ok := m.driver(driver).(reader.Commander)
	if !ok {
		return fmt.Errorf("driver %s has no commands: %w", driver, reader.ErrInvalid)
	}
	m.mu.Lock()
	dev, known := m.last[number]
	m.mu.Unlock()
	if !known || dev.Driver != driver {
		return fmt.Errorf("slot %d is not and was not driver %s's: %w", number, driver, reader.ErrInvalid)
	}
	return m.commandDriver(c, dev.Device, command)
}

func (m *Manager) commandDriver(c reader.Commander, dev reader.Device, words []string) (err error) {
	defer m.recovered("driver "+dev.Driver+": Command", &err)
	return c.Command(m.ctx, dev, words)
}

// Usage lists the commands that a driver has of its own, a line each.
func (m *Manager) Usage(d reader.Driver) (lines []string) {
	c, ok := d.(reader.Commander)
	if !ok {
		return nil
	}
	var err error
	defer m.recovered("driver "+d.Name()+": Usage", &err)
	return c.Usage()
}
