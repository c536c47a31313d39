package reader

import (
	"fmt"
	"slices"
)

const (
	// maxSlots is how many slots of one reader are served. CCID counts a reader's
	// slots in one byte (1.1 §5.1, bMaxSlotIndex).
	maxSlots = 256
	// memoryMost is how many readers that are not there are remembered, with their
	// numbers and for the commands of their drivers.
	memoryMost = 1024
)

// home is what is kept of an identity.
type home struct {
	numbers []int  // by slot
	used    uint64 // when a number was taken last, in the count of bays
}

// lastDevice is the device that has, or last had, a number.
type lastDevice struct {
	Device
	used uint64
}

// hold keeps the numbers and names of u's bays for u while they are away. m.mu is held.
func (m *Manager) hold(u *unit) {
	for _, b := range u.bays {
		m.heldNumbers[b.number], m.heldNames[b.name] = u, u
	}
}

// unhold ends hold. m.mu is held.
func (m *Manager) unhold(u *unit) {
	for n, holder := range m.heldNumbers {
		if holder == u {
			delete(m.heldNumbers, n)
			m.lowest = min(m.lowest, n)
		}
	}
	for n, holder := range m.heldNames {
		if holder == u {
			delete(m.heldNames, n)
		}
	}
}

// free reports whether u may have that number. m.mu is held.
func (m *Manager) free(number int, u *unit) bool {
	holder := m.heldNumbers[number]
	return m.bays[number] == nil && (holder == nil || holder == u)
}

// number is the number that slot index of u had before if that is free, else the
// lowest free one. m.mu is held.
func (m *Manager) number(u *unit, index int) int {
	kept := m.homes[u.id].numbers
	if index < len(kept) && m.free(kept[index], u) {
		return kept[index]
	}
	for !m.free(m.lowest, nil) {
		m.lowest++
	}
	n := m.lowest
	// A number that another slot of this reader had is left for that one.
	for !m.free(n, u) || slices.Contains(kept[min(index, len(kept)):], n) {
		n++
	}
	return n
}

// addBay gives u one more slot. m.mu is held.
func (m *Manager) addBay(u *unit) {
	index := len(u.bays)
	number := m.number(u, index)
	m.serial++
	h, known := m.homes[u.id]
	if !known {
		m.forgetHomes()
	}
	if h.used = m.serial; index < len(h.numbers) {
		h.numbers[index] = number
	} else {
		h.numbers = append(h.numbers, number)
	}
	m.homes[u.id] = h

	b := newBay(m, u, number, index)
	b.serial = m.serial
	u.bays = append(u.bays, b)
	m.bays[number] = b
	for m.names[b.name] != nil || m.heldNames[b.name] != nil && m.heldNames[b.name] != u {
		// Clones that share a serial number: the later has its number behind the name.
		b.name = fmt.Sprintf("%s-%d", b.name, number)
	}
	m.names[b.name] = b
	last := u.dev
	last.Slot = index
	if _, known := m.last[number]; !known {
		m.forgetLast()
	}
	m.last[number] = lastDevice{last, m.serial}
	b.mu.Lock()
	b.publish(Arrived, "driver", u.dev.Driver, "device", u.dev.Address, "reader", u.model)
	b.mu.Unlock()
}

// forgetHomes makes room for one more identity: of those that are not there, the one
// that came longest ago is forgotten. m.mu is held.
func (m *Manager) forgetHomes() {
	if len(m.homes) < memoryMost+len(m.units) {
		return
	}
	oldest, found := "", false
	for id, h := range m.homes {
		if m.units[id] == nil && (!found || h.used < m.homes[oldest].used) {
			oldest, found = id, true
		}
	}
	delete(m.homes, oldest)
}

// forgetLast is forgetHomes for the devices that numbers had.
func (m *Manager) forgetLast() {
	if len(m.last) < memoryMost+len(m.bays) {
		return
	}
	oldest := -1
	for n, d := range m.last {
		if m.bays[n] == nil && (oldest < 0 || d.used < m.last[oldest].used) {
			oldest = n
		}
	}
	delete(m.last, oldest)
}
