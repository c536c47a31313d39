package hotplug

import (
	"strings"

	"github.com/cardfs/cardfs/drivers/bus/usb"
)

// kernelStrings returns by index the strings that the kernel read when the device was
// plugged in. Reading them again would delay the first APDU by milliseconds.
func kernelStrings(sys string, desc []byte) map[uint8]string {
	known := map[uint8]string{}
	d, _ := usb.ParseDevice(desc)
	for name, i := range map[string]uint8{"manufacturer": d.Manufacturer, "product": d.Name, "serial": d.Serial} {
		if i != 0 {
			if s := strings.TrimSpace(strings.Map(printable, readAttr(sys, name))); s != "" {
				known[i] = s
			}
		}
	}
	return known
}
