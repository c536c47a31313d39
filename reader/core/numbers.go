package core

import (
	"fmt"
	"slices"

	"github.com/cardfs/cardfs/reader"
)

const (
	// maxSlots is the greatest number of slots of a reader. CCID counts them in one byte
	// (1.1 §5.1, bMaxSlotIndex).
	maxSlots = 256
	// memoryMost is the greatest number of absent readers that are remembered, for their
	// numbers and for the commands of their drivers.
	memoryMost = 1024
)

// home is what the manager remembers of an identity.
type home struct {
	numbers []int  // by slot
	pcsc    int    // of the reader
	used    uint64 // when a number was taken last, in the count of slots
}

// lastDevice is the device that has, or last had, a number.
type lastDevice struct {
	reader.Device
	used uint64
}

// hold reserves the numbers and names of d's slots while they are away. m.mu is held.
func (m *Manager) hold(d *ifd) {
	for _, s := range d.slots {
		m.heldNumbers[s.number], m.heldNames[s.name] = d, d
	}
}

// unhold ends hold. m.mu is held.
func (m *Manager) unhold(d *ifd) {
	for n, holder := range m.heldNumbers {
		if holder == d {
			delete(m.heldNumbers, n)
			m.lowest = min(m.lowest, n)
		}
	}
	for n, holder := range m.heldNames {
		if holder == d {
			delete(m.heldNames, n)
		}
	}
}

// free reports whether d may have that number. m.mu is held.
func (m *Manager) free(number int, d *ifd) bool {
	holder := m.heldNumbers[number]
	return m.slots[number] == nil && (holder == nil || holder == d)
}

// number returns the number that slot index of d had before, if it is free, or else the
// lowest free number. m.mu is held.
func (m *Manager) number(d *ifd, index int) int {
	kept := m.homes[d.id].numbers
	if index < len(kept) && m.free(kept[index], d) {
		return kept[index]
	}
	for !m.free(m.lowest, nil) {
		m.lowest++
	}
	n := m.lowest
	// A number that another slot of this reader had is left for that one.
	for !m.free(n, d) || slices.Contains(kept[min(index, len(kept)):], n) {
		n++
	}
	return n
}

// takePCSC gives d, which has no slots yet, the number that tells it from other readers in
// PC/SC: the one it had before, if it is free, or else the lowest that no other reader has.
// m.mu is held.
func (m *Manager) takePCSC(d *ifd) {
	if h, known := m.homes[d.id]; known && m.pcsc[h.pcsc] == nil {
		d.pcsc = h.pcsc
	} else {
		for m.pcsc[m.lowestPCSC] != nil {
			m.lowestPCSC++
		}
		d.pcsc = m.lowestPCSC
	}
	m.pcsc[d.pcsc] = d
}

// freePCSC ends takePCSC. m.mu is held.
func (m *Manager) freePCSC(d *ifd) {
	if m.pcsc[d.pcsc] == d {
		delete(m.pcsc, d.pcsc)
		m.lowestPCSC = min(m.lowestPCSC, d.pcsc)
	}
}

// addSlot adds a slot to d. m.mu is held.
func (m *Manager) addSlot(d *ifd) {
	index := len(d.slots)
	number := m.number(d, index)
	m.serial++
	h, known := m.homes[d.id]
	if !known {
		m.forgetHomes()
	}
	if h.used, h.pcsc = m.serial, d.pcsc; index < len(h.numbers) {
		h.numbers[index] = number
	} else {
		h.numbers = append(h.numbers, number)
	}
	m.homes[d.id] = h

	s := newSlot(m, d, number, index)
	s.serial = m.serial
	d.slots = append(d.slots, s)
	m.slots[number] = s
	for m.names[s.name] != nil || m.heldNames[s.name] != nil && m.heldNames[s.name] != d {
		// Clones that share a serial number: the later has its number behind the name.
		s.name = fmt.Sprintf("%s-%d", s.name, number)
	}
	m.names[s.name] = s
	last := d.dev
	last.Slot = index
	if _, known := m.last[number]; !known {
		m.forgetLast()
	}
	m.last[number] = lastDevice{last, m.serial}
	s.mu.Lock()
	s.pcsc = pcscName(d.dev.Driver, d.model, d.pcsc, index)
	s.publish(Arrived, "driver", d.dev.Driver, "device", d.dev.Address, "reader", d.model, "by-id", s.name, "via", d.dev.Via)
	s.mu.Unlock()
}

// forgetHomes makes room for one more identity. It forgets the absent one that came longest
// ago. m.mu is held.
func (m *Manager) forgetHomes() {
	if len(m.homes) < memoryMost+len(m.ifds) {
		return
	}
	oldest, found := "", false
	for id, h := range m.homes {
		if m.ifds[id] == nil && (!found || h.used < m.homes[oldest].used) {
			oldest, found = id, true
		}
	}
	delete(m.homes, oldest)
}

// forgetLast does the same as forgetHomes for the devices of numbers.
func (m *Manager) forgetLast() {
	if len(m.last) < memoryMost+len(m.slots) {
		return
	}
	oldest := -1
	for n, d := range m.last {
		if m.slots[n] == nil && (oldest < 0 || d.used < m.last[oldest].used) {
			oldest = n
		}
	}
	delete(m.last, oldest)
}
