package ctapi

import (
	"testing"
)

// Tag 22 of SET INTERFACE PARAMETER: 01 T=0, 02 T=1.
func TestSetInterfaceParameter(t *testing.T) {
	status := `
		> 00 A4 00 00 02 3F 00
		< 00 0F 00 0F 88 00 00 00 00 00 90 00
		> 00 A4 00 00 02 7F 70
		< 00 0A 00 0A 88 00 00 00 00 00 90 00
		> 00 A4 00 00 02 70 21
	`
	play(t, "t1 card=dual", `
		# the card has no power: for the next RESET or REQUEST ICC
		> 80 60 01 00 03 22 01 02
		< 90 00
		> 20 12 01 00
		< 90 01
		`+status+`
		> 00 B0 00 00 00
		< 21 01 01 22 01 02 90 00
		# in force already: 9001
		> 80 60 01 00 03 22 01 02
		< 90 01
		# another: the card is reset into it, 9001
		> 80 60 01 00 03 22 01 01
		< 90 01
		> 00 B0 00 00 00
		< 21 01 01 22 01 01 90 00
		# it stays so over a reset, and until RESET CT
		> 80 60 01 00 03 22 01 02
		< 90 01
		> 20 11 01 00
		< 90 01
		> 00 B0 00 00 00
		< 21 01 01 22 01 02 90 00
		> 20 11 00 00
		< 90 00
		> 20 12 01 00
		< 90 01
		`+status+`
		> 00 B0 00 00 00
		< 21 01 01 22 01 01 90 00
		# another's transaction
		lock
		> 80 60 01 00 03 22 01 02
		< 69 85
		unlock
	`)
	play(t, "t1", `
		# memory cards' protocols and geometries: 6A80; unknown tags: 6A85
		> 80 60 01 00 03 22 01 80
		< 6A 80
		> 80 60 01 00 03 22 01 00
		< 6A 80
		> 80 60 01 00 03 44 01 95
		< 6A 80
		> 80 60 01 00 03 45 01 00
		< 6A 80
		> 80 60 01 00 03 46 01 00
		< 6A 85
		# P1, P2
		> 80 60 00 00 03 22 01 02
		< 6A 00
		> 80 60 02 00 03 22 01 02
		< 6A 00
		> 80 60 01 01 03 22 01 02
		< 6A 00
		# lengths
		> 80 60 01 00
		< 67 00
		> 80 60 01 00 00
		< 67 00
		> 80 60 01 00 03 22 01 02 00
		< 67 00
		> 80 60 01 00 01 22
		< 67 00
		> 80 60 01 00 03 22 02 02
		< 67 00
		> 80 60 01 00 04 22 02 02 01
		< 67 00
		# the card does not speak it: 64A3, and it stays as it was
		> 20 12 01 00
		< 90 01
		> 80 60 01 00 03 22 01 01
		< 64 A3
		> 20 13 00 80 00
		< 80 01 05 90 00
		> 20 11 01 00
		< 90 01
		# nor when it is activated
		> 20 15 01 00
		< 90 00
		> 80 60 01 00 03 22 01 01
		< 90 00
		> 20 12 01 00
		< 64 A3
	`)
}

func TestFreeze(t *testing.T) {
	play(t, "t1", `
		> 80 70 00 00 03 30 01 01
		< 90 00
		> 80 70 01 00 03 30 01 01
		< 6A 00
		> 80 70 00 01 03 30 01 01
		< 6A 00
		> 80 70 00 00
		< 67 00
		> 80 70 00 00 01 30
		< 67 00
		> 80 70 00 00 03 31 01 01
		< 6A 85
		> 80 70 00 00 03 30 02 01
		< 6A 85
	`)
}
