package usb

// OpenPath opens a device file.
func OpenPath(path string, iface uint8) (Conn, error) { return openDevice(path, "usb:test", iface) }

var (
	ActiveDescriptors = activeDescriptors
	Holders           = holders
)

// Taken tells how many urbs a connection holds, in flight and idle.
func Taken(c Conn) (inFlight, idle int) {
	k := c.(*conn)
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.inFlight), len(k.idle)
}
