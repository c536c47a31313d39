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

// Attach makes a reader of a device that no bus announces.
func (m *Manager) Attach(driver, address string, params map[string]string) error {
	dev, err := m.Prepare(driver, address, params)
	if err != nil {
		return err
	}
	return m.Announce(dev)
}

// Prepare checks what is to be attached, and completes it for Announce. A driver that
// completes what it is given may have a default for address. The key t0 is the core's own:
// t0=plain is Device.T0Plain.
func (m *Manager) Prepare(driver, address string, params map[string]string) (reader.Device, error) {
	d := m.driver(driver)
	if d == nil {
		return reader.Device{}, fmt.Errorf("no driver %q; there are %s: %w", driver, strings.Join(m.driverNames(), ", "), reader.ErrInvalid)
	}
	dev := reader.Device{Driver: driver, Address: address, Params: make(map[string]string), Attach: m.attachments.Add(1)}
	maps.Copy(dev.Params, params)
	attacher, completes := d.(reader.Attacher)
	if address == "" && !completes {
		return reader.Device{}, fmt.Errorf("driver %s wants a device: %w", driver, reader.ErrInvalid)
	}
	if v, ok := dev.Params["t0"]; ok {
		if v != "plain" {
			return reader.Device{}, fmt.Errorf("attach: t0=%s: only t0=plain is known: %w", v, reader.ErrInvalid)
		}
		dev.T0Plain = true
		delete(dev.Params, "t0")
	}
	if !completes {
		return dev, nil
	}
	done, err := m.complete(attacher, dev)
	if err != nil {
		return reader.Device{}, fmt.Errorf("%s %s: %w", dev.Driver, done.Address, err)
	}
	return done, nil
}

// Withdraw makes a reader leave that was announced with what Prepare gave. If it has left
// already, and another reader has its address by now, that one stays.
func (m *Manager) Withdraw(dev reader.Device) error {
	m.mu.Lock()
	for _, d := range m.ifds {
		if d.dev.Attach == dev.Attach && d.present() {
			m.mu.Unlock()
			return m.detach(d)
		}
	}
	m.mu.Unlock()
	return m.detached(dev)
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
	if err := m.commandDriver(c, dev.Device, command); err != nil {
		return err
	}
	if s := m.Slot(number); s != nil {
		s.catchUp()
	}
	return nil
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
