package core

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/words"
)

// Hub is a device that has no slot of its own: its driver announces readers.
type Hub struct {
	Device reader.Device
	State  State // StateStarting, StateReady or StateFailed
	Err    error // why it is not ready, or is no more; nil if that is not known
}

// hub reports whether d is a Hub.
func (d *ifd) hub() bool { return d.dev.Slots == reader.NoSlots }

// setHub is for a hub what a slot's state and last error are for a slot. It logs a new error.
func (d *ifd) setHub(state State, err error) {
	if !d.hub() {
		return
	}
	d.manager.mu.Lock()
	before := d.hubErr
	d.hubState, d.hubErr = state, err
	d.manager.mu.Unlock()
	if before == nil || before.Error() != err.Error() { // it may be tried for ever
		d.log.Warn("hub not ready", "state", state, "error", words.Printable(err.Error(), words.MaxWords))
	}
}

// Hubs lists the hubs by driver and address.
func (m *Manager) Hubs() (list []Hub) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.ifds {
		if d.hub() && !d.gone() {
			list = append(list, Hub{Device: d.dev, State: cmp.Or(d.hubState, StateStarting), Err: d.hubErr})
		}
	}
	slices.SortFunc(list, func(a, b Hub) int {
		return cmp.Or(cmp.Compare(a.Device.Driver, b.Device.Driver), cmp.Compare(a.Device.Address, b.Device.Address))
	})
	return list
}

// DetachDevice is Detach for what was attached to driver as address, a hub or a reader.
func (m *Manager) DetachDevice(driver, address string) error {
	m.mu.Lock()
	for _, d := range m.ifds {
		if d.dev.Driver == driver && d.dev.Address == address && d.present() {
			m.mu.Unlock()
			return m.detach(d)
		}
	}
	m.mu.Unlock()
	return fmt.Errorf("nothing is attached as %s %s: %w", driver, words.Printable(address, words.MaxValue), reader.ErrInvalid)
}

// Instance is a number in hex that no other Manager has. Drivers recognise by it a way that
// leads back to where it began.
func (m *Manager) Instance() string { return m.instance }

func newInstance() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}
