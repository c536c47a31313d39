package smph

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"

	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// The keys of `attach`.
const (
	paramType   = "type"
	paramClock  = "clock"
	paramDetect = "detect"
)

// settings are what nobody can find out about an interface.
type settings struct {
	// smartMouse: RTS on releases the card, RTS off resets it. In a Phoenix interface it is the
	// other way round.
	smartMouse bool
	clockHz    int
	// detect is the line by which the interface says whether there is a card; 0: none.
	detect   serial.Lines
	detectOn bool // it is on while there is a card; else off
}

// The least and the fastest clock that `attach` takes, in MHz.
const leastClock, mostClock = 1, 20

// detectLines are the values of detect, of which each but none has -on or -off behind it.
var detectLines = map[string]serial.Lines{"cts": serial.CTS, "dsr": serial.DSR, "cd": serial.CD, "ri": serial.RI}

// parse reads the parameters of `attach`. Other keys do not matter here.
func parse(params map[string]string) (settings, error) {
	// OpenCT takes CTS off for a card.
	s := settings{clockHz: iso7816.DefaultClockHz, detect: serial.CTS}
	switch v := params[paramType]; v {
	case "", "phoenix":
	case "smartmouse":
		s.smartMouse = true
	default:
		return s, wrong(paramType, v, "phoenix or smartmouse")
	}
	if v, ok := params[paramClock]; ok {
		mhz, err := strconv.ParseFloat(v, 64)
		if err != nil || !(mhz >= leastClock && mhz <= mostClock) {
			return s, wrong(paramClock, v, "the card's clock in MHz, such as 3.57 or 6")
		}
		s.clockHz = int(math.Round(mhz * 1e6))
	}
	if v, ok := params[paramDetect]; ok {
		line, sense, _ := strings.Cut(v, "-")
		s.detect, s.detectOn = detectLines[line], sense == "on"
		if v != "none" && (s.detect == 0 || sense != "on" && sense != "off") {
			return s, wrong(paramDetect, v, "none, or cts, dsr, cd or ri with -on or -off behind it, which says what the line is while a card is in")
		}
	}
	return s, nil
}

func wrong(key, value, want string) error {
	return fmt.Errorf("%s=%s: it is %s: %w", key, value, want, reader.ErrInvalid)
}

// model is what `status` calls the interface.
func (s settings) model() string {
	if s.smartMouse {
		return "SmartMouse interface"
	}
	return "Phoenix interface"
}

// resetLines returns the lines to switch on and off so that the card is in reset, or released.
func (s settings) resetLines(reset bool) (on, off serial.Lines) {
	if reset != s.smartMouse {
		return serial.RTS, 0
	}
	return 0, serial.RTS
}

// present reports whether there is a card, as the interface says. One that has no line for it
// always has one: no line is never on.
func (s settings) present(l serial.Lines) bool { return l&s.detect != 0 == s.detectOn }

// The rates that are set. The ports of OpenCT have 230400 bit/s at the most.
const leastBaud, mostBaud = 1200, 230_400

// commonBauds are what ports have. A clock of 3.579545 MHz makes 9622 bit/s, and those who
// built the interfaces meant 9600.
var commonBauds = []int{1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400}

// baud returns the bit rate for the F and D of ta1 (ISO/IEC 7816-3:2006 §7.1): a common one if
// it is off by half a percent at most. It reports false if there is none.
func (s settings) baud(ta1 byte) (int, bool) {
	f, d, _, ok := iso7816.Params{TA1: ta1}.FD()
	exact := (s.clockHz*d + f/2) / f
	for _, b := range commonBauds {
		if off := exact - b; max(off, -off)*200 <= b {
			exact = b
		}
	}
	return exact, ok && exact >= leastBaud && exact <= mostBaud
}

// Frames with two stop bits, which are the guard time of 12 etu (ISO/IEC 7816-3:2006 §7.2).
// The UART sees odd parity of a card with the inverse convention: all nine bits are inverted.
const (
	direct  = serial.Frame8E2
	inverse = serial.Frame8O2
)

// otherFrame is that of the other convention.
func otherFrame(f serial.Frame) serial.Frame {
	if f == direct {
		return inverse
	}
	return direct
}

// convert changes characters between the two conventions. In the inverse one the first bit is
// the most significant, and low is 1 (ISO/IEC 7816-3:2006 §8.1).
func convert(p []byte) {
	for i, b := range p {
		p[i] = ^bits.Reverse8(b)
	}
}
