package iso7816

import (
	"bufio"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const atrList = "/usr/share/pcsc/smartcard_list.txt"

// TestATRList parses every ATR of the list that pcsc-tools ships, thousands of
// real cards: each is taken apart and, if the standard has nothing against it, fits
// together again. (The list is typed in by users, and some of it was cut off or has
// a status word behind.)
func TestATRList(t *testing.T) {
	f, err := os.Open(atrList)
	if err != nil {
		t.Fatalf("%v\nThis test needs the list of Debian's pcsc-tools: apt-get install pcsc-tools", err)
	}
	defer f.Close()

	var entries, plain, skipped, tried int
	var broken, brokenPlain, reserved int // ATRs
	reasons := map[ATRReason]int{}
	start := regexp.MustCompile(`^[0-9A-F.\[]`)
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		l := strings.TrimRight(sc.Text(), " \t\r")
		if !start.MatchString(l) {
			continue // a description, a comment, an empty line
		}
		entries++
		isPlain := !strings.ContainsAny(l, ".[")
		if isPlain {
			plain++
		}
		atrs := expandATR(l)
		if atrs == nil {
			skipped++
			t.Logf("skipped: %s", l)
		}
		for _, b := range atrs {
			tried++
			a, err := ParseATR(b)
			if err != nil {
				t.Errorf("% X: %v", b, err)
				continue
			}
			if err := checkATR(a); err != nil {
				t.Errorf("% X: %v", b, err)
			}
			structural := false
			for _, d := range a.Defects() {
				reasons[d.Reason]++
				structural = structural || d.Reason != ATRReserved && d.Reason != ATRSpareTCK
			}
			switch {
			case structural && isPlain:
				brokenPlain++
				fallthrough
			case structural:
				broken++
			case a.Defects() != nil:
				reserved++
			}
		}
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d entries, of them %d without wildcards and %d skipped; %d ATRs; %d break the standard's form, %d of them without wildcards; %d more have reserved values",
		entries, plain, skipped, tried, broken, brokenPlain, reserved)
	for r, n := range reasons {
		t.Logf("%d times: %s", n, r)
	}
	if entries < 3000 {
		t.Errorf("%d entries; the list of pcsc-tools 1.6 has more than 4000", entries)
	}
	if brokenPlain*100 > plain*3 {
		t.Errorf("%d of %d seem to be broken", brokenPlain, plain)
	}
}

// expandATR turns an entry of the list into ATRs; nil if it leaves open what
// the bytes mean. An entry is a regular expression of hex digits, "." and "[…]".
// Each alternative of a […] is tried. A "." becomes 1; where the ATR needs a
// TCK, the last byte that is all open is set so that the TCK is right.
func expandATR(entry string) [][]byte {
	var digits []string // the choices for each hex digit
	s := strings.ReplaceAll(entry, " ", "")
	for len(s) > 0 {
		switch c := s[0]; {
		case c == '.':
			digits = append(digits, "")
		case c == '[':
			end := strings.IndexByte(s, ']')
			if end < 0 {
				return nil
			}
			choice := strings.ReplaceAll(s[1:end], ",", "")
			if len(choice) == 3 && choice[1] == '-' {
				var all string
				for d := choice[0]; d <= choice[2]; d++ {
					all += string(rune(d))
				}
				choice = all
			}
			digits = append(digits, choice)
			s = s[end:]
		case strings.IndexByte("0123456789ABCDEF", c) >= 0:
			digits = append(digits, string(c))
		default:
			return nil
		}
		s = s[1:]
	}
	if len(digits) < 4 || len(digits)%2 != 0 {
		return nil
	}
	texts := []string{""}
	for _, d := range digits {
		if d == "" {
			d = "1"
		}
		var next []string
		for _, t := range texts {
			for _, c := range d {
				next = append(next, t+string(c))
			}
		}
		texts = next
	}

	open := func(i int) bool { return digits[2*i] == "" || digits[2*i+1] == "" }
	var out [][]byte
	for _, text := range texts {
		b := make([]byte, len(text)/2)
		for i := range b {
			v, err := strconv.ParseUint(text[2*i:2*i+2], 16, 8)
			if err != nil {
				return nil
			}
			b[i] = byte(v)
		}
		// Where the structure itself is open, there is nothing to test.
		if open(0) || open(1) {
			return nil
		}
		i, has, tck := 2, b[1]>>4, false
		for {
			n := 0
			for h := has; h != 0; h &= h - 1 {
				n++
			}
			i += n
			if has&HasTD == 0 || i > len(b) {
				break
			}
			if open(i - 1) {
				return nil
			}
			has = b[i-1] >> 4
			tck = tck || b[i-1]&0x0F != 0
		}
		if tck {
			for k := len(b) - 1; k >= i; k-- {
				if digits[2*k] == "" && digits[2*k+1] == "" {
					b[k] ^= LRC(b[1:])
					break
				}
			}
		}
		out = append(out, b)
	}
	return out
}
