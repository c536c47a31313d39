package ctapi

import (
	"testing"
)

// P1 is the slot, from 1; they are states apart.
func TestTwoSlots(t *testing.T) {
	play(t, "twoslot", `
		> 20 13 00 80 00
		< 80 02 03 03 90 00
		> 20 13 00 81 00
		< 81 02 01 02 90 00
		> 20 12 02 01 00
		< `+t0ATR+` 90 01
		> 20 13 00 80 00
		< 80 02 03 05 90 00
		> 20 13 02 80 00
		< 80 01 05 90 00
		> 20 11 01 01 00
		< `+tokenATR+` 90 01
		> 20 14 02 00
		< 90 00
		> 20 13 00 80 00
		< 80 02 05 03 90 00
		ctl sim 0 remove
		> 20 13 00 80 00
		< 80 02 00 03 90 00
		> 20 11 03 00
		< 6A 00
		# the second slot's files
		> 00 A4 00 00 02 7F 71
		< 00 0A 00 0A 88 00 00 00 00 00 90 00
		> 00 A4 00 00 02 71 21
		< 00 03 00 03 08 00 00 00 00 00 90 00
		> 00 B0 00 00 00
		< 21 01 01 90 00
		> 20 12 02 00
		< 90 01
		> 00 B0 00 00 00
		< 21 01 01 22 01 01 90 00
		# RESET CT: both lose their power
		ctl sim 0 insert
		> 20 12 01 00
		< 90 01
		> 20 11 00 00
		< 90 00
		> 20 13 00 80 00
		< 80 02 03 03 90 00
	`)
}

// SELECT FILE and READ BINARY on the terminal's own files.
func TestTree(t *testing.T) {
	play(t, "t1", `
		# nothing selected yet: 6982
		> 00 B0 00 00 00
		< 69 82
		# the answer: size twice, 88 for a directory or 08, five zeros; a directory is
		# a list of FID 01 00 00
		> 00 A4 00 00 02 3F 00
		< 00 0F 00 0F 88 00 00 00 00 00 90 00
		> 00 B0 00 00 00
		< 0020 010000 7F60 010000 7F70 010000 90 00
		> 00 A4 00 00 02 00 20
		< 00 0E 00 0E 08 00 00 00 00 00 90 00
		> 00 B0 00 00 00
		< 01 05 'CRDFS' 02 01 00 03 02 20 00 90 00
		# at an offset; fewer bytes than asked for: 6282; beyond the end: 6B00
		> 00 B0 00 02 05
		< 'CRDFS' 90 00
		> 00 B0 00 0C 05
		< 20 00 62 82
		> 00 B0 00 0E 01
		< 62 82
		> 00 B0 00 0F 01
		< 6B 00
		> 00 B0 7F FF 00
		< 6B 00
		> 00 B0 80 00 00
		< 6A 00
		> 00 B0 00 00
		< 67 00
		> 00 B0 00 00 01 00 00
		< 67 00
		# a file is reached from the directory that holds it, the MF from anywhere
		> 00 A4 00 00 02 60 20
		< 6A 82
		> 00 A4 00 00 02 7F 60
		< 00 0A 00 0A 88 00 00 00 00 00 90 00
		> 00 A4 00 00 02 60 20
		< 00 04 00 04 08 00 00 00 00 00 90 00
		> 00 A4 00 00 02 60 21 00
		< 00 04 00 04 08 00 00 00 00 00 90 00
		> 00 A4 00 00 02 7F 70
		< 6A 82
		# a file that is not there leaves the selected one
		> 00 B0 00 00 02
		< 03 02 90 00
		> 00 A4 00 00 02 3F 00
		< 00 0F 00 0F 88 00 00 00 00 00 90 00
		> 00 A4 00 00 02 7F 70
		< 00 0A 00 0A 88 00 00 00 00 00 90 00
		> 00 A4 00 00 02 70 20
		< 00 0B 00 0B 08 00 00 00 00 00 90 00
		> 00 B0 00 00 00
		< 03 02 20 00 20 01 81 22 02 01 02 90 00
		> 00 A4 00 00 02 7F 71
		< 6A 82
		# P1, P2, Lc
		> 00 A4 04 00 02 3F 00
		< 6A 00
		> 00 A4 00 0C 02 3F 00
		< 6A 00
		> 00 A4 00 00 01 3F
		< 67 00
		> 00 A4 00 00
		< 67 00
		# another program has a selection of its own, and RESET CT forgets it
		2> 00 B0 00 00 00
		< 69 82
		> 20 11 00 00
		< 90 00
		> 00 B0 00 00 00
		< 69 82
	`)
}
