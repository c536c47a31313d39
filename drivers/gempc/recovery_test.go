package gempc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/drivers/bus/serial/serialtest"
	"github.com/cardfs/cardfs/drivers/gempc/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/icc"
)

// "A command may only go out again if it is certain that the card has not seen it." Each
// case is a card's command with number 0 and what goes over the line because of it.
func TestRecovery(t *testing.T) {
	const (
		quiet   = "IN 250ms | timeout\n"
		command = "OUT | 42 00 05 15 00 20 00 01 73\n"
		resent  = quiet + command
		again   = quiet + "OUT | 42 82 00 C0\n"
		wrong   = quiet + "OUT | 42 81 00 C3\n"
		answer  = "IN | 24 00 03 00 90 00 B7\n"
		late    = "IN held 200ms | 24 00 03 00 90 00 B7\n"
		slow    = "IN held 800ms | 24 00 03 00 90 00 B7\n"
		refusal = "IN | 24 81 00 A5\n"
		taken   = "IN | 24 91 00 B5\n" // an R-block that expects the next command
		before  = "IN | 24 E0 00 C4\n" // the answer to RESYNCH
		damaged = "IN | 24 00 03 00 90 00 B6\n"
		hello   = quiet + "OUT | 42 C0 00 82\n" + before
	)
	for _, x := range []struct {
		name, session string
		doubt         bool
	}{
		{"refused", command + refusal + again + before + resent + answer + quiet, false},
		{"refused for the other reason", command + "IN | 24 82 00 A6\n" + again + before + resent + answer + quiet, false},
		{"refused, and again instead of the block before", command + refusal + again + refusal + resent + answer + quiet, false},
		{"refused in a burst", command + refusal + refusal + again + before + resent + answer + quiet, false},
		{"refused twice", command + refusal + again + before + resent + refusal + again + before + resent + answer + quiet, false},
		{"the refusal was of noise", command + refusal + late + quiet, false},
		{"the refusal was of noise, and the card is slow", command + refusal + again + slow + answer + quiet, false},
		{"a refusal of noise behind a damaged answer", command + damaged + wrong + refusal + again + answer + quiet, false},
		{"refusals of noise behind a damaged answer", command + damaged + wrong + refusal + refusal + again + answer + quiet, false},
		{"refused, and a refusal of noise behind a damaged answer", command + refusal + again + before + resent + damaged + wrong + refusal + again + answer + quiet, false},
		{"the answer is damaged", command + damaged + wrong + answer + quiet, false},
		{"the R-block is damaged", command + damaged + wrong + taken + again + answer + quiet, false},
		{"taken, and nothing else", command + strings.Repeat(taken+again, turns-1) + taken + hello, true},
		{"the refusal is damaged", command + "IN | 24 81 00 A4\n" + wrong + before + resent + answer + quiet, false},
		{"the block before comes unasked", command + before + again + answer + quiet, false},
		{"damaged for ever", command + strings.Repeat(damaged+wrong, turns-1) + damaged + hello, true},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := serialtest.Parse("line 38400 8N1\n" + x.session)
				if err != nil {
					t.Fatal(err)
				}
				p := serialtest.NewPlayer(t, s)
				port, err := p.OpenSerial(t.Context(), fast)
				if err != nil {
					t.Fatal(err)
				}
				l := &gbpLine{Port: strict{port}}
				defer port.Close()
				got, err := l.command(t.Context(), unhex("15 00 20 00 01"), 10*time.Second)
				if x.doubt != errors.Is(err, errDoubt) || !x.doubt && (err != nil || !bytes.Equal(got, unhex("00 90 00"))) {
					t.Errorf("% X, %v", got, err)
				}
				if bytes.Contains(l.out[:], unhex("20 00 01")) {
					t.Error("the driver holds the command")
				}
			})
		})
	}
}

// strict ends a session that went wrong: time stands still until something waits.
type strict struct{ serial.Port }

func (s strict) Read(ctx context.Context, p []byte, wait time.Duration) (int, error) {
	n, err := s.Port.Read(ctx, p, wait)
	if errors.Is(err, reader.ErrProtocol) {
		err = reader.ErrGone
	}
	return n, err
}

// A block that precedes I-block 1 is I-block 0, whatever came before that.
func TestBlockBefore(t *testing.T) {
	for _, x := range []struct {
		pcb, n byte
		want   bool
	}{{0x40, 0, true}, {0x00, 0, false}, {0xE0, 0, true}, {0x81, 0, false}, {0x00, 1, true}, {0x40, 1, false}, {0xE0, 1, false}} {
		if got := (block{pcb: x.pcb}).precedes(x.n); got != x.want {
			t.Errorf("PCB %02X before %d: %v", x.pcb, x.n, got)
		}
	}
}

// An error says what is there instead of a block.
func TestNoBlock(t *testing.T) {
	for in, want := range map[string]string{
		"42 00 03 00 90 00 D1": "the line echoes",
		"FE 24 00 00 24":       "no block: it begins with FE",
		"24 00 03 00 90":       "lacks 2 bytes",
		"24 00 03 00 90 00 B6": "wrong LRC",
	} {
		if _, err := parseBlock(unhex(in)); !errors.Is(err, reader.ErrProtocol) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

// several runs one exchange in which several characters fail, and returns how often the card
// saw its command.
func several(t *testing.T, cfg emu.SerialConfig, c card, slow time.Duration, faults []serialtest.Fault) (seen uint64, err error) {
	e, p, s := connectedSerial(t, cfg, c)
	e.Contact.SetFaults(icc.Faults{Slow: slow})
	toDevice, toHost := p.Sent()
	for _, f := range faults {
		if f.At += toDevice; f.ToHost {
			f.At += toHost - toDevice
		}
		p.Inject(f)
	}
	before := e.Contact.APDUs()
	_, err = s.Exchange(t.Context(), reader.Transfer{Out: unhex("80 E2 00 04 04"), Wait: 10 * time.Second}, nil)
	return e.Contact.APDUs() - before, err
}

// Whatever happens to an exchange, and to what mends it, the card sees a command once at most.
func TestSerialFaultsTogether(t *testing.T) {
	rnd := rand.New(rand.NewPCG(410, 1))
	pick := func(d ...time.Duration) time.Duration { return d[rnd.IntN(len(d))] }
	for range 10000 {
		cfg := emu.SerialConfig{Gullible: rnd.IntN(2) == 0, Pause: pick(0, time.Millisecond, 300*time.Millisecond)}
		c, slow := []card{t0, t1}[rnd.IntN(2)], pick(0, 400*time.Millisecond, 2*time.Second)
		faults := make([]serialtest.Fault, 2+rnd.IntN(4))
		for i := range faults {
			faults[i] = serialtest.Fault{ToHost: rnd.IntN(2) == 0, At: rnd.IntN(40), Kind: serialtest.FaultKind(rnd.IntN(int(serialtest.Silence)))}
		}
		synctest.Test(t, func(t *testing.T) {
			if n, err := several(t, cfg, c, slow, faults); n > 1 {
				t.Errorf("%+v, card %q, slow %v, %+v: the card saw the command %d times, %v", cfg, c, slow, faults, n, err)
			}
		})
	}
}

// If no answer comes through, however often it is asked for, the command is not sent again.
func TestSerialAnswerNeverWhole(t *testing.T) {
	for _, gullible := range []bool{false, true} {
		for proto, c := range []card{t0, t1} {
			const answer = 4 + 1 + 4 + 2 // a block with status, data, SW1 SW2
			var faults []serialtest.Fault
			for i := range turns {
				faults = append(faults, serialtest.Fault{ToHost: true, At: i*answer + 5, Kind: serialtest.Change})
			}
			synctest.Test(t, func(t *testing.T) {
				n, err := several(t, emu.SerialConfig{Gullible: gullible}, c, 0, faults)
				if n != 1 || !errors.Is(err, errDoubt) || !errors.Is(err, reader.ErrProtocol) {
					t.Errorf("gullible %v, T=%d: the card saw the command %d times, %v", gullible, proto, n, err)
				}
			})
		}
	}
}

// A character too many behind a command is noise for the reader, which refuses it when it has
// waited for more. The refusal has the number of the next command, which may be on its way.
func TestSerialRefusalMeetsCommand(t *testing.T) {
	for _, gullible := range []bool{false, true} {
		for proto, c := range []card{t0, t1} {
			for _, pause := range []time.Duration{0, time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond} {
				for _, slow := range []time.Duration{0, 300 * time.Millisecond, 2 * time.Second} {
					for gap := 150 * time.Millisecond; gap <= 250*time.Millisecond; gap += 10 * time.Millisecond {
						what := fmt.Sprintf("gullible %v, T=%d, pause %v, slow %v, gap %v", gullible, proto, pause, slow, gap)
						synctest.Test(t, func(t *testing.T) {
							e, p, s := connectedSerial(t, emu.SerialConfig{Gullible: gullible, Pause: pause}, c)
							x := reader.Transfer{Out: unhex("80 E2 00 04 04"), Wait: 10 * time.Second}
							at, _ := p.Sent()
							p.Inject(serialtest.Fault{At: at + blockOverhead + 1 + len(x.Out) - 1, Kind: serialtest.Double})
							if _, err := s.Exchange(t.Context(), x, nil); err != nil {
								t.Fatalf("%s: %v", what, err)
							}
							time.Sleep(gap)
							e.Contact.SetFaults(icc.Faults{Slow: slow})
							before := e.Contact.APDUs()
							got, err := s.Exchange(t.Context(), x, nil)
							if n := e.Contact.APDUs() - before; n != 1 || err != nil || !bytes.Equal(got, append(pattern(4), 0x90, 0)) {
								t.Errorf("%s: the card saw the command %d times; % X, %v", what, n, got, err)
							}
						})
					}
				}
			}
		}
	}
}
