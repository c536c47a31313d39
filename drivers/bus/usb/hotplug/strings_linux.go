package hotplug

import (
	"strings"

	"github.com/cardfs/cardfs/drivers/bus/usb"
)

// kernelStrings are the strings that the kernel read when the device came, by their
// indexes: asking again costs milliseconds between plugging and the first APDU.
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
