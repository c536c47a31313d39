package usb

var Holders = holders

// Taken tells how many urbs a connection of usbfs holds, in flight and idle.
func Taken(c Conn) (inFlight, idle int) {
	k := c.(*conn)
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.inFlight), len(k.idle)
}
