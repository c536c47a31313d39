package sim

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader/icc"
)

// play plays C-APDUs: "> command", then "< answer". "reset" is a reset.
// An answer may end in "…" where only its beginning matters.
func play(t *testing.T, c icc.Card, lines string) {
	t.Helper()
	var rx string
	for _, line := range strings.Split(lines, "\n") {
		text, _, _ := strings.Cut(line, ";")
		text = strings.TrimSpace(text)
		switch {
		case text == "":
		case text == "reset":
			c.Reset(true)
		case text[0] == '>':
			rx = fmt.Sprintf("% X", c.Process(unhex(text[1:])))
		default:
			want := strings.TrimSpace(text[1:])
			begin, cut := strings.CutSuffix(want, "…")
			if cut && !strings.HasPrefix(rx, strings.TrimSpace(begin)) || !cut && rx != want {
				t.Errorf("%s\n     got %s", strings.TrimSpace(line), rx)
			}
		}
	}
}

// The commands of ISO/IEC 7816-4:2013 on the files of the package comment.
func TestCard(t *testing.T) {
	for _, x := range []struct{ name, session string }{
		{"SELECT by FID: without Le no answer, whatever P2", `
			> 00 A4 00 00 02 3F 00
			< 90 00
			> 00 A4 00 0C 02 3F 00
			< 90 00
			> 00 A4 00 0C 02 3F 00 00
			< 90 00
			> 00 A4 00 00
			< 90 00
			> 00 A4 00 0C 02 50 04          ; below 5000
			< 6A 82
			> 00 A4 00 0C 02 50 00
			< 90 00
			> 00 A4 00 0C 02 50 04
			< 90 00`},
		{"SELECT: FCI, FCP, FMD", `
			> 00 A4 00 00 02 3F 00 00
			< 6F 0A 82 01 38 83 02 3F 00 8A 01 05 90 00
			> 00 A4 00 04 02 10 01 00
			< 62 11 80 02 00 80 82 01 01 83 02 10 01 88 01 08 8A 01 05 90 00
			> 00 A4 00 04 02 2F 00 00
			< 62 15 80 02 00 C0 82 05 02 21 00 30 04 83 02 2F 00 88 01 F0 8A 01 05 90 00
			> 00 A4 04 08 08 F0 63 61 72 64 66 73 01 00
			< 64 0A 84 08 F0 63 61 72 64 66 73 01 90 00
			> 00 A4 00 04 02 50 03 00
			< 62 15 80 02 00 28 82 05 06 21 00 08 05 83 02 50 03 88 01 18 8A 01 05 90 00`},
		{"SELECT: AID, cut short, next occurrence", `
			> 00 A4 04 0C 08 F0 63 61 72 64 66 73 01
			< 90 00
			> 00 A4 04 00 03 F0 63 61 00
			< 6F 14 …
			> 00 A4 04 02 03 F0 63 61 00    ; there is no next one
			< 6A 82
			> 00 A4 04 0C 03 A0 00 00
			< 6A 82
			> 00 A4 04 0C
			< 6A 87`},
		{"SELECT: path, parent, child", `
			> 00 A4 08 0C 04 50 00 50 02
			< 90 00
			> 00 A4 09 0C 02 50 03          ; from the current DF
			< 90 00
			> 00 A4 03 0C
			< 90 00
			> 00 A4 03 0C                   ; the MF has none
			< 6A 82
			> 00 A4 01 0C 02 50 00
			< 90 00
			> 00 A4 02 0C 02 50 01
			< 90 00
			> 00 A4 02 0C 02 10 01
			< 6A 82
			> 00 A4 01 0C 02 50 01          ; no DF
			< 6A 82
			> 00 A4 08 0C 03 50 00 50
			< 6A 87`},
		{"SELECT: wrong parameters", `
			> 00 A4 05 00 02 3F 00
			< 6A 86
			> 00 A4 00 01 02 3F 00
			< 6A 86
			> 00 A4 00 40 02 3F 00
			< 6A 86
			> 00 A4 00 00 01 3F
			< 6A 87`},
		{"READ BINARY", `
			> 00 B0 00 00 00                ; no current EF
			< 69 86
			> 00 B0 82 00 02                ; short EF identifier, which selects
			< 5A 0A 90 00
			> 00 B0 00 01 01
			< 0A 90 00
			> 00 B0 00 0B 00
			< …
			> 00 B0 00 0C 01                ; offset outside
			< 6B 00
			> 00 B0 00 0A 04                ; end of file before Le bytes
			< …
			> 00 B0 C2 00 00                ; bits 7 and 6 of P1
			< 6A 86
			> 00 B0 83 00 00                ; no such EF
			< 6A 82
			> 00 B0 9E 00 00                ; records
			< 69 81
			> 00 B0 00 00
			< 67 00
			> 00 B0 00 00 01 AA 00
			< 67 00`},
		{"UPDATE BINARY, all or nothing", `
			> 00 D6 81 00 03 01 02 03
			< 90 00
			> 00 D6 00 7E 02 AA BB
			< 90 00
			> 00 D6 00 7F 02 AA BB
			< 6A 84
			> 00 D6 00 80 01 AA
			< 6B 00
			> 00 B0 00 7E 02
			< AA BB 90 00
			> 00 B0 81 00 04
			< 01 02 03 00 90 00
			> 00 D6 82 00 01 00             ; never
			< 69 82
			> 00 D6 00 00
			< 67 00`},
		{"extended length", `
			> 00 A4 04 0C 00 00 08 F0 63 61 72 64 66 73 01
			< 90 00
			> 00 B0 85 00 00 00 05
			< 00 01 02 03 04 90 00
			> 00 A4 04 0C 00 00 08 F0 63 61 72 64 66 73 01 00
			< 67 00
			> 00 A4 00 00 00 00 00 00
			< 67 00`},
		{"access conditions", `
			> 00 A4 08 0C 04 50 00 50 04
			< 90 00
			> 00 B0 00 00 03
			< 69 82
			> 00 20 00 01 04 31 32 33 34
			< 90 00
			> 00 B0 00 00 03
			< 74 68 65 90 00
			> 00 D6 00 00 01 54
			< 69 82
			> 00 20 00 81 04 35 36 37 38
			< 90 00
			> 00 D6 00 00 01 54
			< 90 00
			> 00 B0 00 00 03
			< 54 68 65 90 00
			reset
			> 00 A4 08 0C 04 50 00 50 04
			< 90 00
			> 00 B0 00 00 03
			< 69 82`},
		{"READ RECORD", `
			> 00 B2 01 F4 04
			< 6C 30
			> 00 B2 01 F4 30
			< 61 16 4F 08 F0 63 61 72 64 66 73 01 50 0A 63 61 72 64 66 73 20 73 69 6D FF FF …
			> 00 B2 02 F4 00
			< 6A 83
			> 00 A4 08 0C 04 50 00 50 02
			< 90 00
			> 00 B2 00 02 00                ; next: the first
			< 52 65 63 6F 72 64 20 6F 6E 65 00 00 00 00 00 00 90 00
			> 00 B2 00 02 00
			< 52 65 63 6F 72 64 20 74 77 6F 00 00 00 00 00 00 90 00
			> 00 B2 00 04 00                ; number 0: the current one
			< 52 65 63 6F 72 64 20 74 77 6F 00 00 00 00 00 00 90 00
			> 00 B2 00 01 00                ; last
			< 52 65 63 6F 72 64 20 66 6F 75 72 00 00 00 00 00 90 00
			> 00 B2 00 02 00
			< 6A 83
			> 00 B2 00 03 00                ; previous
			< 52 65 63 6F 72 64 20 74 68 72 65 65 00 00 00 00 90 00
			> 00 B2 03 05 00                ; from 3 to the last
			< 52 65 63 6F 72 64 20 74 68 72 65 65 00 00 00 00 52 65 63 6F 72 64 20 66 6F 75 72 00 00 00 00 00 90 00
			> 00 B2 04 06 00                ; from the last to 4
			< 52 65 63 6F 72 64 20 66 6F 75 72 00 00 00 00 00 90 00
			> 00 B2 01 07 00
			< 6A 86
			> 00 B2 01 02 00                ; there are no identifiers
			< 6A 86
			> 00 B2 01 0C 00                ; SFI 1 is transparent
			< 69 81
			> 00 B2 01 FC 00                ; SFI 31
			< 6A 86`},
		{"UPDATE and APPEND RECORD, linear", `
			> 00 A4 08 0C 04 50 00 50 02
			< 90 00
			> 00 DC 01 04 10 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F
			< 69 82
			> 00 20 00 01 04 31 32 33 34
			< 90 00
			> 00 DC 01 04 10 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F
			< 90 00
			> 00 B2 01 04 10
			< 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 90 00
			> 00 DC 01 04 01 00
			< 67 00
			> 00 DC 05 04 10 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F
			< 6A 83
			> 00 E2 00 00 10 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F
			< 90 00
			> 00 E2 00 00 10 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F
			< 90 00
			> 00 E2 00 00 10 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F
			< 90 00
			> 00 E2 00 10 10 08 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F
			< 90 00
			> 00 B2 08 04 01
			< 6C 10
			> 00 E2 00 00 10 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F ; 8 are in use
			< 6A 84
			> 00 E2 01 00 10 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F
			< 6A 86`},
		{"cyclic: record 1 is the newest", `
			> 00 A4 08 0C 04 50 00 50 03
			< 90 00
			> 00 B2 01 04 00
			< 6E 65 77 65 73 74 00 00 90 00
			> 00 E2 00 00 08 30 31 32 33 34 35 36 37
			< 90 00
			> 00 B2 01 04 00
			< 30 31 32 33 34 35 36 37 90 00
			> 00 B2 04 04 00
			< 6F 6C 64 65 73 74 00 00 90 00
			> 00 DC 00 03 08 41 41 41 41 41 41 41 41 ; previous: the oldest goes
			< 90 00
			> 00 B2 01 04 00
			< 41 41 41 41 41 41 41 41 90 00
			> 00 B2 04 04 00
			< 6F 6C 64 65 72 00 00 00 90 00
			> 00 E2 00 18 08 42 42 42 42 42 42 42 42
			< 90 00
			> 00 E2 00 18 08 43 43 43 43 43 43 43 43
			< 90 00
			> 00 B2 05 04 00
			< 6E 65 77 65 73 74 00 00 90 00
			> 00 B2 06 04 00
			< 6A 83`},
		{"VERIFY and its tries", `
			> 00 20 00 01
			< 63 C3
			> 00 20 00 01 04 30 30 30 30
			< 63 C2
			> 00 20 00 01 08 31 32 33 34 FF FF FF FF ; filled up
			< 90 00
			> 00 20 00 01                           ; verified
			< 90 00
			> 00 20 FF 01                           ; take it back
			< 90 00
			> 00 20 00 00
			< 63 C3
			> 00 20 00 01 04 30 30 30 30
			< 63 C2
			> 00 20 00 01 04 30 30 30 30
			< 63 C1
			> 00 20 00 01 04 30 30 30 30
			< 63 C0
			> 00 20 00 01 04 31 32 33 34
			< 69 83
			> 00 20 00 01
			< 69 83
			reset
			> 00 20 00 01 04 31 32 33 34            ; a reset does not help
			< 69 83
			> 00 20 00 02 04 31 32 33 34
			< 6A 88
			> 00 20 01 01 04 31 32 33 34
			< 6A 86
			> 00 20 00 81 04 35 36 37 38            ; not in the MF
			< 6A 88`},
		{"VERIFY: a wrong length costs no try", `
			> 00 20 00 01 03 31 32 33
			< 67 00
			> 00 20 00 01 09 31 32 33 34 35 36 37 38 39
			< 67 00
			> 00 20 00 01
			< 63 C3`},
		{"PIN 2 ends with the DF", `
			> 00 A4 04 0C 03 F0 63 61
			< 90 00
			> 00 20 00 81 04 35 36 37 38
			< 90 00
			> 00 A4 00 0C 02 3F 00
			< 90 00
			> 00 A4 04 0C 03 F0 63 61
			< 90 00
			> 00 20 00 81
			< 63 C3`},
		{"CHANGE REFERENCE DATA", `
			> 00 24 00 01 0A 31 32 33 34 36 35 34 33 32 31
			< 90 00
			> 00 20 00 01 04 31 32 33 34
			< 63 C2
			> 00 20 00 01 06 36 35 34 33 32 31
			< 90 00
			> 00 24 00 01 10 36 35 34 33 32 31 FF FF 39 39 39 39 FF FF FF FF ; both filled up
			< 90 00
			> 00 24 00 01 08 30 30 30 30 31 31 31 31
			< 63 C2
			> 00 24 00 01 07 39 39 39 39 31 31 31
			< 67 00
			> 00 24 00 01 10 39 39 39 39 FF FF FF FF FF FF FF FF FF FF FF FF
			< 6A 80
			> 00 24 01 01 04 31 31 31 31 ; the wrong one took the verification away
			< 69 82
			> 00 20 00 01 04 39 39 39 39
			< 90 00
			> 00 24 01 01 04 31 32 33 34
			< 90 00
			> 00 24 02 01 04 31 32 33 34
			< 6A 86
			> 00 20 00 01 04 31 32 33 34
			< 90 00`},
		{"RESET RETRY COUNTER", `
			> 00 20 00 01 04 30 30 30 30
			< 63 C2
			> 00 20 00 01 04 30 30 30 30
			< 63 C1
			> 00 20 00 01 04 30 30 30 30
			< 63 C0
			> 00 24 00 01 08 31 32 33 34 31 31 31 31
			< 69 83
			> 00 2C 00 01 0C 31 32 33 34 35 36 37 39 31 31 31 31
			< 63 C9
			> 00 2C 00 01 0C 31 32 33 34 35 36 37 38 31 31 31 31
			< 90 00
			> 00 20 00 01 04 31 31 31 31
			< 90 00
			> 00 2C 01 01 08 31 32 33 34 35 36 37 38
			< 90 00
			> 00 2C 02 01 04 31 31 31 31
			< 6A 86
			> 00 2C 00 01 08 31 32 33 34 35 36 37 38
			< 67 00
			> 00 2C 00 02 08 31 32 33 34 35 36 37 38
			< 6A 88`},
		{"GET CHALLENGE, GET DATA", `
			> 00 84 00 00
			< 67 00
			> 00 84 01 00 08
			< 6A 86
			> 00 CA 00 5A 00
			< 89 49 …
			> 00 CA 5F 52 00
			< 53 50 4B 32 33 90 00 90 00
			> 00 CA 5F 52 02
			< 6C 07
			> 00 CA 01 01 00
			< 00 00 00 06 90 00
			> 00 CA 99 99 00
			< 6A 88`},
		{"class and instruction", `
			> 00 44 00 00
			< 6D 00
			> 00 C0 00 00 00                ; T=1 has no GET RESPONSE
			< 6D 00
			> A0 A4 00 00 02 3F 00
			< 6E 00
			> 20 A4 00 00 02 3F 00
			< 6E 00
			> 01 A4 00 00 02 3F 00          ; logical channel 1
			< 68 81
			> 40 A4 00 00 02 3F 00
			< 68 81
			> 04 A4 00 00 02 3F 00
			< 68 82
			> 10 A4 00 00 02 3F 00
			< 68 84
			> 80 44 00 00
			< 6D 00
			> 00 A4 00
			< 67 00
			> 00 A4 00 00 02 3F
			< 67 00`},
		{"commands for tests", `
			> 80 EE 00 00 03 01 02 03 00
			< 01 02 03 90 00
			> 80 EE 00 00 03 01 02 03 02
			< 01 02 90 00
			> 80 EE 00 00 03 01 02 03
			< 90 00
			> 80 EE 01 00
			< 6A 86
			> 80 EC 00 03 00
			< 00 01 02 90 00
			> 80 EC 00 00 04
			< 00 01 02 03 90 00
			> 80 E6 6A 82
			< 6A 82
			> 80 E6 60 00
			< 6A 86
			> 80 E6 50 00
			< 6A 86`},
	} {
		t.Run(x.name, func(t *testing.T) {
			play(t, newCard(atrToken, false, "SIM"), x.session)
		})
	}
}

func TestChallengesDiffer(t *testing.T) {
	c := newCard(atrToken, false, "SIM")
	a := bytes.Clone(c.Process(unhex("00 84 00 00 10")))
	b := c.Process(unhex("00 84 00 00 10"))
	if len(a) != 18 || bytes.Equal(a, b) {
		t.Errorf("% X and % X", a, b)
	}
}

// Cards share their content until one writes; it then gets a copy.
func TestCopyOnWrite(t *testing.T) {
	a, b := newCard(atrToken, false, "A"), newCard(atrToken, false, "B")
	play(t, a, "> 00 D6 81 00 02 AA BB\n< 90 00\nreset\n> 00 B0 81 00 02\n< AA BB 90 00")
	play(t, b, "> 00 B0 81 00 02\n< 00 00 90 00")
	if len(a.own) != 1 || len(b.own) != 0 {
		t.Errorf("%d and %d files of their own", len(a.own), len(b.own))
	}
	if x, y := a.iccsn(), b.iccsn(); bytes.Equal(x, y) {
		t.Errorf("both are number % X", x)
	}
}

// Any command gets an answer with SW1 SW2 and no more data than Le allows. The factory
// content does not change.
func FuzzCard(f *testing.F) {
	for _, s := range []string{"00A40000023F0000", "00A4040C03F06361", "00B0850000", "00D681000101", "00B20104FF",
		"00DC000308" + "4141414141414141", "00E2001808" + "4141414141414141", "002000010431323334",
		"0024000108" + "3132333431313131", "002C00010C" + "313233343536373831313131", "80EC0000000000", "0084000008"} {
		f.Add(append([]byte{byte(len(unhex(s)))}, unhex(s)...), false)
	}
	big := bytes.Clone(masterFile().child(0x5000).child(0x5005).data)
	f.Fuzz(func(t *testing.T, in []byte, t0 bool) {
		c := newCard(atrToken, t0, "SIM")
		for len(in) > 0 {
			n := min(int(in[0]), len(in)-1)
			capdu := in[1 : 1+n]
			in = in[1+n:]
			r := c.Process(capdu)
			k, ok := parse(capdu)
			if len(r) < 2 || !t0 && len(r)-2 > k.le || !ok && len(r) != 2 {
				t.Fatalf("% X: %d bytes", capdu, len(r))
			}
		}
		if !bytes.Equal(big, masterFile().child(0x5000).child(0x5005).data) {
			t.Fatal("the factory content changed")
		}
	})
}
