package script

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/explain"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// mnemonic is a command by its name.
type mnemonic struct {
	name, usage, words string
	least, most        int // how many arguments; most < 0 for any number
	build              func(a *arguments, b *built)
}

// mnemonics are the names of commands. Numbers are decimal, or hex with 0x.
var mnemonics = []mnemonic{
	{"select", "FILE|PATH|AID|NAME", "3F00, 3F00/5000/5001, an AID in hex, or an application's name", 1, -1, buildSelect},
	{"read-binary", "[OFFSET [LENGTH]]", "from offset 0, as much as the card gives", 0, 2, buildReadBinary},
	{"update-binary", "OFFSET HEX", "", 2, -1, buildUpdateBinary},
	{"read-record", "[NUMBER [LENGTH]]", "record 1", 0, 2, buildReadRecord},
	{"update-record", "NUMBER HEX", "", 2, -1, buildUpdateRecord},
	{"append-record", "HEX", "", 1, -1, buildAppendRecord},
	{"get-data", "TAG [LENGTH]", "a tag of one to three bytes", 1, 2, buildGetData},
	{"put-data", "TAG HEX", "", 2, -1, buildPutData},
	{"get-challenge", "[LENGTH]", "8 bytes", 0, 1, buildGetChallenge},
	{"get-response", "[LENGTH]", "", 0, 1, buildGetResponse},
	{"internal-authenticate", "HEX", "", 1, -1, buildInternalAuthenticate},
	{"external-authenticate", "HEX", "", 1, -1, buildExternalAuthenticate},
	{"verify", "REFERENCE [fill=HEX]", "asks for the PIN", 1, 1, buildVerify},
	{"tries", "REFERENCE", "VERIFY without data: how many tries are left", 1, 1, buildTries},
	{"change-pin", "REFERENCE [fill=HEX]", "CHANGE REFERENCE DATA; asks for the old and the new PIN", 1, 1, buildChangePIN},
	{"unblock-pin", "REFERENCE [fill=HEX]", "RESET RETRY COUNTER; asks for the PUK and a new PIN", 1, 1, buildUnblockPIN},
	{"manage-channel", "open | close NUMBER", "", 1, 2, buildManageChannel},
}

// Names are the names of commands.
func Names() (names []string) {
	for _, m := range mnemonics {
		names = append(names, m.name)
	}
	return names
}

// Usage is a line for each command that has a name: how it is written, and what it means.
func Usage() (lines [][2]string) {
	for _, m := range mnemonics {
		lines = append(lines, [2]string{m.name + " " + m.usage, m.words})
	}
	return lines
}

func lookUp(word string) *mnemonic {
	for i := range mnemonics {
		if strings.EqualFold(word, mnemonics[i].name) {
			return &mnemonics[i]
		}
	}
	return nil
}

// call is a mnemonic with its arguments.
type call struct {
	*mnemonic
	words    []string
	cla, sfi int // -1: not given
	fill     []part
}

// parse sorts the options out of the words behind the name.
func (m *mnemonic) parse(words []string) (*call, error) {
	c := &call{mnemonic: m, cla: -1, sfi: -1}
	for _, word := range words {
		key, text, option := strings.Cut(word, "=")
		var err error
		switch {
		case !option:
			c.words = append(c.words, word)
		case key == "cla":
			if c.cla, err = parseNumber("0x"+text, 0xFE); err != nil {
				return nil, errors.New("cla=HEX: a class is 00 to FE")
			}
		case key == "sfi" && (strings.HasSuffix(m.name, "-binary") || strings.HasSuffix(m.name, "-record")):
			if c.sfi, err = parseNumber(text, 30); err != nil || c.sfi == 0 {
				return nil, errors.New("sfi=N: a short EF identifier is 1 to 30")
			}
		case key == "fill" && (m.name == "verify" || strings.HasSuffix(m.name, "-pin")):
			if c.fill, err = parseBytes(text); err != nil {
				return nil, fmt.Errorf("fill=HEX: %w", err)
			}
		default:
			return nil, fmt.Errorf("%s has no such option", m.name)
		}
	}
	if len(c.words) < m.least || m.most >= 0 && len(c.words) > m.most {
		return nil, fmt.Errorf("it is written %s %s", m.name, m.usage)
	}
	return c, nil
}

// parseNumber reads a number, decimal or hex with 0x, up to most.
func parseNumber(text string, most int) (int, error) {
	base := 10
	if digits, ok := strings.CutPrefix(text, "0x"); ok {
		text, base = digits, 16
	}
	n, err := strconv.ParseUint(text, base, 31)
	if err != nil || int(n) > most {
		return 0, fmt.Errorf("a number from 0 to %d is wanted, decimal or hex with 0x", most)
	}
	return int(n), nil
}

// arguments are a call's, with the variables put in. The first error stays.
type arguments struct {
	*call
	vars  variables
	err   error
	value // whether all bytes were known, and one was secret
}

func (c *call) build(vars variables) (built, error) {
	a := &arguments{call: c, vars: vars, value: value{known: true}}
	b := built{command: &iso7816.Command{}}
	if c.cla >= 0 {
		b.command.CLA = byte(c.cla)
	}
	c.mnemonic.build(a, &b)
	b.known, b.secret = a.known && len(b.ask) == 0, a.secret
	return b, a.err
}

func (a *arguments) fail(format string, args ...any) {
	if a.err == nil {
		a.err = fmt.Errorf(a.name+": "+format, args...)
	}
}

// word is the argument at i, "" if there is none.
func (a *arguments) word(i int) string {
	if i < len(a.words) {
		return a.words[i]
	}
	return ""
}

// number is the argument at i, or preset if there is none.
func (a *arguments) number(i, preset, most int) int {
	if i >= len(a.words) {
		return preset
	}
	n, err := parseNumber(a.words[i], most)
	if err != nil {
		a.fail("argument %d: %w", i+1, err)
	}
	return n
}

// length is Ne, or preset if there is no such argument.
func (a *arguments) length(i, preset int) int {
	n := a.number(i, preset, iso7816.MaxNe)
	if n == 0 {
		a.fail("argument %d: a length is 1 to %d", i+1, iso7816.MaxNe)
	}
	return n
}

// bytes are the arguments from i on, put together.
func (a *arguments) bytes(i int) []byte {
	v := a.read(strings.Join(a.words[i:], " "))
	if len(v.b) == 0 && v.known {
		a.fail("there are no bytes")
	}
	return v.b
}

// read reads bytes.
func (a *arguments) read(text string) value {
	parts, err := parseBytes(text)
	if err != nil {
		a.fail("%w", err)
	}
	return a.evaluate(parts)
}

func (a *arguments) evaluate(parts []part) value {
	v, err := evaluate(parts, a.vars, false)
	if err != nil {
		a.fail("%w", err)
	}
	a.known, a.secret = a.known && v.known, a.secret || v.secret
	return v
}

// masterFile is the MF, which mf names.
const masterFile = "3F00"

// buildSelect goes by what the argument looks like: an application's name, a path, an AID
// of 5 to 16 bytes or a file identifier of two.
func buildSelect(a *arguments, b *built) {
	c := b.command
	c.INS, c.Ne = 0xA4, 256
	if app, ok := explain.LookUp(a.word(0)); ok && len(a.words) == 1 {
		c.P1, c.Data = 4, app.AID
		return
	}
	if strings.EqualFold(a.word(0), "mf") {
		a.words = []string{masterFile}
	}
	text := strings.Join(a.words, " ")
	if strings.Contains(text, "/") {
		path, fromMF := strings.CutPrefix(strings.TrimPrefix(text, "/"), masterFile+"/")
		c.P1 = 9
		if fromMF || strings.HasPrefix(text, "/") {
			c.P1 = 8
		}
		v := a.read(strings.ReplaceAll(path, "/", " "))
		if c.Data = v.b; v.known && (len(v.b)%2 != 0 || len(v.b) == 0) {
			a.fail("a path is file identifiers of two bytes with / between them")
		}
		return
	}
	if c.Data = a.bytes(0); a.err != nil && strings.ContainsFunc(text, func(r rune) bool { return r|0x20 > 'f' && r|0x20 <= 'z' }) {
		a.err = errors.New("select: no application of that name is known; say its AID in hex")
	}
	switch n := len(c.Data); {
	case n == 2:
	case n >= 5 && n <= 16:
		c.P1 = 4
	case a.known:
		a.fail("a file identifier has 2 bytes, an AID 5 to 16")
	}
}

// binary sets P1 P2: the offset, in the current EF or in that of a short identifier.
func (a *arguments) binary(b *built) {
	if a.sfi > 0 {
		b.command.P1, b.command.P2 = 0x80|byte(a.sfi), byte(a.number(0, 0, 0xFF))
		return
	}
	offset := a.number(0, 0, 0x7FFF)
	b.command.P1, b.command.P2 = byte(offset>>8), byte(offset)
}

func buildReadBinary(a *arguments, b *built) {
	a.binary(b)
	b.command.INS, b.command.Ne = 0xB0, a.length(1, 256)
}

func buildUpdateBinary(a *arguments, b *built) {
	a.binary(b)
	b.command.INS, b.command.Data = 0xD6, a.bytes(1)
}

// record sets P1 P2: the record's number, in the current EF or in that of a short
// identifier.
func (a *arguments) record(b *built, number int) {
	b.command.P1, b.command.P2 = byte(number), 4
	if a.sfi > 0 {
		b.command.P2 |= byte(a.sfi) << 3
	}
}

func buildReadRecord(a *arguments, b *built) {
	a.record(b, a.number(0, 1, 0xFE))
	b.command.INS, b.command.Ne = 0xB2, a.length(1, 256)
}

func buildUpdateRecord(a *arguments, b *built) {
	a.record(b, a.number(0, 1, 0xFE))
	b.command.INS, b.command.Data = 0xDC, a.bytes(1)
}

func buildAppendRecord(a *arguments, b *built) {
	a.record(b, 0)
	b.command.P2 &^= 7
	b.command.INS, b.command.Data = 0xE2, a.bytes(0)
}

// tag is the first argument: a tag's bytes.
func (a *arguments) tag(most int) []byte {
	v := a.read(a.word(0))
	if n := len(v.b); v.known && (n == 0 || n > most) {
		a.fail("a tag has 1 to %d bytes here", most)
	}
	return v.b
}

// buildGetData asks for a tag of three bytes by a tag list, as PIV has it.
func buildGetData(a *arguments, b *built) {
	c := b.command
	tag := a.tag(3)
	c.INS, c.Ne = 0xCA, a.length(1, 256)
	if len(tag) == 3 {
		c.INS, c.P1, c.P2 = 0xCB, 0x3F, 0xFF
		c.Data = append([]byte{0x5C, 3}, tag...)
		return
	}
	b.setTag(tag)
}

func buildPutData(a *arguments, b *built) {
	b.command.INS = 0xDA
	b.setTag(a.tag(2))
	b.command.Data = a.bytes(1)
}

func (b *built) setTag(tag []byte) {
	for _, t := range tag {
		b.command.P1, b.command.P2 = b.command.P2, t
	}
}

func buildGetChallenge(a *arguments, b *built) { b.command.INS, b.command.Ne = 0x84, a.length(0, 8) }

func buildGetResponse(a *arguments, b *built) { b.command.INS, b.command.Ne = 0xC0, a.length(0, 256) }

func buildInternalAuthenticate(a *arguments, b *built) {
	b.command.INS, b.command.Data, b.command.Ne = 0x88, a.bytes(0), 256
}

func buildExternalAuthenticate(a *arguments, b *built) {
	b.command.INS, b.command.Data = 0x82, a.bytes(0)
}

// ask makes a command on reference data with what the user types.
func (a *arguments) ask(b *built, ins byte, what ...question) {
	reference := a.number(0, 0, 0xFF)
	b.command.INS, b.command.P2 = ins, byte(reference)
	fill := a.evaluate(a.fill).b
	for _, q := range what {
		q.what, q.fill = fmt.Sprintf("%s %d", q.what, reference), fill
		b.ask = append(b.ask, q)
	}
}

func buildVerify(a *arguments, b *built) { a.ask(b, 0x20, question{what: "PIN"}) }

func buildTries(a *arguments, b *built) { a.ask(b, 0x20) }

func buildChangePIN(a *arguments, b *built) {
	a.ask(b, 0x24, question{what: "old PIN"}, question{what: "new PIN"}, question{what: "again, new PIN", same: true})
}

func buildUnblockPIN(a *arguments, b *built) {
	a.ask(b, 0x2C, question{what: "PUK for PIN"}, question{what: "new PIN"}, question{what: "again, new PIN", same: true})
}

func buildManageChannel(a *arguments, b *built) {
	b.command.INS = 0x70
	switch {
	case a.word(0) == "open" && len(a.words) == 1:
		b.command.Ne = 1
	case a.word(0) == "close" && len(a.words) == 2:
		b.command.P1, b.command.P2 = 0x80, byte(a.number(1, 0, 19))
	default:
		a.fail("it is written manage-channel %s", a.usage)
	}
}
