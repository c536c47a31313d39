package usb

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/cardfs/cardfs/drivers/bus/internal/holders"
	"github.com/cardfs/cardfs/reader"
)

// Refused returns the error of a transport that cannot open the device file.
func (p Place) Refused(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		err = reader.ErrNoPermission
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		err = reader.ErrGone
	}
	return fmt.Errorf("%s: open %s: %w", p.Name, p.Path, err)
}

// Claimed returns the error of a transport that finds an interface already claimed. It
// names the programs that have the device file open.
func (p Place) Claimed(iface uint8) error {
	return fmt.Errorf("%s: interface %d: %w: %s", p.Name, iface, reader.ErrClaimed, holders.Hint(p.Path))
}
