package ccid

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func TestFramer(t *testing.T) {
	frame := appendFrame(nil, unhex("81 00 00 00 00 00 05 01 00 00"))
	hex := func(b []byte) string { return fmt.Sprintf("% X", b) }
	for _, c := range []struct{ in, want string }{
		{hex(frame), "frame"},
		{"50 02 50 03", "notice 50 02, notice 50 03"},
		{"50 04", "damage 50 04"},
		{"50", "damage 50"},
		{"80 FF", "time, time"},
		{"7F", "damage 7F"},
		{"03 15 16", "refusal"},
		{"03 15 17", "damage 03 15 17"},
		{"03 15", "damage 03 15"},
		{"03", "damage 03"},
		{"03 07", "damage 03 07"},
		{"03 06 60", "damage 03 06 60"},
		{"03 06 85", "damage 03 06 85"},
		{"11 50 02 80 03 15 16 80", "damage 11 50 02 80, refusal, time"},
		{"03 " + hex(frame), "damage 03, frame"},
		{hex(frame[:9]) + " " + hex(frame), "damage " + hex(frame[:9]) + ", frame"},
		{"03 06 80 06 01 00 00", "damage 03 06 80 06 01 00 00"}, // longer than a message may be
		{hex(frame) + " 50 03 " + hex(frame), "frame, notice 50 03, frame"},
	} {
		for _, piece := range []int{1, 3, 100} {
			f := framer{most: serialMost}
			var got []string
			take := func(quiet bool) {
				for {
					it, ok := f.next(quiet)
					if !ok {
						return
					}
					got = append(got, strings.TrimSpace([]string{"frame", "refusal", "notice", "time", "damage"}[it.kind]+
						map[bool]string{true: " " + hex(it.data)}[it.kind == itemNotice || it.kind == itemDamage]))
				}
			}
			for in := unhex(c.in); len(in) > 0; {
				n := min(piece, len(in))
				f.add(in[:n])
				in = in[n:]
				take(false)
			}
			if pending := f.pending(); pending {
				take(true)
			}
			if strings.Join(got, ", ") != c.want || f.pending() {
				t.Errorf("%s by %d: %s, want %s", c.in, piece, strings.Join(got, ", "), c.want)
			}
		}
	}
}

// The longest message passes, and a longer one is damage at once: nothing waits for its end.
func TestFramerLimits(t *testing.T) {
	message := make([]byte, serialMost)
	message[0], message[1], message[2] = ansDataBlock, 0x05, 0x01 // 261
	f := framer{most: serialMost}
	f.add(appendFrame(nil, message))
	if it, ok := f.next(false); !ok || it.kind != itemFrame || len(inner(it.data)) != serialMost {
		t.Errorf("%+v %v", it, ok)
	}
	message[1]++
	f.add(appendFrame(nil, message)[:7])
	if !f.pending() {
		t.Error("nothing pending")
	}
	f.add(unhex("03 15 16"))
	if it, ok := f.next(false); !ok || it.kind != itemDamage || len(it.data) != 7 {
		t.Errorf("%+v %v", it, ok)
	}
	f.release()
	for _, c := range f.buf[len(f.buf):cap(f.buf)] {
		if c != 0 {
			t.Fatal("what was taken is still there")
		}
	}
}

func TestAlmost(t *testing.T) {
	sent := unhex("03 06 6F 01 00 00 00 00 07 00 00 00 A0 00")
	for at := range sent {
		lost := append(bytes.Clone(sent[:at]), sent[at+1:]...)
		added := append(append(bytes.Clone(sent[:at]), 0x55), sent[at:]...)
		changed := bytes.Clone(sent)
		changed[at] ^= 0x50
		for _, got := range [][]byte{sent, lost, added, changed, added[:len(sent)], append(lost, 0x03)} {
			if !almost(got, sent) {
				t.Errorf("% X", got)
			}
		}
	}
	two := bytes.Clone(sent)
	two[5], two[9] = 1, 1
	for _, got := range [][]byte{nil, sent[:len(sent)-2], append(bytes.Clone(sent), 1, 2), two, unhex("03 06 80 02 00 00 00 00 07 00 00 00 90 00")} {
		if almost(got, sent) {
			t.Errorf("% X", got)
		}
	}
}

// Whatever comes, each character is in one item, and the rest is found behind it.
func FuzzFramer(f *testing.F) {
	frame := appendFrame(nil, unhex("81 00 00 00 00 00 05 01 00 00"))
	for _, s := range []string{"50 02", "03 15 16", "80", "03 06 80 00 00", fmt.Sprintf("% X", frame), "03 06 6F FF 00 00 00 03 06"} {
		f.Add(unhex(s), byte(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, piece byte) {
		fr := framer{most: serialMost}
		total := 0
		take := func(quiet bool) (last itemKind) {
			for {
				it, ok := fr.next(quiet)
				if !ok {
					return last
				}
				last = it.kind
				switch it.kind {
				case itemFrame:
					if xor(it.data) != 0 || len(it.data) > serialMost+3 || len(inner(it.data)) != messageLen(inner(it.data)) {
						t.Errorf("frame % X", it.data)
					}
					total += len(it.data)
				case itemRefusal:
					total += 3
				case itemMoreTime:
					total++
				default:
					total += len(it.data)
				}
			}
		}
		for in := b; len(in) > 0; {
			n := min(int(piece)+1, len(in))
			fr.add(in[:n])
			in = in[n:]
			take(false)
			if len(fr.buf)-fr.used > 2*serialMost+int(piece)+10 {
				t.Fatalf("%d characters kept", len(fr.buf))
			}
		}
		take(true)
		if total != len(b) || fr.pending() {
			t.Errorf("%d characters in items, of %d", total, len(b))
		}
		fr.add(frame)
		if last := take(false); last != itemFrame {
			t.Error("a frame behind it is not found")
		}
	})
}
