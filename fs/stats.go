package fs

import (
	"slices"
	"syscall"
)

// statsText has the errors that the contract knows, whether or not anybody got them.
func statsText(f *file) []byte {
	return f.slot.Stats(func(e syscall.Errno, got bool) string {
		if got || slices.ContainsFunc(errnos, func(known errnoOf) bool { return known.errno == e }) {
			return errnoName(e)
		}
		return ""
	})
}
