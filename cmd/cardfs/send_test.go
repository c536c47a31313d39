package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/cardfs/cardfs/cmd/cardfs/internal/clienttest"
	"github.com/cardfs/cardfs/cmd/cardfs/internal/exit"
)

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
		{false, "", 1}, {true, "", 1}, // end of file in place of an answer
		{true, "90", 1}, // cut off
	} {
		c := tree(t, map[string]string{"ctl": "", "0/status": "state powered\n", "0/apdu": ""})
		file, err := os.OpenFile(c.Path("0/apdu"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		var out bytes.Buffer
		s := &sender{slot: c.Slot(0), file: file, in: reader1(x.answer), out: &out, ok: x.ok}
		err = s.send(" 00a4 00 # 3132")
		if clienttest.Code(err) != x.code {
			t.Errorf("%q, --ok %v: %v, exit code %d, want %d", x.answer, x.ok, err, clienttest.Code(err), x.code)
		}
		if want := x.answer; x.code != 1 && out.String() != want {
			t.Errorf("%q: printed %q", want, &out)
		}
		sent, _ := os.ReadFile(c.Path("0/apdu"))
		if string(sent) != "00a4 00\n" {
			t.Errorf("sent %q", sent)
		}
		s.out, s.in = full{}, reader1("90 00\n")
		if err := s.send("00a4"); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("a full disk: %v", err)
		}
	}
}

// All commands are checked before the first is sent, an error shows no data, and
// standard input is read once.
func TestCheckCommands(t *testing.T) {
	for _, x := range []struct {
		args  []string
		words string // "": in order
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

// A line is sent when the one before was answered; one that is no command is not
// sent, and no byte of it is shown.
func TestSendLines(t *testing.T) {
	for _, x := range []struct {
		in, sent string
		code     int
	}{
		{"00A40000\n\n# no\n 00 b0 00 00 # yes\n", "00A40000\n00 b0 00 00\n", 0},
		{"00A40000", "00A40000\n", 0}, // the last line needs no newline
		{"", "", 0},
		{"00A40000\n00200001 04 313233\n00B00000\n", "00A40000\n", 2},
		{"00A40000\nxyz\n", "00A40000\n", 2},
	} {
		c := tree(t, map[string]string{"ctl": "", "0/apdu": ""})
		file, err := os.OpenFile(c.Path("0/apdu"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		s := &sender{slot: c.Slot(0), file: file, in: reader1(strings.Repeat("90 00\n", 9)), out: io.Discard}
		err = s.sendLines(strings.NewReader(x.in))
		if clienttest.Code(err) != x.code || strings.Contains(fmt.Sprint(err), "3132") {
			t.Errorf("%q: %v", x.in, err)
		}
		if sent, _ := os.ReadFile(c.Path("0/apdu")); string(sent) != x.sent {
			t.Errorf("%q: sent %q, want %q", x.in, sent, x.sent)
		}
		s.in = reader1("6A 82\n90 00\n")
		s.ok = true
		clienttest.WantError(t, "refused", s.sendLines(strings.NewReader("00A40000\n00A40000\n")), exit.Refused, "the card answered 6A 82")
		if err := s.sendLines(failing{}); !errors.Is(err, syscall.EIO) {
			t.Errorf("an input that fails: %v", err)
		}
	}
}
