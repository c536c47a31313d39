package faulttest

import (
	"testing"
	"testing/synctest"

	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
)

// Everywhere runs test, in a bubble of its own, with each fault of serialtest.Menu in each
// character of a session: the first toDevice that go to the device, and the first toHost
// that come from it.
func Everywhere(t *testing.T, toDevice, toHost int, test func(t *testing.T, f serialtest.Fault)) {
	t.Helper()
	for direction, n := range []int{toDevice, toHost} {
		for at := range n {
			for _, f := range serialtest.Menu(direction == 1, at) {
				synctest.Test(t, func(t *testing.T) { test(t, f) })
			}
		}
	}
}
