package transports

import "github.com/cardfs/cardfs/drivers/bus/usb"

// Default is the transport where none is named.
const Default = "usbfs"

func init() { all["usbfs"] = transport{open: usb.Usbfs} }
