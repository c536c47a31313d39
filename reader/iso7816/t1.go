package iso7816

import (
	"errors"
	"fmt"
	"time"
)

// ErrInDoubt marks the end of an exchange that brought no answer although the
// card had, or may have had, the whole command. If the caller repeats the command, the
// card may execute it twice. It is wrapped beside ErrTimeout or ErrProtocol. An error
// without it means that the command was not executed.
var ErrInDoubt = errors.New("the card may have executed the command")

// T1Config is what a T1 needs to know about card and reader.
type T1Config struct {
	Params Params // as agreed with the card
	// IFSD is the largest information field that the reader can receive,
	// announced by Setup; 0 means 254.
	IFSD int
	// AutoIFSD: the reader announced IFSD to the card by itself; Setup does nothing.
	AutoIFSD bool
	// IFSCMax caps the card's IFSC where the reader can send less; 0: no cap.
	IFSCMax int
	// NAD of the blocks sent, DAD<<4 | SAD; the card's have the nibbles exchanged.
	NAD byte
	// Long: LEN may be FF too, which ISO/IEC 7816-3 reserves: IFSD is 255. Not with Character.
	Long bool
	// ClockHz is the card's clock; 0 means DefaultClockHz.
	ClockHz int
	// Character: the reader passes single characters, so Step.Want is set:
	// first the prologue, then LEN + EDC. Otherwise blocks come whole.
	Character bool
	// Repeatable reports whether capdu may be executed twice without harm (a
	// READ BINARY, not a VERIFY). Nil: no command may.
	Repeatable func(capdu []byte) bool
	// MaxResponse is the longest R-APDU accepted; a longer chain is aborted.
	// 0 means MaxResponse (65538 bytes).
	MaxResponse int
}

// Limits of T=1.
const (
	// maxFails is how often in a row a block may fail before the next means of
	// recovery: two retransmissions (ISO/IEC 7816-3:2006 rules 7.4.1, 7.4.2)
	// and three S(RESYNCH request) (rule 6.4).
	maxFails = 3
	// maxIdle bounds blocks that are legal but bring nothing forward:
	// S(IFS request) of the card, chained I-blocks without data. Policy, not ISO.
	maxIdle = 16
	// maxRestarts bounds how often one command begins again after RESYNCH. Policy.
	maxRestarts = 3
)

// T1 is the interface device's side of the block protocol T=1, ISO/IEC
// 7816-3:2006 §11. It is made new after each reset and PPS.
//
//	        Start            I(M=1) received
//	idle ---------> command ----------------> response
//	 ^ ^               | |                     | |
//	 | +-- answer -----+ +--- 3 failures ------+ +-- answer --> idle
//	 |                            v
//	 |<- error or again -- (ifs) <- resync -- 3 failures --> dead
//	 |
//	 |<- S(ABORT response) -- abort    (we ended the card's chain)
//	 |<- R-block ------------ aborted  (the card ended a chain)
//	 |<- S(IFS response) ---- ifs      (Setup)
//
// After an error the machine is ready for the next Start unless Dead says that
// the card must be reset.
//
// No answer can be taken for that of another command. Within the protocol the
// sequence numbers see to that; an exchange that ended without its answer was
// followed by S(RESYNCH), which the card answers after everything before it, or
// killed the connection. A Start in the middle of an abandoned exchange sends
// S(RESYNCH) before the command for the same reason.
type T1 struct {
	cfg      T1Config
	edc      int
	bwt, cwt time.Duration

	state     t1State
	valid     bool // a valid block was received since the reset
	dead      bool
	announced bool // Setup was called: announce IFSD again after RESYNCH
	setup     bool // the exchange under way is Setup's, without a command
	ns, nr    byte // N(S) of our next or outstanding I-block; N(S) expected
	ifsc      int
	ifsd      int

	capdu []byte
	off   int // capdu[:off] was acknowledged
	n     int // length of INF of the I-block outstanding
	// exposed: the last I-block of the command was sent, so the card may have
	// executed it, whatever it says or fails to say afterwards.
	exposed bool
	abort   bool // Abort was called
	// abandoned: the exchange before this one was left without its answer.
	abandoned bool
	dst       []byte
	base      int // dst[base:] is the R-APDU

	fails    int // failures in a row, reset by every valid block
	repeats  int // times the same block was asked for again
	idle     int // blocks that brought nothing forward
	restarts int
	silent   bool   // the last failure was silence
	why      string // what the last failure was
	end      error  // how the exchange ends after RESYNCH or ABORT; nil: by restarting

	last t1Kind
	ibuf [3 + 254 + 2]byte // the I-block sent last, for retransmission
	iblk []byte
	sbuf [3 + 1 + 2]byte // the R- or S-block sent last
	sblk []byte

	// Character mode.
	rbuf  [3 + 254 + 2]byte
	rlen  int
	drain byte // error code of a block whose end is waited for
}

type t1State uint8

const (
	t1Idle t1State = iota
	t1Command
	t1Response
	t1IFS
	t1Resync
	t1Abort
	t1Aborted
)

// t1Kind is what was sent last.
type t1Kind uint8

const (
	sentI     t1Kind = iota
	sentAck          // R-block, error code 0
	sentError        // R-block, error code 1 or 2
	sentRequest
	sentResponse
)

var _ Machine = (*T1)(nil)

// NewT1 makes the machine for a card just reset (and a PPS done).
func NewT1(cfg T1Config) *T1 {
	if cfg.IFSD <= 0 || cfg.IFSD > 254 {
		cfg.IFSD = 254
	}
	if cfg.Long {
		cfg.IFSD = 255
	}
	if cfg.Params.IFSC <= 0 || cfg.Params.IFSC > 254 {
		cfg.Params.IFSC = DefaultIFSC
	}
	if cfg.IFSCMax <= 0 || cfg.IFSCMax > 254 {
		cfg.IFSCMax = 254
	}
	if cfg.MaxResponse == 0 {
		cfg.MaxResponse = MaxResponse
	}
	t := &T1{
		cfg: cfg,
		edc: edcLen(cfg.Params.CRC),
		bwt: cfg.Params.BWT(cfg.ClockHz),
		cwt: cfg.Params.CWT(cfg.ClockHz),
	}
	t.defaults()
	return t
}

// defaults is the state after reset and after RESYNCH (rule 6.3).
func (t *T1) defaults() {
	t.ns, t.nr = 0, 0
	t.ifsc = min(t.cfg.Params.IFSC, t.cfg.IFSCMax)
	t.ifsd = DefaultIFSC
	if t.cfg.AutoIFSD {
		t.ifsd = t.cfg.IFSD
	}
}

// Dead reports whether recovery failed: the card must be reset, and a new T1 made.
func (t *T1) Dead() bool { return t.dead }

// Heard reports whether a valid block was received since the reset.
func (t *T1) Heard() bool { return t.valid }

// IFSD is the information field size that the card may send now.
func (t *T1) IFSD() int { return t.ifsd }

// IFSC is the information field size that the card accepts now.
func (t *T1) IFSC() int { return t.ifsc }

// Setup begins the announcement of IFSD by S(IFS request); Next goes on with
// it. If the card does not understand, IFSD stays 32 and that is no error. The
// exchange fails only where no valid block came at all: Dead is then true.
func (t *T1) Setup() Step {
	if t.dead {
		return t.refuse()
	}
	if t.cfg.AutoIFSD || t.cfg.IFSD == t.ifsd {
		return Step{Done: true}
	}
	t.announced = true
	t.begin(nil, nil)
	t.setup = true
	return t.sendIFS()
}

// Resync begins an exchange of S(RESYNCH) alone, without a command, for a connection whose
// other end may be in the middle of something. The machine is Dead if it fails.
func (t *T1) Resync() Step {
	if t.dead {
		return t.refuse()
	}
	t.begin(nil, nil)
	t.setup = true
	return t.sendResync()
}

// SetNAD changes the NAD from the next exchange on, where one connection leads to several
// nodes. They share the sequence numbers.
func (t *T1) SetNAD(nad byte) { t.cfg.NAD = nad }

// Start begins an exchange. The error of a refused command is ErrInvalid; if
// the machine is Dead it is ErrProtocol.
func (t *T1) Start(capdu, dst []byte) Step {
	if t.dead {
		return t.refuse()
	}
	// What follows the header is between the caller and the card.
	if len(capdu) < 4 || len(capdu) > MaxCommand {
		return Step{Done: true, Err: invalid("%d bytes are not a command", len(capdu))}
	}
	t.abandoned = t.state != t1Idle
	t.begin(capdu, dst)
	if t.abandoned {
		return t.sendResync()
	}
	return t.sendI()
}

// Withdraw takes back a Start whose first block was never sent: a PIN pad whose
// user cancelled. Card and machine are as before.
func (t *T1) Withdraw() {
	if !t.abandoned { // else the next Start still has to begin with S(RESYNCH)
		t.state = t1Idle
	}
	t.Wipe()
}

// Wipe forgets the command, which may be a PIN, and the block that came last.
func (t *T1) Wipe() {
	t.capdu = nil
	clear(t.iblk)
	if t.cfg.Character {
		clear(t.rbuf[:])
	}
}

func (t *T1) begin(capdu, dst []byte) {
	t.capdu, t.off = capdu, 0
	t.dst, t.base = dst, len(dst)
	t.setup, t.exposed, t.abort = false, false, false
	t.restarts, t.end = 0, nil
	t.progress()
}

func (t *T1) refuse() Step {
	return Step{Done: true, Err: fmt.Errorf("T=1: the connection to the card broke down before; reset the card: %w", ErrProtocol)}
}

// Response is dst of Start with the R-APDU appended.
func (t *T1) Response() []byte { return t.dst }

// Abort ends the chain under way, in either direction, at the next block by
// S(ABORT request) (rule 9). The exchange then ends with an error. A command
// that is already whole at the card cannot be aborted.
func (t *T1) Abort() {
	if t.state == t1Command || t.state == t1Response {
		t.abort = true
	}
}

// progress forgets the failures: something new was received.
func (t *T1) progress() { t.fails, t.repeats, t.idle = 0, 0, 0 }

// Next takes a block, or in Character mode the characters wanted, or an error.
func (t *T1) Next(rx []byte, err error) Step {
	if t.state == t1Idle {
		return Step{Done: true, Err: errIdleT1}
	}
	t.silent = false
	if t.cfg.Character {
		return t.nextChars(rx, err)
	}
	switch {
	case err == nil:
		return t.block(rx)
	case errors.Is(err, ErrTimeout):
		return t.silence()
	}
	return t.failed(1, "damaged block: "+err.Error())
}

// nextChars collects a block from characters.
func (t *T1) nextChars(rx []byte, err error) Step {
	if t.drain != 0 {
		// Whatever came belongs to the block already found wrong; the line is
		// quiet now or the reader has passed all it had.
		code := t.drain
		t.drain = 0
		return t.failed(code, t.why)
	}
	if err != nil {
		if errors.Is(err, ErrTimeout) {
			return t.silence()
		}
		return t.drained(1, "damaged characters: "+err.Error())
	}
	want := t.want()
	if len(rx) == 0 {
		return t.silence()
	}
	if len(rx) > want {
		return t.drained(2, "more characters than asked for")
	}
	t.rlen += copy(t.rbuf[t.rlen:], rx)
	if t.rlen >= 3 && t.rbuf[2] == 0xFF {
		return t.drained(2, "LEN FF")
	}
	if want = t.want(); want > 0 {
		// From here on the characters follow each other: CWT each.
		return Step{Want: want, Wait: time.Duration(want) * t.cwt}
	}
	b := t.rbuf[:t.rlen]
	if !checkEDC(b, t.cfg.Params.CRC) {
		// LEN itself may be what is wrong: wait for the real end.
		return t.drained(1, "wrong EDC")
	}
	return t.block(b)
}

// want is how many characters of the block are missing, as far as is known.
func (t *T1) want() int {
	if t.rlen < 3 {
		return 3 - t.rlen
	}
	return 3 + int(t.rbuf[2]) + t.edc - t.rlen
}

// drained receives until the card has been quiet for CWT, then fails: sending
// into the rest of a block would only lose the next one, too.
func (t *T1) drained(code byte, why string) Step {
	t.drain, t.why = code, why
	return Step{Want: len(t.rbuf), Wait: t.cwt}
}
