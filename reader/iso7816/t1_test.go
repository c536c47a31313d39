package iso7816

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// scenario is a trace and what the caller of the machine does and sees meanwhile.
type scenario struct {
	name, rule  string
	ifsc        int  // 0: 32
	repeatable  bool // every command may be sent again
	maxResponse int
	prelude     []op // before the trace, without errors: sets N(S) and IFSD
	ops         []op
	trace       string
}

// op is a call of the machine's user, followed until it is done.
type op struct {
	kind  opKind
	apdu  string
	want  string
	errs  []error // all of them must be in the error
	dead  bool
	abort bool // Abort is called once the command is on its way
}

type opKind int

const (
	opExchange opKind = iota
	opSetup
	opAbandon // Start without Next: the caller went away
)

func exchange(apdu, want string) op         { return op{apdu: apdu, want: want} }
func failure(apdu string, errs ...error) op { return op{apdu: apdu, errs: errs} }
func deadly(apdu string, errs ...error) op  { return op{apdu: apdu, errs: errs, dead: true} }
func aborted(apdu string, errs ...error) op { return op{apdu: apdu, errs: errs, abort: true} }
func abandon(apdu string) op                { return op{kind: opAbandon, apdu: apdu} }
func setup(ifsd int) op                     { return op{kind: opSetup} }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}

// line is one block of a trace, or silence.
type line struct {
	text   string
	toCard bool
	silent bool
	b      []byte
}

// variant is a form that every trace can be run in.
type variant struct {
	crc       bool
	nad       byte
	character bool
}

func (v variant) String() string {
	s := "LRC"
	if v.crc {
		s = "CRC"
	}
	if v.character {
		s += ",character"
	}
	return fmt.Sprintf("%s,NAD=%02X", s, v.nad)
}

var variants = func() (vs []variant) {
	for _, crc := range []bool{false, true} {
		for _, nad := range []byte{0x00, 0x21, 0x70} {
			for _, char := range []bool{false, true} {
				vs = append(vs, variant{crc, nad, char})
			}
		}
	}
	return vs
}()

// parseTrace reads a trace and turns it into the variant's form: a block with
// a right LRC gets a right EDC, one with a wrong LRC a wrong one. A NAD other
// than 00 in the trace is meant to be wrong and is kept.
func parseTrace(t *testing.T, trace string, v variant) (ls []line) {
	t.Helper()
	for s := range strings.Lines(trace) {
		s = strings.TrimSpace(s)
		body, _, _ := strings.Cut(s, ";")
		dir, body, _ := strings.Cut(strings.TrimSpace(body), " ")
		l := line{text: s}
		switch dir {
		case "":
			continue
		case ">":
			l.toCard = true
		case "<", "<!":
		default:
			t.Fatalf("trace line %q", s)
		}
		if strings.TrimSpace(body) == "--" {
			l.silent = true
		} else {
			l.b = unhex(t, body)
		}
		if len(l.b) > 3 { // else it has no EDC
			wrong := LRC(l.b) != 0
			b := l.b[:len(l.b)-1]
			if b[0] == 0 {
				b[0] = v.nad
				if !l.toCard {
					b[0] = v.nad<<4 | v.nad>>4
				}
			}
			l.b = appendEDC(b, 0, v.crc)
			if wrong {
				l.b[len(l.b)-1] ^= 1
			}
		} else if len(l.b) > 0 {
			l.b[0] = v.nad<<4 | v.nad>>4
		}
		ls = append(ls, l)
	}
	return ls
}

// player is the card's side of a trace.
type player struct {
	t       *testing.T
	m       *T1
	v       variant
	lines   []line
	pending []byte // Character mode: what the card sent and was not yet read
	bwt     time.Duration
}

// play answers steps from the trace until the operation is done.
func (p *player) play(s Step) Step {
	p.t.Helper()
	for n := 0; !s.Done; n++ {
		if n > 1000 {
			p.t.Fatal("no end after 1000 steps")
		}
		if len(s.Send) == 0 {
			if !p.v.character {
				p.t.Fatalf("block mode, but nothing to send: %+v", s)
			}
			s = p.characters(s.Want)
			continue
		}
		if len(p.pending) > 0 {
			p.t.Fatalf("sending % X while the card still sends % X", s.Send, p.pending)
		}
		if len(p.lines) == 0 {
			p.t.Fatalf("% X sent after the end of the trace", s.Send)
		}
		l := p.lines[0]
		if !l.toCard || !bytes.Equal(l.b, s.Send) {
			p.t.Fatalf("sent % X at the line\n%s\nwhich is % X", s.Send, l.text, l.b)
		}
		mult := 1
		if s.Send[1] == 0xE3 {
			mult = int(s.Send[3])
			if s.WTX != mult {
				p.t.Errorf("WTX is %d, granted were %d", s.WTX, mult)
			}
		} else if s.WTX != 0 {
			p.t.Errorf("WTX is %d after % X", s.WTX, s.Send)
		}
		if want := time.Duration(mult) * p.bwt; s.Wait != want {
			p.t.Errorf("after % X the wait is %v, want %v", s.Send, s.Wait, want)
		}
		if len(p.lines) < 2 {
			p.t.Fatalf("nothing comes after %q", l.text)
		}
		r := p.lines[1]
		p.lines = p.lines[2:]
		switch {
		case p.v.character && r.silent:
			s = p.m.Next(nil, ErrTimeout)
		case p.v.character:
			p.pending = r.b
			s = p.characters(s.Want)
		case r.silent:
			s = p.m.Next(nil, fmt.Errorf("the driver says: %w", ErrTimeout))
		default:
			if s.Want != 0 {
				p.t.Errorf("block mode, but Want is %d", s.Want)
			}
			s = p.m.Next(r.b, nil)
		}
	}
	return s
}

// characters gives up to want characters of what the card sent, then silence.
func (p *player) characters(want int) Step {
	if want == 0 {
		p.t.Fatal("character mode, but Want is 0")
	}
	if len(p.pending) == 0 {
		return p.m.Next(nil, ErrTimeout)
	}
	n := min(want, len(p.pending))
	b := p.pending[:n]
	p.pending = p.pending[n:]
	return p.m.Next(b, nil)
}

func (p *player) do(o op) {
	p.t.Helper()
	if o.kind == opSetup {
		if s := p.play(p.m.Setup()); s.Err != nil {
			p.t.Fatalf("Setup: %v", s.Err)
		}
		if p.m.IFSD() != 254 {
			p.t.Errorf("IFSD is %d after Setup", p.m.IFSD())
		}
		return
	}
	prefix := []byte{1, 2, 3}
	apdu := unhex(p.t, o.apdu)
	s := p.m.Start(apdu, prefix)
	if o.kind == opAbandon {
		p.lines = p.lines[1:]
		return
	}
	if o.abort {
		p.m.Abort()
	}
	s = p.play(s)
	if p.m.Dead() != o.dead {
		p.t.Errorf("%s: Dead is %v", o.apdu, p.m.Dead())
	}
	if len(o.errs) == 0 {
		if s.Err != nil {
			p.t.Fatalf("%s: %v", o.apdu, s.Err)
		}
		if got, want := p.m.Response(), append(prefix, unhex(p.t, o.want)...); !bytes.Equal(got, want) {
			p.t.Errorf("%s: response % X, want % X", o.apdu, got, want)
		}
		return
	}
	if s.Err == nil {
		p.t.Fatalf("%s: no error; response % X", o.apdu, p.m.Response())
	}
	p.t.Logf("%s: %v", o.apdu, s.Err)
	for _, e := range o.errs {
		if !errors.Is(s.Err, e) {
			p.t.Errorf("%s: error %q is not %q", o.apdu, s.Err, e)
		}
	}
	known := errors.Is(s.Err, ErrInDoubt)
	wanted := false
	for _, e := range o.errs {
		wanted = wanted || e == ErrInDoubt
	}
	if known != wanted {
		p.t.Errorf("%s: error %q: in doubt %v, want %v", o.apdu, s.Err, known, wanted)
	}
}

// preludeTrace is what the operations of a prelude look like on the wire.
func preludeTrace(t *testing.T, ops []op) string {
	var sb strings.Builder
	block := func(dir string, pcb byte, inf []byte) {
		b := append([]byte{0, pcb, byte(len(inf))}, inf...)
		fmt.Fprintf(&sb, "%s % X\n", dir, append(b, LRC(b)))
	}
	seq := byte(0)
	for _, o := range ops {
		switch o.kind {
		case opSetup:
			block(">", 0xC1, []byte{254})
			block("<", 0xE1, []byte{254})
		case opExchange:
			block(">", seq, unhex(t, o.apdu))
			block("<", seq, unhex(t, o.want))
			seq ^= 0x40
		case opAbandon:
			block(">", seq, unhex(t, o.apdu))
		}
	}
	return sb.String()
}

func runScenario(t *testing.T, sc scenario, v variant) {
	params := DefaultParams(1)
	params.CRC = v.crc
	if sc.ifsc != 0 {
		params.IFSC = sc.ifsc
	}
	cfg := T1Config{Params: params, NAD: v.nad, Character: v.character, MaxResponse: sc.maxResponse}
	if sc.repeatable {
		cfg.Repeatable = func([]byte) bool { return true }
	}
	p := &player{t: t, m: NewT1(cfg), v: v, bwt: params.BWT(0)}
	p.lines = parseTrace(t, preludeTrace(t, sc.prelude), v)
	for _, o := range sc.prelude {
		p.do(o)
	}
	if len(p.lines) != 0 {
		t.Fatalf("prelude: not played: %v", p.lines)
	}
	p.lines = parseTrace(t, sc.trace, v)
	for _, o := range sc.ops {
		p.do(o)
	}
	for _, l := range p.lines {
		t.Errorf("not played: %s", l.text)
	}
}

// TestT1Scenarios runs every trace with LRC and CRC, with several NADs, in
// blocks and in characters.
func TestT1Scenarios(t *testing.T) {
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Logf("ISO/IEC 7816-3:2006 §11.6: %s", sc.rule)
			for _, v := range variants {
				t.Run(v.String(), func(t *testing.T) { runScenario(t, sc, v) })
			}
		})
	}
}
