package hotplug

import "strings"

// Places of string indexes in the device descriptor, USB 2.0 table 9-8.
const (
	manufacturerAt = 14
	productAt      = 15
	serialAt       = 16
)

// kernelStrings are the strings that the kernel read when the device came, by their
// indexes: asking again costs milliseconds between plugging and the first APDU.
func kernelStrings(sys string, desc []byte) map[uint8]string {
	known := map[uint8]string{}
	for at, name := range map[int]string{manufacturerAt: "manufacturer", productAt: "product", serialAt: "serial"} {
		if i := desc[at]; i != 0 {
			if s := strings.TrimSpace(strings.Map(printable, readAttr(sys, name))); s != "" {
				known[i] = s
			}
		}
	}
	return known
}
