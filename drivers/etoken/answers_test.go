package etoken

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/readertest"
)

// fake is a token that answers by a table.
type fake = usbtest.Table

type reply = usbtest.Answer

const getBlock = "IN C0 86"

// honest is a token that behaves.
func (k *kind) honest() map[string]reply {
	a := map[string]reply{
		"IN C0 81": {Data: append([]byte{13}, unhex(cardos)...)},
		getBlock:   {Data: unhex("00 00 02 90 00 92")},
	}
	if k.driver == PRO {
		a["IN C0 83"], a["IN C0 82"] = reply{Data: readertest.Pattern(13)}, reply{Data: []byte{0}}
	} else {
		a["IN C0 88"], a["IN C0 83"] = reply{Data: readertest.Pattern(2)}, reply{Data: []byte{0}}
	}
	return a
}

// run powers up and does one exchange.
func run(ctx context.Context, s reader.Slot) (atr, rx []byte, err error) {
	if atr, err = s.PowerOn(ctx, reader.Cold); err != nil {
		return
	}
	rx, err = s.Exchange(ctx, reader.Transfer{Out: unhex("00 00 05 00 84 00 00 08 89"), Wait: time.Second}, nil)
	return
}

// The driver accepts only plausible answers of the token. Errors say which transfer, on
// which device, and how many bytes, but never the bytes.
func TestAnswers(t *testing.T) {
	pro, pro64 := &kinds[0], &kinds[1]
	for _, x := range []struct {
		name             string
		kind             *kind
		transfer, answer string
		says             string // in the error; "": accepted
	}{
		{"ATR of 34 bytes", pro, "IN C0 81", "22 3B" + strings.Repeat("00", 33), ""},
		{"ATR with surplus bytes", pro, "IN C0 81", "0D" + cardos + "FF FF", ""},
		{"ATR length beyond what came", pro, "IN C0 81", "0E" + cardos, "reset: answer: 14 bytes announced, 13 came"},
		{"ATR length FF", pro64, "IN C0 81", "FF" + cardos, "reset: answer: 255 bytes announced, 13 came"},
		{"no ATR", pro, "IN C0 81", "00", "reset: answer: its length byte announces none"},
		{"ATR answer empty", pro64, "IN C0 81", "", "reset: answer: empty"},
		{"13 other bytes", pro, "IN C0 83", strings.Repeat("FF", 13), ""},
		{"12 bytes", pro, "IN C0 83", strings.Repeat("00", 12), "query: answer: 12 bytes, not 13"},
		{"no bytes", pro, "IN C0 83", "", "query: answer: 0 bytes, not 13"},
		{"parameters refused", pro, "IN C0 82", "01", "set parameters: answer: not 00"},
		{"parameters without result", pro, "IN C0 82", "", "set parameters: answer: 0 bytes, not 1"},
		{"two other bytes", pro64, "IN C0 88", "FF FF", ""},
		{"one byte", pro64, "IN C0 88", "00", "first query: answer: 1 bytes, not 2"},
		{"second query refused", pro64, "IN C0 83", "FF", "second query: answer: not 00"},
		{"second query empty", pro64, "IN C0 83", "", "second query: answer: 0 bytes, not 1"},
		{"block with a surplus byte", pro, getBlock, "00 00 20" + strings.Repeat("00", 32) + "20 00", ""},
		{"short block with surplus bytes", pro64, getBlock, "00 00 02 90 00 92" + strings.Repeat("FF", 31), ""},
		{"block cut", pro, getBlock, "00 00 02 90 00", "fetch block: LEN announces a block of 6 bytes, 5 came"},
		{"block of three bytes", pro, getBlock, "00 00 00", "fetch block: 3 bytes are no T=1 block"},
		{"block empty", pro64, getBlock, "", "fetch block: 0 bytes are no T=1 block"},
		{"block longer than IFSD", pro, getBlock, "00 00 22" + strings.Repeat("00", 34), "fetch block: LEN announces a block of 38 bytes, 37 came"},
		{"LEN FF", pro, getBlock, "00 00 FF" + strings.Repeat("00", 34), "fetch block: LEN announces a block of 259 bytes, 37 came"},
	} {
		t.Run(x.kind.driver.Name()+"/"+x.name, func(t *testing.T) {
			answers := x.kind.honest()
			answers[x.transfer] = reply{Data: unhex(x.answer)}
			_, s := x.kind.open(t, &fake{Answers: answers})
			atr, rx, err := run(t.Context(), s)
			if x.says == "" {
				if err != nil || len(rx) != 4+int(rx[2]) || !bytes.Equal(atr, answers["IN C0 81"].Data[1:1+len(atr)]) || len(atr) != int(answers["IN C0 81"].Data[0]) {
					t.Errorf("% X, % X, %v", atr, rx, err)
				}
				return
			}
			if prefix := x.kind.driver.Name() + " usb:1-2: " + x.says; !errors.Is(err, reader.ErrProtocol) || !strings.HasPrefix(err.Error(), prefix) {
				t.Errorf("%v; want %q", err, prefix)
			}
			if b := unhex(x.answer); len(b) >= 2 && strings.Contains(strings.ReplaceAll(err.Error(), " ", ""), fmt.Sprintf("%X", b[:2])) {
				t.Errorf("bytes of the answer are in %q", err)
			}
			if powered := x.transfer == getBlock; powered != (atr != nil) || x.name == "no ATR" != errors.Is(err, reader.ErrMute) {
				t.Errorf("ATR % X, %v", atr, err)
			}
		})
	}
}

// Every transfer may fail in every way. The error names the transfer, and is one that the
// core can distinguish. What failed before the end of a power-up leaves the card unpowered.
func TestTransferErrors(t *testing.T) {
	each(t, func(t *testing.T, k *kind) {
		for _, transfer := range append(slices.Clone(k.steps), "OUT 40 06", getBlock) {
			for _, x := range usbtest.Failures {
				t.Run(transfer+"/"+x.Name, func(t *testing.T) {
					f := &fake{Answers: k.honest()}
					_, s := k.open(t, f)
					if _, _, err := run(t.Context(), s); err != nil {
						t.Fatal(err)
					}
					f.Answers[transfer] = x.Answer
					atr, rx, err := run(t.Context(), s)
					if !errors.Is(err, x.Is) || !strings.HasPrefix(err.Error(), k.driver.Name()+" usb:1-2: ") {
						t.Fatalf("%v; want %v", err, x.Is)
					}
					if words := strings.Fields(transfer); x.Err != nil && !strings.Contains(err.Error(), "request "+words[2]+": ") {
						t.Errorf("%v does not name the transfer", err)
					}
					// The length of VERIFY would reveal the PIN's.
					if transfer == "OUT 40 06" && strings.Contains(err.Error(), "byte") {
						t.Errorf("%q tells the command's length", err)
					}
					if rx != nil {
						t.Errorf("% X and %v", rx, err)
					}
					// A card without an ATR in its time is mute.
					if errors.Is(err, reader.ErrMute) != (x.Name == "time-out" && transfer[len(transfer)-1:] == "1") {
						t.Errorf("%v", err)
					}
					powered := transfer == "OUT 40 06" || transfer == getBlock
					if st, _ := s.Status(t.Context()); (powered && x.Name != "reset") != (st == reader.Powered) || powered != (atr != nil) {
						t.Errorf("status %v, ATR % X", st, atr)
					}
				})
			}
		}
	})
}

// usbtest.Menu has all that may happen to a transfer. In whichever of a power-up and an
// exchange it happens, the call ends within the time of the transfers, with an error that
// the core knows, the card sees no command twice, and after a power-up all is well, unless
// the token has left.
func TestFaultMenu(t *testing.T) {
	each(t, func(t *testing.T, k *kind) {
		for _, transfer := range append(slices.Clone(k.steps), "OUT 40 06", getBlock) {
			for _, f := range usbtest.Menu() {
				f.On = transfer
				t.Run(f.String(), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { befalls(t, k, f) }) })
			}
		}
	})
}

func befalls(t *testing.T, k *kind, f usbtest.Fault) {
	e := k.token(t)
	defer e.Unplug()
	_, s := k.open(t, e.Plug())
	e.Inject(f)
	start := time.Now()
	_, rx, err := run(t.Context(), s)
	took := time.Since(start)
	// The longest time-out is 10 s; a late transfer is one second late.
	if took > 11*time.Second {
		t.Errorf("it took %v", took)
	}
	known := slices.ContainsFunc([]error{reader.ErrProtocol, reader.ErrTimeout, reader.ErrGone, usb.ErrBus}, func(is error) bool { return errors.Is(err, is) })
	if err != nil && !known {
		t.Errorf("error %v", err)
	}
	want := unhex("00 00 0A" + random + "92")
	in := strings.HasPrefix(f.On, "IN")
	switch {
	case f.Kind == usbtest.Unplugged:
		if !errors.Is(err, reader.ErrGone) {
			t.Errorf("error %v", err)
		}
		return
	case err == nil && f.Kind == usbtest.Garbage && f.On == getBlock:
		// The T=1 machine finds it.
	case err == nil && !bytes.Equal(rx, want):
		t.Errorf("% X", rx)
	case err != nil && f.Kind == usbtest.Late && f.Delay == time.Second && !(strings.HasSuffix(f.On, "1") || f.On == getBlock):
		t.Errorf("late, and %v", err)
	case err == nil && (f.Kind < usbtest.Short || f.Kind == usbtest.Short && in):
		t.Error("no error")
	}
	if n := e.Contact.APDUs(); n > 1 {
		t.Errorf("the card had %d commands", n)
	}
	e.Heal()
	if _, rx, err := run(t.Context(), s); err != nil || !bytes.Equal(rx, want) {
		t.Errorf("afterwards: % X, %v", rx, err)
	}
}

// A T=1 block for the token has NAD, PCB, LEN, at most 32 bytes and an LRC. No byte of an
// answer stays in the driver, whether or not it was one.
func TestBlocks(t *testing.T) {
	f := &fake{Answers: kinds[0].honest()}
	_, s := kinds[0].open(t, f)
	if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 3, 37, 259} {
		sent := len(f.Waits)
		got, err := s.Exchange(t.Context(), reader.Transfer{Out: make([]byte, n)}, []byte("kept"))
		if !errors.Is(err, reader.ErrInvalid) || string(got) != "kept" || len(f.Waits) != sent || strings.Contains(err.Error(), fmt.Sprint(n, " bytes;")) {
			t.Errorf("%d bytes: %q, %v", n, got, err)
		}
	}
	for _, answer := range []reply{{Data: unhex("00 00 02 90 00 92")}, {Data: unhex("00 00 FF 90 00 92")}, {Data: unhex("00 00 02"), Err: usb.ErrStall}} {
		f.Answers[getBlock] = answer
		for _, n := range []int{4, 36} {
			got, err := s.Exchange(t.Context(), reader.Transfer{Out: make([]byte, n)}, []byte("kept"))
			if !bytes.HasPrefix(got, []byte("kept")) || (err == nil) != (len(got) == 10) {
				t.Errorf("%d bytes: % X, %v", n, got, err)
			}
			if !bytes.Equal(f.Buffer, make([]byte, 37)) {
				t.Errorf("after the exchange the driver holds % X", f.Buffer)
			}
		}
	}
}

// What the core relies on: blocks of 32 bytes either way, no PPS and no S(IFS), T=1 alone,
// and a card that is always present.
func TestTraits(t *testing.T) {
	each(t, func(t *testing.T, k *kind) {
		_, s := k.open(t, &fake{Answers: k.honest()})
		want := reader.Traits{Level: reader.TPDU, AutoPPS: true, IFSC: 32, IFSD: 32, Slack: time.Second, Fixed: true}
		if got := s.Traits(); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		if got := reader.FeaturesOf(s).ProtocolLister.Protocols(); !slices.Equal(got, []int{1}) {
			t.Errorf("protocols %v", got)
		}
	})
}

// Each product has its name, by its ID; one that came without an ID has the first.
func TestIdentify(t *testing.T) {
	got := make(map[string]string)
	for _, k := range kinds {
		for _, id := range append(k.driver.IDs(), reader.ID{}) {
			r, err := k.driver.Open(t.Context(), reader.Device{Driver: k.driver.Name(), Address: "x", ID: id, Link: k.make("").Plug()})
			if err != nil {
				t.Fatal(err)
			}
			model, more := r.(reader.Identifier).Identify()
			got[fmt.Sprintf("%s %04x:%04x", k.driver.Name(), id.Vendor, id.Product)] = model + " " + more["version"]
			r.Close()
		}
	}
	for id, want := range map[string]string{
		"etoken 0529:050c": "Aladdin eToken PRO 1.00", "etoken 0529:0514": "Aladdin eToken PRO 1.00", "etoken 0000:0000": "Aladdin eToken PRO 1.00",
		"etoken64 0529:0600": "Aladdin eToken PRO 64k 1.00", "etoken64 0529:0700": "Aladdin eToken NG-OTP 1.00", "etoken64 0000:0000": "Aladdin eToken PRO 64k 1.00",
	} {
		if got[id] != want {
			t.Errorf("%s: %q, want %q", id, got[id], want)
		}
	}
	if len(got) != 6 {
		t.Errorf("%d models: %v", len(got), got)
	}
}

func TestNotUSB(t *testing.T) {
	if _, err := PRO.Open(t.Context(), reader.Device{Address: "x"}); !errors.Is(err, reader.ErrInvalid) {
		t.Error(err)
	}
}

// No answer of a token makes the driver panic or accept bytes that did not arrive.
func FuzzAnswers(f *testing.F) {
	for _, k := range kinds {
		a := k.honest()
		f.Add(a["IN C0 81"].Data, a["IN C0 83"].Data, a["IN C0 82"].Data, a["IN C0 88"].Data, a[getBlock].Data)
	}
	f.Fuzz(func(t *testing.T, atr, query, result, first, block []byte) {
		for _, k := range kinds {
			_, s := k.open(t, &fake{Answers: map[string]reply{
				"IN C0 81": {Data: atr}, "IN C0 83": {Data: query}, "IN C0 82": {Data: result}, "IN C0 88": {Data: first}, getBlock: {Data: block},
			}})
			got, rx, err := run(t.Context(), s)
			if got != nil && (!bytes.HasPrefix(atr[1:], got) || len(got) != int(atr[0])) {
				t.Errorf("ATR % X of % X", got, atr)
			}
			if err == nil && (!bytes.HasPrefix(block, rx) || len(rx) < 4 || len(rx) != 4+int(rx[2])) {
				t.Errorf("block % X of % X", rx, block)
			}
		}
	})
}
