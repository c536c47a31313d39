package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/clienttest"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/hextext"
)

// fakeCard answers with the lines of a text, one after the other.
type fakeCard struct {
	answers *bufio.Reader
	sent    string
}

func (c *fakeCard) Exchange(capdu []byte) ([]byte, error) {
	c.sent += fmt.Sprintf("%X\n", capdu)
	line, err := c.answers.ReadString('\n')
	if err != nil {
		return nil, err
	}
	return hextext.Parse(line)
}

// "With --ok it stops after the first answer that is neither 9000 nor 61xx, and
// exits 4." Without, SW1 SW2 is data.
func TestSendOK(t *testing.T) {
	for _, x := range []struct {
		ok     bool
		answer string
		code   int
	}{
		{true, "90 00\n", 0}, {true, "61 05\n", 0}, {true, "61 00\n", 0}, {true, "AA BB 61 10\n", 0}, {true, "6A 82 90 00\n", 0},
		{true, "90 01\n", 4}, {true, "6A 82\n", 4}, {true, "62 83\n", 4}, {true, "63 C2\n", 4}, {true, "6C 10\n", 4},
		{true, "90 00 6A 82\n", 4}, {true, "61 05 6A 82\n", 4}, {true, "91 00\n", 4}, {true, "60 61\n", 4},
		{false, "6A 82\n", 0}, {false, "90 00\n", 0},
		{false, "", 1}, {true, "", 1},
	} {
		var out bytes.Buffer
		card := &fakeCard{answers: reader1(x.answer)}
		s := &sender{card: card, printer: printer{out: &out}, ok: x.ok}
		err := s.send([]byte{0, 0xA4, 0, 0})
		if clienttest.Code(err) != x.code {
			t.Errorf("%q, --ok %v: %v, exit code %d, want %d", x.answer, x.ok, err, clienttest.Code(err), x.code)
		}
		if want := x.answer; x.code != 1 && out.String() != want {
			t.Errorf("%q: printed %q", want, &out)
		}
		if card.sent != "00A40000\n" {
			t.Errorf("sent %q", card.sent)
		}
		s.out, card.answers = full{}, reader1("90 00\n")
		if err := s.send([]byte{0, 0xA4, 0, 0}); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("a full disk: %v", err)
		}
	}
}

// All commands are checked before the first is sent, an error shows no data, and
// standard input is read once.
func TestCheckCommands(t *testing.T) {
	for _, x := range []struct {
		args  []string
		words string // "": no error
	}{
		{[]string{"00A40000"}, ""},
		{[]string{"-"}, ""},
		{[]string{"-", "00A40000"}, ""},
		{[]string{"00A40000", "-"}, ""},
		{[]string{"-", "-"}, "only once"},
		{[]string{"-", "00A40000", "-"}, "only once"},
		{[]string{"00A40000", "00A4000"}, "command 2, 00A4000: an odd number"},
		{[]string{"00200001 04 313233"}, "command 1, 00200001…: "},
		{[]string{"0020000104313233"}, "command 1, 00200001…: "},
		{[]string{"00", "A4"}, "quote one that has blanks"},
		{[]string{"00"}, "command 1, 00: "},
		{[]string{"00A4000002", "3F00"}, "quote one that has blanks"},
	} {
		err := checkCommands(x.args)
		switch {
		case x.words == "" && err != nil:
			t.Errorf("%q: %v", x.args, err)
		case x.words != "":
			clienttest.WantError(t, strings.Join(x.args, " "), err, exit.BadUsage, x.words)
			if strings.Contains(fmt.Sprint(err), "3132") || len(x.args) == 1 && strings.Contains(fmt.Sprint(err), "quote") {
				t.Errorf("%q: %v", x.args, err)
			}
		}
	}
}

// A line is sent after the one before was answered. A line that is no command is not sent, and
// no byte of it is shown.
func TestSendLines(t *testing.T) {
	for _, x := range []struct {
		in, sent string
		code     int
	}{
		{"00A40000\n\n# no\n 00 b0 00 00 # yes\n", "00A40000\n00B00000\n", 0},
		{"00A40000", "00A40000\n", 0}, // the last line needs no newline
		{"", "", 0},
		{"00A40000\n00200001 04 313233\n00B00000\n", "00A40000\n", 2},
		{"00A40000\nxyz\n", "00A40000\n", 2},
	} {
		card := &fakeCard{answers: reader1(strings.Repeat("90 00\n", 9))}
		s := &sender{card: card, printer: printer{out: io.Discard}}
		err := s.sendLines(strings.NewReader(x.in))
		if clienttest.Code(err) != x.code || strings.Contains(fmt.Sprint(err), "3132") {
			t.Errorf("%q: %v", x.in, err)
		}
		if card.sent != x.sent {
			t.Errorf("%q: sent %q, want %q", x.in, card.sent, x.sent)
		}
		card.answers = reader1("6A 82\n90 00\n")
		s.ok = true
		clienttest.WantError(t, "refused", s.sendLines(strings.NewReader("00A40000\n00A40000\n")), exit.Refused, "the card answered 6A 82")
		if err := s.sendLines(failing{}); !errors.Is(err, syscall.EIO) {
			t.Errorf("an input that fails: %v", err)
		}
	}
}

// With --json each exchange is one line that has every key. Secrets are masked by the rules of
// trace.
func TestSendJSON(t *testing.T) {
	var out bytes.Buffer
	card := &fakeCard{answers: reader1("6F 04 84 02 3C 3E 90 00\n63 C2\nAA BB 90 00\n")}
	s := &sender{card: card, printer: printer{out: &out, json: true}}
	for _, command := range []string{"00A40400 02 3F00 00", "00200001 02 3132", "002A8086 02 5A5A 00"} {
		b, err := hextext.Parse(command)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.send(b); err != nil {
			t.Fatal(err)
		}
	}
	got := regexp.MustCompile(`"time_us":\d+`).ReplaceAllString(out.String(), `"time_us":N`)
	want := `{"command":"00 A4 04 00 02 3F 00 00","name":"SELECT","command_words":"SELECT: by DF name (AID), answer: FCI","data":"6F 04 84 02 3C 3E","sw":"9000","words":"done","tlv":[{"tag":"6F","name":"file control information (FCI)","children":[{"tag":"84","name":"DF name (AID)","value":"3C 3E"}]}],"masked":false,"time_us":N}
{"command":"00 20 00 01 [masked]","name":"VERIFY","command_words":"VERIFY: reference data 1 of the card","data":"","sw":"63C2","words":"wrong; 2 tries left","tlv":[],"masked":true,"time_us":N}
{"command":"00 2A 80 86 [masked]","name":"PERFORM SECURITY OPERATION","command_words":"PERFORM SECURITY OPERATION: DECIPHER","data":"[masked]","sw":"9000","words":"done","tlv":[],"masked":true,"time_us":N}
`
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// With --explain the command is printed before it is sent, because its answer may take long.
func TestSendExplain(t *testing.T) {
	var out bytes.Buffer
	card := &fakeCard{answers: reader1("")}
	s := &sender{card: card, printer: printer{out: &out, words: true}}
	if err := s.send([]byte{0, 0x84, 0, 0, 8}); err == nil {
		t.Fatal("an answer from nowhere")
	}
	const command = "> 00 84 00 00 08\n    GET CHALLENGE\n    CLA 00: interindustry, channel 0\n    Le: up to 8 bytes\n"
	if out.String() != command {
		t.Errorf("%q", &out)
	}
	out.Reset()
	card.answers = reader1("01 02 6A 82\n")
	if err := s.send([]byte{0, 0x84, 0, 0, 8}); err != nil {
		t.Fatal(err)
	}
	if want := command + "< 01 02 6A 82\n    01 02  |..|\n    6A82: file or application not found\n"; out.String() != want {
		t.Errorf("%q\nwant %q", &out, want)
	}
	s.out = full{}
	if err := s.send([]byte{0, 0x84, 0, 0}); !errors.Is(err, syscall.ENOSPC) || strings.Count(card.sent, "\n") != 2 {
		t.Errorf("a full disk: %v, sent %q", err, card.sent)
	}
}
