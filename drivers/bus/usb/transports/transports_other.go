//go:build !linux

package transports

// Default is the transport where none is named.
const Default = "gousb"
