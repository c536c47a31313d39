// Package iso7816 is the host's side of ISO/IEC 7816-3 and 7816-4: ATR, PPS, T=0, T=1 and
// APDUs.
//
// A card that gets power and a reset sends its ATR (answer to reset), which says what it
// can do. ParseATR takes it apart. ATR.Params are the transmission parameters in force, and
// ATR.Best are the best that a PPS can ask for: F and D set the rate, others the waiting
// times and block sizes. A PPS (protocol and parameters selection) replaces the default
// parameters; PPSRequest makes its request, and CheckPPS checks the response.
//
// From then on the host sends commands and the card answers, by one of two protocols.
// T=0 exchanges characters: a header, a procedure byte by which the card asks for data,
// the data, and SW1 SW2. T=1 exchanges numbered blocks with an EDC: I-blocks carry the
// command and its answer, R-blocks acknowledge or ask for a repetition, S-blocks
// control. T0 and T1 make a command (C-APDU) into the one or the other.
//
// Nothing here does I/O or looks at a clock. A Machine is given what arrived, and its next
// Step says what to send and how long to wait:
//
//	for step := m.Start(capdu, dst); !step.Done; {
//		rx, err := exchange(step.Send, step.Wait)
//		step = m.Next(rx, err)
//	}
package iso7816

import (
	"errors"
	"time"
)

// The errors that callers distinguish with errors.Is.
var (
	// ErrTimeout: the card did not answer in the time the protocol allows.
	ErrTimeout = errors.New("no answer in the time the protocol allows")
	// ErrProtocol: what it answered breaks the protocol.
	ErrProtocol = errors.New("the answer breaks the protocol")
	// ErrInvalid: the caller's command is malformed; nothing was sent.
	ErrInvalid = errors.New("malformed command")
	// ErrUnsupported: the card does not offer that, or the way to it cannot carry it.
	ErrUnsupported = errors.New("not supported")
)

// Params are the transmission parameters in force between IFD and ICC.
type Params struct {
	T   int  // protocol: 0 or 1
	TA1 byte // F and D as TA1 and PPS1 code them; 0x11 by default
	N   byte // extra guard time integer, as TC1 codes it; 0 by default

	Inverse bool // convention: TS was 3F (ISO/IEC 7816-3:2006 §8.1)

	WI byte // T=0: waiting integer, TC2; 10 by default

	IFSC     int  // T=1: 1..254, first TAi (i>2); 32 by default
	BWI, CWI byte // T=1: first TBi (i>2); 4 and 13 by default
	CRC      bool // T=1: EDC is a CRC instead of an LRC, first TCi (i>2)

	ClockStop byte // first TAi (i>2) after T=15, bits 8 and 7: 0..3
}

// Step is what a machine wants next.
type Step struct {
	// Send goes to the card; it stays valid until the machine's next call.
	// Empty: send nothing, only receive.
	Send []byte
	// Want is how many characters to receive, where the reader passes single
	// characters (Character machines); 0 elsewhere: receive one message.
	Want int
	// Wait is how long the card may take until its answer begins: work
	// waiting time, block waiting time (times a granted extension).
	Wait time.Duration
	// WTX is the multiplier granted by S(WTX response) for this answer; 0: none.
	WTX int
	// Extended: the card asked for more time, by S(WTX request) or NULL. A card may
	// do so for ever; whoever has the clock calls Expire instead of sending Send.
	Extended bool
	// Done: the exchange is over. Err says how; the answer is with the machine.
	Done bool
	Err  error
}

// Machine is one exchange of a C-APDU against an R-APDU in steps.
type Machine interface {
	// Start begins an exchange. The response will be appended to dst. capdu
	// must stay unchanged until the exchange is done.
	Start(capdu, dst []byte) Step
	// Next takes what arrived after the last step: the bytes, or the error in
	// place of bytes. An error that is ErrTimeout counts as silence; any other
	// counts as a block that arrived damaged.
	Next(rx []byte, err error) Step
	// Expire ends the exchange, in place of the next Send or Next, because the card
	// took longer than its user is willing to wait. The error is ErrTimeout. It is
	// called once an exchange, after its first Send.
	Expire() Step
	// Wipe forgets the command, which may be a PIN. A machine that is done has
	// wiped itself; its user calls Wipe where it ends an exchange in the middle. The
	// machine is then out of step.
	Wipe()
	// Dead reports whether card and machine are out of step: the card must be reset,
	// and a new machine made.
	Dead() bool
	// Heard reports whether anything came from the card yet that the protocol allows:
	// the rate is then right.
	Heard() bool
	// Response is dst with the R-APDU appended, once Done without an error.
	Response() []byte
}
