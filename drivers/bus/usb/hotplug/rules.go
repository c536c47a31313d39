package hotplug

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cardfs/cardfs/reader"
)

const (
	// Group is the group to which the udev rules give readers. Debian has it. If it is
	// missing, udev ignores it and the uaccess tag gives the permission.
	Group = "plugdev"
	// RulesFile is the place of the rules. It must sort before 73-seat-late.rules, which
	// acts on the uaccess tag.
	RulesFile = "/etc/udev/rules.d/70-cardfs.rules"
)

const grant = `GROUP="` + Group + `", MODE="0660", TAG+="uaccess"`

func idRule(vendor, product uint16) string {
	return fmt.Sprintf(`SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ATTR{idVendor}=="%04x", ATTR{idProduct}=="%04x", %s`, vendor, product, grant)
}

// classRule matches a device by its interfaces: the usb_id builtin of udev
// lists them in ID_USB_INTERFACES as ":CCSSPP:" each.
func classRule(class uint8) string {
	return fmt.Sprintf(`SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ENV{ID_USB_INTERFACES}=="*:%02x????:*", %s`, class, grant)
}

// UdevRules returns the text of RulesFile. It lets members of Group, and the user who is
// logged in at the machine, open the devices that the drivers serve.
func UdevRules(drivers []reader.Driver) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Smart card readers that cardfs serves, for members of group %s and for
# whoever is logged in at the machine. Install as %s, then:
#   udevadm control --reload && udevadm trigger --subsystem-match=usb

ACTION=="remove", GOTO="cardfs_end"
SUBSYSTEM!="usb", GOTO="cardfs_end"
`, Group, RulesFile)
	type key struct {
		vendor, product uint16
		class           uint8
	}
	seen := map[key]bool{}
	for _, d := range drivers {
		ids := slices.Clone(d.IDs())
		slices.SortFunc(ids, func(a, b reader.ID) int {
			if c := int(a.Class) - int(b.Class); c != 0 {
				return c
			}
			if c := int(a.Vendor) - int(b.Vendor); c != 0 {
				return c
			}
			return int(a.Product) - int(b.Product)
		})
		headed := false
		for _, id := range ids {
			k := key{id.Vendor, id.Product, id.Class}
			if id.Class != 0 {
				k = key{class: id.Class}
			}
			if seen[k] || k == (key{}) {
				continue
			}
			seen[k] = true
			if !headed {
				headed = true
				fmt.Fprintf(&b, "\n# %s\n", d.Name())
			}
			if id.Model != "" {
				fmt.Fprintf(&b, "# %s\n", strings.Map(printable, id.Model))
			}
			if id.Class != 0 {
				// 50-udev-default.rules has imported it already, where it is installed.
				fmt.Fprintln(&b, `ENV{ID_USB_INTERFACES}=="", IMPORT{builtin}="usb_id"`)
				fmt.Fprintln(&b, classRule(id.Class))
			} else {
				fmt.Fprintln(&b, idRule(id.Vendor, id.Product))
			}
		}
	}
	b.WriteString("\nLABEL=\"cardfs_end\"\n")
	return b.String()
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7F {
		return ' '
	}
	return r
}
