package etoken

import (
	"time"

	"github.com/cardfs/cardfs/reader"
)

// model is what distinguishes one family of eTokens from the other.
type model struct {
	driver string // its name in `ctl`, `status` and the log
	ids    []reader.ID
	steps  []step // of a power-up, after the ATR
}

// step is one request of a power-up, and the fetch of its answer.
type step struct {
	what    string
	request uint8
	data    []byte
	asked   int  // the length of the answer
	zero    bool // the answer is 00, or the token has refused
	wait    time.Duration
}

// PRO drives the eToken PRO, which has a card of the CardOS M4 family inside.
var PRO = Driver{&model{
	driver: "etoken",
	ids: []reader.ID{
		{Vendor: 0x0529, Product: 0x050C, Model: "Aladdin eToken PRO"},
		{Vendor: 0x0529, Product: 0x0514, Model: "Aladdin eToken PRO"},
	},
	steps: []step{
		// Nobody knows what the 13 bytes say.
		{what: "query", request: reqQuery, asked: 13, wait: stepWait},
		// The last two bytes, 5000 with the low byte first, may be milliseconds. The
		// vendor's software had 10000 there before it granted the card more time, for
		// which there is no need.
		{what: "set parameters", request: reqParameters, data: []byte{0x00, 0x00, 0x01, 0x00, 0x88, 0x13}, asked: 1, zero: true, wait: stepWait},
	},
}}

// PRO64 drives the eToken PRO 64k and the eToken NG-OTP, whose generator of passwords it
// leaves alone.
var PRO64 = Driver{&model{
	driver: "etoken64",
	ids: []reader.ID{
		{Vendor: 0x0529, Product: 0x0600, Model: "Aladdin eToken PRO 64k"},
		{Vendor: 0x0529, Product: 0x0700, Model: "Aladdin eToken NG-OTP"},
	},
	steps: []step{
		{what: "first query", request: reqQuery64, asked: 2, wait: stepWait},
		{what: "second query", request: reqQuery, asked: 1, zero: true, wait: stepWait},
	},
}}
