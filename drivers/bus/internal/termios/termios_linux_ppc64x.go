//go:build linux && (ppc64 || ppc64le)

// Package termios has the requests for the mode of a serial line.
package termios

import "golang.org/x/sys/unix"

// Set and Get take a termios with the speed as a number, which POWER has had from the
// beginning.
const (
	Set = unix.TCSETS
	Get = unix.TCGETS
)
