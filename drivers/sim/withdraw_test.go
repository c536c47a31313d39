package sim

import (
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// "Withdraw makes a reader leave that was announced with what Prepare gave", whatever its
// state. "If it has left already, and another reader has its address by now, that one
// stays."
func TestWithdraw(t *testing.T) {
	m, d := manager(t)
	attach := func() reader.Device {
		dev, err := m.Prepare("sim", "t1", nil)
		if err == nil {
			err = m.Announce(dev)
		}
		if err != nil {
			t.Fatal(err)
		}
		return dev
	}
	withdraw := func(dev reader.Device) {
		if err := m.Withdraw(dev); err != nil {
			t.Error(err)
		}
	}
	first, second := attach(), attach()
	withdraw(first)
	if m.Slot(0) != nil || m.Slot(1) == nil {
		t.Error("the other reader left")
	}
	withdraw(first)
	if m.Slot(1) == nil {
		t.Error("the other reader left")
	}

	// unplugged, and plugged in again
	for _, command := range []string{"sim 1 unplug", "sim 1 plug"} {
		ctl(t, m, command)
	}
	withdraw(second)
	if m.Slot(1) != nil {
		t.Error("the reader is still there")
	}

	// unplugged: it cannot come back, and its name is free
	third := attach()
	ctl(t, m, "sim 0 unplug")
	withdraw(third)
	if len(d.devices) != 0 {
		t.Error("the device is still there")
	}

	// detached by hand, and another one is in its place
	fourth := attach()
	if err := m.Detach(0); err != nil {
		t.Fatal(err)
	}
	ctl(t, m, "attach sim t1")
	withdraw(fourth)
	if s := m.Slot(0); s == nil || s.Brief().Device.Address != fourth.Address {
		t.Error("the other reader left")
	}
}
