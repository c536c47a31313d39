package remote

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// What the other side says is not trusted. A text that breaks one of these rules is refused as
// a whole, with ErrProtocol: it is not from a cardfs.
const (
	maxText  = 64 << 10        // bytes of ctl and status
	maxLine  = 8 << 10         // of a line of ctl, status and event
	maxReply = 3*(1<<16+2) + 1 // the longest R-APDU in hex, with its newline
	maxSlot  = 1 << 20         // the greatest number of a slot
	maxIndex = 256             // slots of a reader, as in the core
	maxVia   = 8               // daemons on the way
)

var (
	// byIDName is a name below by-id, as the core makes it: the reader's, and the slot's number
	// in it.
	byIDName  = regexp.MustCompile(`^([0-9A-Za-z#+\-.:=@_]{1,200})-slot([0-9]{1,3})((?:-[0-9]{1,7})*)$`)
	instance  = regexp.MustCompile(`^[0-9a-f]{16}$`)
	errnoWord = regexp.MustCompile(`^E[A-Z0-9]{1,20}$`)
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), reader.ErrProtocol)
}

// textLines splits the text of a file into lines without control characters.
func textLines(what string, text []byte) ([]string, error) {
	if len(text) > maxText {
		return nil, malformed("%s is longer than %d bytes", what, maxText)
	}
	var lines []string
	for line := range bytes.SplitSeq(bytes.TrimSuffix(text, []byte{'\n'}), []byte{'\n'}) {
		if err := checkLine(what, line); err != nil {
			return nil, err
		}
		lines = append(lines, string(line))
	}
	return lines, nil
}

func checkLine(what string, line []byte) error {
	if len(line) > maxLine {
		return malformed("%s has a line of more than %d bytes", what, maxLine)
	}
	for _, b := range line {
		if b < ' ' || b == 0x7F {
			return malformed("%s has a control character", what)
		}
	}
	return nil
}

// overview is what ctl says.
type overview struct {
	instance string
	readers  int // slots that are there
}

func parseCtl(text []byte) (o overview, err error) {
	lines, err := textLines("ctl", text)
	if err != nil {
		return o, err
	}
	for _, line := range lines {
		key, value, _ := strings.Cut(line, " ")
		switch {
		case key == "instance" && instance.MatchString(value):
			o.instance = value
		case key == "reader":
			o.readers++
		}
	}
	if o.instance == "" {
		return o, fmt.Errorf("ctl there has no line `instance`: it is of an older cardfs, or of something else: %w", reader.ErrUnsupported)
	}
	return o, nil
}

// unknown is a protocol that was not named.
const unknown = iso7816.NoProtocol - 1

// status is what a slot's status says.
type status struct {
	state    string
	problem  string // the line "error"
	model    string
	driver   string
	byID     string
	instance string
	atr      []byte
	protocol int // iso7816.NoProtocol: a memory card
	event    uint64
}

func parseStatus(text []byte) (s status, err error) {
	lines, err := textLines("status", text)
	if err != nil {
		return s, err
	}
	s.protocol = unknown
	for _, line := range lines {
		key, value, _ := strings.Cut(line, " ")
		switch key {
		case "state":
			s.state = value
		case "error":
			s.problem = value
		case "reader":
			s.model = value
		case "driver":
			s.driver = value
		case "by-id":
			s.byID = value
		case "instance":
			if !instance.MatchString(value) {
				return s, malformed("status has an instance that is none")
			}
			s.instance = value
		case "event":
			if s.event, err = strconv.ParseUint(value, 10, 64); err != nil {
				return s, malformed("status has an event that is no number")
			}
		case "atr":
			if s.atr, err = parseATR(value); err != nil {
				return s, err
			}
		case "protocol":
			switch value {
			case "T=0", "T=1":
				s.protocol = int(value[2] - '0')
			case "memory":
				s.protocol = iso7816.NoProtocol
			default:
				return s, malformed("status has a protocol that is none")
			}
		}
	}
	switch s.state {
	case "starting", "failed", "empty", "present":
	case "powered":
		if s.atr == nil || s.protocol == unknown {
			return s, malformed("status says powered, without ATR or protocol")
		}
	default:
		return s, malformed("status has no state")
	}
	return s, nil
}

// maxATR is TS and 32 more characters (ISO/IEC 7816-3:2006 §8.2.1).
const maxATR = 33

func parseATR(text string) ([]byte, error) {
	atr, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil || len(atr) == 0 || len(atr) > maxATR {
		return nil, malformed("an ATR is 1 to %d bytes in hex; here are %d characters", maxATR, len(text))
	}
	return atr, nil
}

// event is one line of event.
type event struct {
	seq  uint64
	slot int
	what string
	more map[string]string
}

// parseEvent reads a line without its newline.
func parseEvent(line []byte) (e event, err error) {
	if err := checkLine("event", line); err != nil {
		return e, err
	}
	words := strings.Fields(string(line))
	if len(words) < 3 {
		return e, malformed("event has a line of %d words; the least is 3", len(words))
	}
	if e.seq, err = strconv.ParseUint(words[0], 10, 64); err != nil {
		return e, malformed("event has a line without a number")
	}
	if e.slot, err = strconv.Atoi(words[1]); err != nil || e.slot < 0 || e.slot > maxSlot {
		return e, malformed("event has a slot that is none")
	}
	e.what = words[2]
	for _, pair := range words[3:] {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return e, malformed("event has a word that is no key=value")
		}
		if e.more == nil {
			e.more = make(map[string]string)
		}
		e.more[key] = value
	}
	return e, nil
}

// place is where a far slot belongs.
type place struct {
	reader string // by-id without the slot: the same for all slots of a reader
	index  int    // of the slot in its reader
	via    []string
}

// parsePlace reads what an event "arrived" says.
func parsePlace(more map[string]string) (p place, err error) {
	m := byIDName.FindStringSubmatch(more["by-id"])
	if m == nil || strings.Contains(m[1], "..") {
		return p, malformed("a name below by-id of %d bytes, which cardfs does not make", len(more["by-id"]))
	}
	p.reader = m[1] + m[3]
	if p.index, err = strconv.Atoi(m[2]); err != nil || p.index >= maxIndex {
		return p, malformed("slot %s of a reader", m[2])
	}
	if via := more["via"]; via != "" {
		p.via = strings.Split(via, ",")
	}
	if len(p.via) >= maxVia {
		return p, malformed("a way over %d daemons; the most is %d", len(p.via), maxVia)
	}
	for _, v := range p.via {
		if !instance.MatchString(v) {
			return p, malformed("via names no instance")
		}
	}
	return p, nil
}

// parseReply reads an answer in hex, `ok`, or the line of an error. line has no newline.
func parseReply(line, dst []byte) (data []byte, err error) {
	if rest, is := bytes.CutPrefix(line, []byte("error ")); is {
		if err := checkLine("an answer", rest); err != nil {
			return dst, err
		}
		name, words, _ := strings.Cut(string(rest), " ")
		if !errnoWord.MatchString(name) {
			return dst, malformed("an error without its name")
		}
		return dst, farError(name, words)
	}
	// Digit, digit, blank, as cardfs writes it.
	if len(line)%3 != 2 {
		return dst, malformed("an answer of %d characters is no bytes in hex", len(line))
	}
	for i := 0; i < len(line); i += 3 {
		high, low := digit(line[i]), digit(line[i+1])
		if high < 0 || low < 0 || i+2 < len(line) && line[i+2] != ' ' {
			return dst, malformed("an answer is no bytes in hex")
		}
		dst = append(dst, byte(high<<4|low))
	}
	return dst, nil
}

func digit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// appendHex writes p as a line of hex.
func appendHex(dst, p []byte) []byte {
	dst = hex.AppendEncode(dst, p)
	return append(dst, '\n')
}
