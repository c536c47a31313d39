package iso7816_test

import (
	"fmt"
	"os"

	"github.com/cardfs/cardfs/reader/iso7816"
)

// The way from an ATR to an R-APDU. The slice stands in for reader and card.
func Example() {
	card := [][]byte{
		{0x00, 0xE1, 0x01, 0xFE, 0x1E},             // S(IFS response)
		{0x00, 0x00, 0x03, 0xAB, 0x90, 0x00, 0x38}, // the answer
	}
	run := func(m iso7816.Machine, s iso7816.Step) error {
		for !s.Done {
			fmt.Printf("> % X\n", s.Send)
			rx := card[0] // within s.Wait
			card = card[1:]
			fmt.Printf("< % X\n", rx)
			s = m.Next(rx, nil)
		}
		return s.Err
	}

	atr, err := iso7816.ParseATR([]byte{0x3B, 0x80, 0x81, 0x31, 0xFE, 0x45, 0x8B})
	if err != nil {
		fmt.Println(err)
		return
	}
	params, err := atr.Best(atr.Default(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	if atr.NeedsPPS(params) {
		fmt.Printf("> % X\n", iso7816.PPSRequest(params.T, params.TA1))
	}
	t1 := iso7816.NewT1(iso7816.T1Config{Params: params})
	if err := run(t1, t1.Setup()); err != nil {
		fmt.Println(err)
		return
	}
	if err := run(t1, t1.Start([]byte{0x00, 0xB0, 0x00, 0x00, 0x01}, nil)); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("R-APDU % X\n", t1.Response())

	// Output:
	// > 00 C1 01 FE 3E
	// < 00 E1 01 FE 1E
	// > 00 00 05 00 B0 00 00 01 B4
	// < 00 00 03 AB 90 00 38
	// R-APDU AB 90 00
}

func ExampleATR_Describe() {
	atr, err := iso7816.ParseATR([]byte{0x3B, 0x80, 0x81, 0x31, 0xFE, 0x45, 0x8B})
	if err != nil {
		fmt.Println(err)
		return
	}
	atr.Describe(os.Stdout)

	// Output:
	// 3B          TS   direct convention
	// 80          T0   TD1 follows; no historical bytes
	// 81          TD1  TD2 follows; T=1
	// 31          TD2  TA3, TB3 follow; T=1
	// FE          TA3  T=1: IFSC 254
	// 45          TB3  T=1: BWI 4, CWI 5
	// 8B          TCK  check byte, right
	//
	// protocols        T=1
	// mode             negotiable, T=1 without a PPS
	// in force         F 372, D 1: 372 clock cycles a bit, 9622 bit/s at 3.58 MHz, 13441 bit/s at 5 MHz, the highest clock
	// T=1              blocks of up to 254 bytes, LRC; block waiting time 1.6s, character waiting time 4.47ms
}
