package script

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/clienttest"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/hextext"
)

// host records the requests of lines, and answers from lists.
type host struct {
	t       testing.TB
	did     []string
	answers []string // of the card, in hex; 9000 when there are no more
	typed   []string // of the user
	err     error    // of everything
}

func (h *host) Exchange(capdu []byte, secret bool) ([]byte, error) {
	what := fmt.Sprintf("%X", capdu)
	if secret {
		what += " secret"
	}
	h.did = append(h.did, what)
	answer := "9000"
	if len(h.answers) > 0 {
		answer, h.answers = h.answers[0], h.answers[1:]
	}
	b, err := hextext.Parse(answer)
	if err != nil {
		h.t.Fatal(err)
	}
	return b, h.err
}

func (h *host) do(what string) error {
	h.did = append(h.did, what)
	return h.err
}

func (h *host) Reset(how string) error { return h.do("power " + how) }
func (h *host) Lock() error            { return h.do("flock") }
func (h *host) Unlock() error          { return h.do("funlock") }
func (h *host) Echo(text string) error { return h.do("say " + text) }
func (h *host) Ask(what string) ([]byte, error) {
	h.did = append(h.did, "ask "+what)
	if len(h.typed) == 0 {
		return nil, h.err
	}
	typed := h.typed[0]
	h.typed = h.typed[1:]
	return []byte(typed), h.err
}

// play runs a script and returns what it did.
func play(t *testing.T, h *host, text string) (string, error) {
	h.t = t
	sc, err := Parse("x.apdu", strings.NewReader(text))
	if err != nil {
		return "", err
	}
	err = sc.Run(&Session{Host: h})
	return strings.Join(h.did, "\n"), err
}

// The commands and other requests that lines result in.
func TestLines(t *testing.T) {
	long := strings.Repeat("AB", 256)
	for text, want := range map[string]string{
		"":                                "",
		"\n # nothing\n\t\n":              "",
		"00 a4 00 0C 02 3f 00 # the MF":   "00A4000C023F00",
		"0 0a4 00 00":                     "00A40000",
		"00A40000\r\n00B00000\r\n":        "00A40000\n00B00000",
		`00A4000C \` + "\n" + `  02 3F00`: "00A4000C023F00",
		"00A40000 \\":                     "00A40000",
		// variables, text, lengths
		"set AID A00000 0004\n00A40400 05 $AID 00": "00A4040005A00000000400",
		"set A 3F\nset B ${A}00\n00A4000C02$B":     "00A4000C023F00",
		"set A_1 3F\n00A4000C 02 $A_1 00":          "00A4000C023F00",
		"set A 01\nset A 02\n000000$A":             "00000002",
		`00D60000 ("# = ->|")`:                     "00D60000072320 3D202D3E7C",
		"00D60000 (CA FE)":                         "00D6000002CAFE",
		"00CB3FFF (5C (5FC105)) 00":                "00CB3FFF055C035FC10500",
		"00D60000 (53 (" + long[:256] + "))":       "00D60000835381 80" + long[:256],
		"00D60000 (53 (" + long[:510] + ")) 0000":  "00D60000000102 5381FF" + long[:510] + "0000",
		"00D60000 (" + long[:510] + ")":            "00D60000FF" + long[:510],
		"00D60000 (" + long + ")":                  "00D60000000100" + long,
		"set L 05\n00 D6 00 00 02 ($L)":            "00D60000020105",
		"set H 00D60000\n$H (CAFE)":                "00D6000002CAFE",
		"00D60000 03 8000 ()":                      "00D600000380 0000",
		// verbs
		"reset\ncold\nlock\nunlock":   "power reset\npower cold\nflock\nfunlock",
		"echo":                        "say ",
		"echo  two  words # not this": "say two  words",
		`echo "# this"`:               "say # this",
		"set A 00000000 (" + strings.Repeat("AB", 128) + ")\n00D60000 ($A)": "00D6000086 00000000 8180" + strings.Repeat("AB", 128),
		"set A 00000000 ()\n00D60000 ($A)":                                  "00D60000050000000000",
		"select\\\n3F00":                                                    "00A40000023F0000",
		`echo "`:                                                            `say "`,
		`echo ""`:                                                           "say ",
		"set A CAFE\necho A is $A, ${A}!":                                   "say A is CA FE, CA FE!",
		// by name
		"select 3F00":                     "00A40000023F0000",
		"SELECT mf":                       "00A40000023F0000",
		"select 3F00/5000/5001":           "00A40800045000500100",
		"select 5000/5001":                "00A40900045000500100",
		"select /5000":                    "00A4080002500000",
		"select A0 00 00 00 04":           "00A4040005A00000000400",
		"select piv":                      "00A404000BA00000030800001000010000",
		"set AID A000000004\nselect $AID": "00A4040005A00000000400",
		"select cla=01 3F00":              "01A40000023F0000",
		"read-binary":                     "00B0000000",
		"read-binary 256":                 "00B0010000",
		"read-binary 0x7FFF 16":           "00B07FFF10",
		"read-binary 0 65536":             "00B00000000000",
		"read-binary 0 257":               "00B00000000101",
		"read-binary 4 2 sfi=30":          "00B09E0402",
		"update-binary 3 CA FE":           "00D6000302CAFE",
		"update-binary 3 CAFE sfi=1":      "00D6810302CAFE",
		"read-record":                     "00B2010400",
		"read-record 254 8 sfi=2":         "00B2FE1408",
		"update-record 2 CAFE":            "00DC020402CAFE",
		"append-record CAFE sfi=3":        "00E2001802CAFE",
		"get-data 6E":                     "00CA006E00",
		"get-data 5F50 9":                 "00CA5F5009",
		"get-data 5FC105":                 "00CB3FFF055C035FC10500",
		"get-data 9F7F cla=80":            "80CA9F7F00",
		"put-data 5F50 CAFE":              "00DA5F5002CAFE",
		"get-challenge":                   "0084000008",
		"get-challenge 4":                 "0084000004",
		"get-response 0x10":               "00C0000010",
		"internal-authenticate CAFE":      "0088000002CAFE00",
		"external-authenticate CAFE":      "0082000002CAFE",
		"tries 1":                         "00200001",
		"tries 0x81":                      "00200081",
		"manage-channel open":             "0070000001",
		"manage-channel close 3":          "00708003",
	} {
		got, err := play(t, &host{}, text)
		if err != nil || strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
			t.Errorf("%.80q: %.200q, %v; want %.200q", text, got, err, want)
		}
	}
}

// All lines are checked before the first is sent; the error says where, and shows no byte
// that may be a PIN.
func TestChecked(t *testing.T) {
	const first = "00A40000\n"
	for text, words := range map[string]string{
		"00A4":                   "x.apdu:2: malformed command: a command has at least 4 bytes",
		"\n\n00A4":               "x.apdu:4: ",
		"00A4000C\\\n\n00B0000":  "x.apdu:4: column 8: an odd number of hex digits",
		"00200001 05 31323334":   "Lc says 5 data bytes, 4 follow",
		"3132333":                "odd number",
		"hunter2":                "no command's name and no hex",
		"31323334 hunter2":       "column 10: neither a hex digit",
		"selct 3F00":             "did you mean select?",
		"raed-binary":            "did you mean read-binary?",
		"unlok":                  "did you mean unlock?",
		"00A4000C 02 $AID":       "variable AID is not set",
		"00A40000 = $X 9000":     "variable X is not set",
		"echo $X":                "variable X is not set",
		"00A40000 -> X\necho $Y": "x.apdu:3: variable Y is not set",
		"set 1A 00":              "a name is letters",
		"set":                    "a name is letters",
		"set A":                  "nothing to set it to",
		"set A 0":                "odd number",
		"set A $":                "a variable's name",
		"set A ${B":              "a } is missing",
		`set A "31`:              "has no end",
		"set A (31":              "a ) is missing",
		"set A 31)":              "a ) without its (",
		"set A " + strings.Repeat("(", 17) + strings.Repeat(")", 17): "nested deeper",
		"prompt":                 "a name is letters",
		"prompt PIN 31323334":    "prompt NAME [fill=HEX]",
		"prompt PIN fill=F":      "odd number",
		"verify 1 31323334":      "it is written verify REFERENCE [fill=HEX]",
		"verify 1 fill=3":        "fill=HEX",
		"verify 256":             "a number from 0 to 255",
		"reset now":              "reset stands alone",
		"lock 31":                "lock stands alone",
		"00A40000 =":             "nothing is expected",
		"00A40000 = 90":          "one byte is expected",
		"00A40000 = 900":         "odd number",
		"00A40000 = 9*000":       "odd number",
		"00A40000 = 9$A":         "odd number",
		"00A40000 = 9000 |":      "nothing is expected",
		"00A40000 = 9000 , 6100": "what is expected is",
		"= 9000":                 "no command before",
		"-> A":                   "no command before",
		"00A40000 ->":            "-> NAME",
		"00A40000 -> 1":          "-> NAME",
		"00A40000 -> A = 9000":   "-> NAME",
		"00D60000 (" + strings.Repeat("00", 65536) + ")": "longer than a command can be",
		"update-binary 0 " + strings.Repeat("00", 65536): "65536 data bytes",
		"00D60000 ()":                        "no Lc where it has no data",
		"select":                             "it is written select",
		"select nosuch":                      "no application of that name",
		"select 3F":                          "a file identifier has 2 bytes, an AID 5 to 16",
		"select " + strings.Repeat("AB", 17): "a file identifier has 2 bytes",
		"select 3F00/50":                     "a path is",
		"select /":                           "a path is",
		"read-binary 32768":                  "argument 1: a number from 0 to 32767",
		"read-binary 256 sfi=1":              "argument 1: a number from 0 to 255",
		"read-binary 0 0":                    "argument 2: a length is 1 to 65536",
		"read-binary 0 65537":                "argument 2",
		"read-binary -1":                     "argument 1",
		"read-binary 0 1 2":                  "it is written read-binary",
		"read-binary sfi=31":                 "sfi=N",
		"read-binary sfi=0":                  "sfi=N",
		"read-record 255":                    "a number from 0 to 254",
		"get-data 5F C1":                     "argument 2",
		"get-data 5FC10501":                  "a tag has 1 to 3 bytes",
		"put-data 5FC105 00":                 "a tag has 1 to 2 bytes",
		"get-challenge sfi=1":                "get-challenge has no such option",
		"select 3F00 cla=FF":                 "cla=HEX",
		"select 3F00 cla=x":                  "cla=HEX",
		"manage-channel open 1":              "it is written manage-channel",
		"manage-channel close":               "it is written manage-channel",
		"manage-channel shut 1":              "it is written manage-channel",
		"manage-channel close 20":            "a number from 0 to 19",
		"update-binary 0":                    "it is written update-binary",
		"update-binary 0 $A":                 "variable A is not set",
		"set A \"\"\nupdate-binary 0 $A":     "there are no bytes",
	} {
		h := &host{}
		_, err := play(t, h, first+text)
		clienttest.WantError(t, text, err, exit.BadUsage, words)
		if !strings.Contains(fmt.Sprint(err), "nothing was sent") || len(h.did) > 0 {
			t.Errorf("%q: %v, did %q", text, err, h.did)
		}
		for _, bad := range []string{"31323334", "313", "hunter"} {
			if strings.Contains(fmt.Sprint(err), bad) {
				t.Errorf("%q: %v", text, err)
			}
		}
	}
	_, err := Parse("x.apdu", strings.NewReader("00A40000\n"+strings.Repeat("00", maxLine)))
	if err == nil || !strings.Contains(err.Error(), "x.apdu:2: ") {
		t.Errorf("an endless line: %v", err)
	}
	_, err = Parse("x.apdu", strings.NewReader(strings.Repeat("00\\\n", maxLine)))
	if err == nil {
		t.Error("a line that is continued without end")
	}
}

// "= PATTERN": two bytes are SW1 SW2 alone, anything else the whole answer.
func TestExpected(t *testing.T) {
	for _, x := range []struct {
		line, answer string
		ok           bool
	}{
		{"00B00000 = 9000", "9000", true}, {"00B00000 = 9000", "CAFE9000", true}, {"00B00000 = 90 00", "6A82", false},
		{"00B00000=9000", "9000", true}, {"00B00000 = 9000", "9001", false}, {"00B00000 = 9000", "90009100", false},
		{"00B00000 = 61xx", "6105", true}, {"00B00000 = 61XX", "6C05", false}, {"00B00000 = 61..", "6105", true},
		{"00B00000 = 63Cx", "63C7", true}, {"00B00000 = 63Cx", "63D7", false}, {"00B00000 = x000", "9000", true},
		{"00B00000 = 9000 | 6A82", "6A82", true}, {"00B00000 = 9000|6A82", "9000", true}, {"00B00000 = 9000 | 6A82", "6A83", false},
		{"00B00000 = CAFE 9000", "CAFE9000", true}, {"00B00000 = CAFE 9000", "9000", false}, {"00B00000 = CAFE 9000", "CAFE009000", false},
		{"00B00000 = CA .. 9000", "CAFE9000", true}, {"00B00000 = CA .. 9000", "CA9000", false},
		{"00B00000 = CA * 9000", "CA9000", true}, {"00B00000 = CA * 9000", "CA0102039000", true}, {"00B00000 = CA * 9000", "CB9000", false},
		{"00B00000 = * FE * 9000", "CAFE9000", true}, {"00B00000 = * FE * 9000", "FE9000", true}, {"00B00000 = * FE * 9000", "CA9000", false},
		{"00B00000 = *", "1234", true}, {"00B00000 = * 90 00", "9000", true}, {"00B00000 = * 90 00", "90009001", false},
		{"00B00000 = 90*00", "90010200", true}, {"00B00000 = 9000*", "90000000", true}, {"00B00000 = ** 9000", "009000", true},
		{"00B00000 = 6F .. 84 ** 9000", "6F0584019000", true},
		{"00B00000 = * 01 02 * 9000", "0101029000", true}, // goes back
		{"set A CAFE\n00B00000 = $A 9000", "CAFE9000", true}, {"set A CAFE\n00B00000 = $A 9000", "CAFF9000", false},
		{"set A 9000\n00B00000 = $A", "9000", true}, {"set A 9000\n00B00000 = $A", "CAFE9000", false},
		{"set A 9000\n00B00000 = * ${A}", "CAFE9000", true},
		{"read-binary = 9000", "9000", true}, {"read-binary =9000", "9000", true}, {"read-binary 0 =9000", "6A82", false}, {"read-binary 0 2 = CAFE 9000", "CAFE9000", true}, {"read-binary = 6A82", "9000", false},
	} {
		_, err := play(t, &host{answers: []string{x.answer}}, x.line)
		if (err == nil) != x.ok || err != nil && clienttest.Code(err) != exit.Refused {
			t.Errorf("%q, %s: %v", x.line, x.answer, err)
		}
	}
}

// Where an answer differs the script ends: FILE:LINE, what was expected and what came, of a
// secret command's answer SW1 SW2 alone.
func TestDiffers(t *testing.T) {
	for _, x := range []struct{ text, answers, want string }{
		{"\n00B00000 = 9000", "6A82", "x.apdu:2: expected 9000, got 6A 82 (file or application not found)"},
		{"00B00000 = 9000 |  6Cxx", "CAFE 6282", "x.apdu:1: expected 9000 | 6Cxx, got CA FE 62 82"},
		{"00B00000 = CA * 9000 # not so", "CBFE 9000", "x.apdu:1: expected CA * 9000, got CB FE 90 00"},
		{"00200001 = 9000", "63C2", "x.apdu:1: expected 9000, got 63 C2"},
		{"002A8086 (31) = 9000", "3132 6A82", "x.apdu:1: expected 9000, got [masked] 6A 82"},
		{"002A8086 (31) = 31 9000", "3132 9000", "x.apdu:1: expected [masked], got [masked] 90 00"},
		{"002A8086 (31)\n00C0000001 = 31 9000", "6101 329000", "x.apdu:2: expected [masked], got [masked] 90 00"},
	} {
		h := &host{answers: strings.Fields(strings.ReplaceAll(x.answers, " ", " "))}
		if !strings.HasPrefix(x.answers, "6101") {
			h.answers = []string{x.answers}
		}
		got, err := play(t, h, x.text+"\n\n00FF0000")
		clienttest.WantError(t, x.text, err, exit.Refused, x.want)
		if err != nil && err.Error() != x.want || strings.Contains(got, "00FF0000") {
			t.Errorf("%q: %v, did %q", x.text, err, got)
		}
	}
}

// After a reset GET RESPONSE fetches nothing of a secret command before it.
func TestResetForgets(t *testing.T) {
	for verb, want := range map[string]string{"reset": "got 32 90 00", "cold": "got 32 90 00", "lock": "got [masked] 90 00"} {
		_, err := play(t, &host{answers: []string{"6101", "329000"}}, "002A8086 (31)\n"+verb+"\n00C0000001 = 31 9000")
		clienttest.WantError(t, verb, err, exit.Refused, want)
	}
}

// "-> NAME" keeps the data of an answer for later lines; of a secret answer it is secret.
func TestCapture(t *testing.T) {
	h := &host{answers: []string{"0102 9000", "9000", "0304 9000"}}
	got, err := play(t, h, "get-challenge 2 = * 9000 -> C\n00D60000 ($C)\n002A8086 (01) -> D\necho $C $D\n00D60000 02 $D")
	want := "0084000002\n00D60000020102\n002A80860101\nsay 01 02 [masked]\n00D60000020304 secret"
	if err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	// Nothing is known of it before: its length neither.
	_, err = play(t, &host{answers: []string{"01020304 9000"}}, "00840000 -> C\n00D60000 02 $C")
	clienttest.WantError(t, "too long", err, exit.BadUsage, "x.apdu:2: malformed command: Lc says 2 data bytes, 4 follow, and 2 cannot be an Le of 1; it was not sent")
	_, err = play(t, &host{answers: []string{"9000"}}, "00840000 -> C\n00D60000 ($C)")
	clienttest.WantError(t, "empty", err, exit.BadUsage, "x.apdu:2: a command has no Lc where it has no data; it was not sent")
}

// What a user types is asked for when its line's turn comes, and is secret.
func TestTyped(t *testing.T) {
	for _, x := range []struct{ text, typed, want string }{
		{"verify 1", "1234", "ask PIN 1\n002000010431323334 secret"},
		{"verify 0x81 fill=FFFFFFFFFFFFFFFF", "1234", "ask PIN 129\n002000810831323334FFFFFFFF secret"},
		{"verify 1 fill=0000", "12", "ask PIN 1\n00200001023132 secret"},
		{"change-pin 1", "12 34 34", "ask old PIN 1\nask new PIN 1\nask again, new PIN 1\n002400010431323334 secret"},
		{"change-pin 1 fill=FFFFFF", "12 34 34", "ask old PIN 1\nask new PIN 1\nask again, new PIN 1\n00240001063132FF3334FF secret"},
		{"unblock-pin 1", "99 34 34", "ask PUK for PIN 1\nask new PIN 1\nask again, new PIN 1\n002C00010439393334 secret"},
		{"prompt P\n00A40000 ($P)\necho $P", "12", "ask P\n00A40000023132 secret\nsay [masked]"},
		{"prompt P fill=FFFFFF\n00200001 ($P)", "12", "ask P\n00200001033132FF secret"},
		{"prompt P fill=00000000()\n00D60000 ($P)", "1", "ask P\n00D60000053100000000 secret"},
		{"prompt P\nset Q 00 $P\n00200001 ($Q)", "12", "ask P\n0020000103003132 secret"},
		{"prompt P\nselect $P", "12", "ask P\n00A4000002313200 secret"},
	} {
		h := &host{typed: strings.Fields(x.typed)}
		if got, err := play(t, h, x.text); err != nil || got != x.want {
			t.Errorf("%q: %q, %v", x.text, got, err)
		}
	}
	for _, x := range []struct{ text, typed, words string }{
		{"verify 1", "", "nothing was typed; nothing was sent"},
		{"change-pin 1", "12 34 35", "it is not the same; nothing was sent"},
		{"verify 1 fill=FF", "12", "too long; nothing was sent"},
		{"prompt P\n00200001 03 $P", "12", "with what is secret in it it is no command; it was not sent"},
	} {
		h := &host{typed: strings.Fields(x.typed)}
		got, err := play(t, h, x.text)
		clienttest.WantError(t, x.text, err, exit.BadUsage, x.words)
		if strings.Contains(got, "0020") || strings.Contains(got, "0024") {
			t.Errorf("%q: did %q", x.text, got)
		}
	}
}

// An error of the host ends the script, with its exit code, and no command is sent again.
func TestHostError(t *testing.T) {
	for _, text := range []string{"00A40000 = *", "reset", "cold", "lock", "unlock", "echo", "verify 1", "prompt P"} {
		h := &host{err: exit.Status{Code: exit.None, Err: errors.New("no card")}}
		got, err := play(t, h, text+"\n00B00000")
		clienttest.WantError(t, text, err, exit.None, "x.apdu:1: no card")
		if strings.Count(got, "\n") > 0 || strings.Contains(got, "00B0") {
			t.Errorf("%q: did %q", text, got)
		}
	}
}

// OK refuses any status but 9000 and 61xx, unless the line expects something else.
func TestOK(t *testing.T) {
	for _, x := range []struct {
		line, answer string
		code         int
	}{
		{"00B00000", "6A82", exit.Refused}, {"00B00000", "9000", 0}, {"00B00000", "6105", 0}, {"00B00000", "9001", exit.Refused},
		{"00B00000", "61006282", exit.Refused}, {"00B00000 = 6A82", "6A82", 0}, {"00B00000 = 9000", "6105", exit.Refused},
	} {
		s := &Session{Host: &host{t: t, answers: []string{x.answer}}, OK: true}
		if err := s.Do(x.line); clienttest.Code(err) != x.code {
			t.Errorf("%s, %s: %v", x.line, x.answer, err)
		}
	}
}

// A line may go into a history if it is in order and holds no secret.
func TestKeep(t *testing.T) {
	s := &Session{Host: &host{t: t, typed: []string{"1234"}}}
	if err := s.Do("set AID A000000004"); err != nil {
		t.Fatal(err)
	}
	if err := s.Do("prompt PIN"); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]bool{
		"00A4000C023F00": true, "select piv": true, "verify 1": true, "change-pin 1 fill=FF": true, "tries 1": true, "00 20 00 01": true,
		"select $AID": true, "reset": true, "echo x": true, "lock": true, "00B00000 = 9000 -> X": true, "00 84 00 00 08": true,
		"00200001 04 31323334": false, "0020000104 \"1234\"": false, "A0200001 (31)": false, "00240001 (3132)": false,
		"external-authenticate 31": false, "put-data 5F50 31": false, "80D80000 (31)": false, "002A8086 (31)": false,
		"set PIN 31323334": false, "prompt PIN": false, "00200001 ($PIN)": false,
		"verify 1 1234": false, "1234": false, "31323334": false, "3132333435": false, "0084000008": false, // digits alone
		"abcd1234": false, "ABCDEF0123456789": false, "00a40000": true, "80CA9F7F00": true, "ab cd 12 34": true, "AB000000 (31)": true, "ab000000000000000000": false, "AB0000000400000000": true,
		"hunter2": false, "": false, "# 1234": false, "select nosuch": false, "select $X": false, "00A40000 = 1": false,
	} {
		if got := s.Keep(line); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}

// Do says what is wrong with a line, and sends nothing.
func TestDo(t *testing.T) {
	h := &host{t: t}
	s := &Session{Host: h}
	for line, words := range map[string]string{
		"00A4": "at least 4 bytes", "selct x": "did you mean select?", "set A": "nothing to set", "echo $A": "not set", "set A $B": "not set",
		"prompt A fill=$B": "not set", "00A40000 = $B": "not set", "select $B": "not set",
	} {
		clienttest.WantError(t, line, s.Do(line), exit.BadUsage, words)
	}
	if err := s.Do(" # nothing"); err != nil || len(h.did) > 0 {
		t.Errorf("%v, did %q", err, h.did)
	}
}

// No input causes a panic, and a valid line is a command.
func FuzzLine(f *testing.F) {
	for _, line := range []string{
		"00A40400 (A000000004) 00 = 9000 | 61xx -> X", "set A (5C (5FC105))", `00D60000 ("x# ${A}")`, "select 3F00/5000", "verify 1 fill=FF",
		"read-binary 0x10 3 sfi=2 cla=80", "echo $A ${A}", "prompt P fill=00", "get-data $A", "= *", "00 a4 00 00 = ..xx * $A",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		h := &host{t: t, typed: []string{"1234", "1234", "1234"}}
		s := &Session{Host: h}
		s.Do("set A 5C")
		keep := s.Keep(line)
		err := s.Do(line)
		if keep && err != nil && clienttest.Code(err) == exit.BadUsage && !strings.Contains(err.Error(), "not set") && !strings.Contains(err.Error(), "}") &&
			!strings.Contains(err.Error(), "name") && !strings.Contains(err.Error(), "typed") && !strings.Contains(err.Error(), "same") {
			t.Errorf("%q is kept: %v", line, err)
		}
		sc, err := Parse("x", strings.NewReader(line))
		if err != nil && clienttest.Code(err) != exit.BadUsage && !strings.Contains(err.Error(), "token too long") {
			t.Errorf("%q: %v", line, err)
		}
		if err == nil {
			sc.Run(&Session{Host: &host{t: t, typed: []string{"1", "1", "1"}}})
		}
	})
}
