package rutoken

import (
	"bytes"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader/iso7816"
)

// The FCP of a CREATE FILE becomes a record if it has a type and an ID of two bytes, and 32
// bytes at least. Other tags may be missing, or of another length, and do then not count.
func TestFCPToRecord(t *testing.T) {
	const (
		size    = "80 02 04 00 "
		all     = "81 02 10 00 "
		kind    = "82 02 01 00 "
		id      = "83 02 3F 00 "
		rules   = "86 28 01 02 03 04 05 06 07 08 11 FF FF FF 12 FF FF FF 13 FF FF FF 14 FF FF FF 15 FF FF FF 16 FF FF FF 17 FF FF FF FF FF FF FF "
		packed  = "01 02 03 04 05 06 07 08 11 12 13 14 15 16 17"
		nothing = "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00"
		zero    = " 00 00 00 00 00 00 00 00 00 "
	)
	template := func(body string) string {
		return string([]byte{"0123456789ABCDEF"[len(unhex(body))>>4], "0123456789ABCDEF"[len(unhex(body))&15]}) + body
	}
	fill, more := "85 12"+strings.Repeat("EE", 18), "99 08"+strings.Repeat("EE", 8)
	for _, tt := range []struct{ name, fcp, record string }{
		{"all", "62" + template(all+size+kind+id+"8A 01 05"+rules), "00 10 00 04 01 00 00 3F" + zero + packed},
		{"another order", "62" + template(rules+id+kind+size+all), "00 10 00 04 01 00 00 3F" + zero + packed},
		{"no rules", "62" + template(size+kind+id+fill), "00 00 00 04 01 00 00 3F" + zero + nothing},
		{"sizes of other lengths", "62" + template("81 01 10 80 03 00 04 00"+kind+id+fill), "00 00 00 00 01 00 00 3F" + zero + nothing},
		{"rules of 39 bytes", "62" + template(kind+id+"86 27"+strings.Repeat("EE", 39)), "00 00 00 00 01 00 00 3F" + zero + nothing},
		{"long form", "62 81" + template(kind+id+fill+"99 00"), "00 00 00 00 01 00 00 3F" + zero + nothing},
		{"more behind it", "62" + template(kind+id+fill) + "83 02 50 15", "00 00 00 00 01 00 00 3F" + zero + nothing},
		{"32 bytes", "62" + template(kind+id+"85 14"+strings.Repeat("EE", 20)), "00 00 00 00 01 00 00 3F" + zero + nothing},
		{"31 bytes", "62" + template(kind+id+"85 13"+strings.Repeat("EE", 19)), ""},
		{"no type", "62" + template(size+id+fill+more), ""},
		{"no ID", "62" + template(size+kind+fill+more), ""},
		{"type of one byte", "62" + template("82 01 38"+id+fill+more), ""},
		{"ID of one byte", "62" + template(kind+"83 01 3F"+fill+more), ""},
		{"another template", "6F" + template(size+kind+id+fill+more), ""},
		{"template too long", "62 7F" + size + kind + id + fill + more, ""},
		{"tag too long", "62" + template(kind+id+fill+more+"80 02 04"), ""},
		{"tag without a length", "62" + template(kind+id+fill+more+"80"), ""},
		{"tag of two bytes", "62" + template(kind+id+fill+more+"9F 01 00"), ""},
		{"unknown form of length", "62" + template(kind+id+fill+more+"80 80"), ""},
		{"length of two bytes", "62 82 00" + template(kind+id+fill+more), ""},
		{"empty", "", ""},
	} {
		c := iso7816.Command{INS: 0xE0, Data: unhex(tt.fcp)}
		want := unhex(tt.record)
		if tt.record == "" {
			want = c.Data
		}
		if got := rewritten(&c, []byte("kept")); string(got[:4]) != "kept" || !bytes.Equal(got[4:], want) {
			t.Errorf("%s: % X, want % X", tt.name, got[4:], want)
		}
	}
}

// The TLV of an object: every tag is optional, and its body counts if tag 80 has its
// length, whichever byte of that comes first.
func TestTLVToObject(t *testing.T) {
	body := func(n int) string { return strings.Repeat("BB", n) }
	long := "86 28" + strings.Repeat("00", 40)
	for _, tt := range []struct{ name, tlv, record string }{
		{"high byte first", "80 02 00 03 83 02 11 05 85 03 01 02 03" + long + "A5 03" + body(3), "03 00 11 05 01 02 03" + strings.Repeat("00", 25) + body(3)},
		{"low byte first", "80 02 03 00 83 02 11 05 85 03 01 02 03" + long + "A5 03" + body(3), "00 03 11 05 01 02 03" + strings.Repeat("00", 25) + body(3)},
		{"another length", "80 02 00 04 83 02 11 05 85 03 01 02 03" + long + "A5 03" + body(3), "04 00 11 05 01 02 03" + strings.Repeat("00", 25)},
		{"no length", "83 02 11 05" + long + "A5 03" + body(3), "00 00 11 05 00 00 00" + strings.Repeat("00", 25)},
		{"no body", "80 02 00 20 83 02 11 05" + long, "20 00 11 05 00 00 00" + strings.Repeat("00", 25)},
		{"rules alone", long, strings.Repeat("00", 32)},
		{"a long body", "80 02 00 C0" + long + "A5 81 C0" + body(192), "C0 00" + strings.Repeat("00", 30) + body(192)},
		{"lengths that are wrong", "80 01 03 83 03 11 05 00 85 02 01 02" + long, strings.Repeat("00", 32)},
		{"as long as the record", "80 02 00 1C A5 1C" + body(28) + "99 1A" + strings.Repeat("00", 26), "1C 00" + strings.Repeat("00", 30) + body(28)},
		{"a byte shorter", "80 02 00 1C A5 1C" + body(28) + "99 17" + strings.Repeat("00", 23), ""},
		{"shorter than a record", "80 02 00 00 83 02 11 05", ""},
		{"no TLV", "80" + long, ""},
	} {
		for _, p2 := range []byte{0x62, 0x65} {
			c := iso7816.Command{INS: 0xDA, P1: 0x01, P2: p2, Data: unhex(tt.tlv)}
			want := unhex(tt.record)
			if tt.record == "" {
				want = c.Data
			}
			if got := rewritten(&c, nil); !bytes.Equal(got, want) {
				t.Errorf("%s: % X, want % X", tt.name, got, want)
			}
		}
	}
}

// Records of objects: tag 80 for all but an empty length, A5 for a body that came as long as
// the record says, and no more than 255 bytes.
func TestRecordToObject(t *testing.T) {
	rest := "11 05 01 02 03" + strings.Repeat("00", 25)
	tags := "83 02 11 05 85 03 01 02 03 86 28" + strings.Repeat("00", 40)
	body := func(n int) string { return strings.Repeat("BB", n) }
	for _, tt := range []struct{ name, record, tlv string }{
		{"low byte first", "03 00" + rest + body(3), "80 02 00 03" + tags + "A5 03" + body(3)},
		{"high byte first", "00 03" + rest + body(3), "80 02 03 00" + tags + "A5 03" + body(3)},
		{"no body", "00 00" + rest, tags},
		{"its body did not come", "08 00" + rest, "80 02 00 08" + tags},
		{"nor all of it", "08 00" + rest + body(7), "80 02 00 08" + tags},
		{"more came", "03 00" + rest + body(3) + "FF FF", "80 02 00 03" + tags + "A5 03" + body(3)},
		{"127 bytes", "7F 00" + rest + body(127), "80 02 00 7F" + tags + "A5 7F" + body(127)},
		{"128 bytes", "80 00" + rest + body(128), "80 02 00 80" + tags + "A5 81 80" + body(128)},
		{"197 bytes", "C5 00" + rest + body(197), "80 02 00 C5" + tags + "A5 81 C5" + body(197)},
		{"198 bytes", "C6 00" + rest + body(198), tags + "A5 81 C6" + body(198)},
		{"201 bytes", "C9 00" + rest + body(201), tags + "A5 81 C9" + body(201)},
		{"202 bytes", "CA 00" + rest + body(202), tags},
	} {
		if got := restored(objectRecord, unhex(tt.record), []byte("kept")); string(got[:4]) != "kept" || !bytes.Equal(got[4:], unhex(tt.tlv)) {
			t.Errorf("%s: % X, want %s", tt.name, got[4:], tt.tlv)
		}
	}
}

// "Swap pairs, reverse fours; a rest shorter than the group stays."
func TestOrders(t *testing.T) {
	for _, tt := range []struct{ in, pairs, fours string }{
		{"", "", ""},
		{"01", "01", "01"},
		{"01 02 03", "02 01 03", "01 02 03"},
		{"01 02 03 04", "02 01 04 03", "04 03 02 01"},
		{"01 02 03 04 05 06 07", "02 01 04 03 06 05 07", "04 03 02 01 05 06 07"},
	} {
		a, b := unhex(tt.in), unhex(tt.in)
		swapPairs(a)
		reverseFours(b)
		if !bytes.Equal(a, unhex(tt.pairs)) || !bytes.Equal(b, unhex(tt.fours)) {
			t.Errorf("%s: % X, % X", tt.in, a, b)
		}
	}
}

// Only the commands of the table are rewritten.
func TestOthersStay(t *testing.T) {
	fcp := unhex(fcp)
	for _, c := range []iso7816.Command{
		{INS: 0xA4, P1: 0x04}, {CLA: 0x80, INS: 0xA4}, {CLA: 0x04, INS: 0xE4}, {CLA: 0x80, INS: 0xE0}, {CLA: 0x10, INS: 0xDA, P1: 1, P2: 0x62},
		{INS: 0xDA, P1: 1, P2: 0x64}, {INS: 0xDA, P2: 0x62}, {INS: 0xD6}, {INS: 0x20}, {INS: 0x24},
	} {
		c.Data = fcp
		if got := rewritten(&c, nil); !bytes.Equal(got, fcp) {
			t.Errorf("%+v: % X", c, got)
		}
	}
	for _, c := range []iso7816.Command{{INS: 0xA4, P1: 0x04}, {CLA: 0x80, INS: 0xA4}, {INS: 0x30}, {CLA: 0x80, INS: 0xCA, P1: 1, P2: 0x81}, {INS: 0xCA, P1: 1, P2: 0x89}, {INS: 0xCA, P2: 0x81}, {INS: 0xCB, P1: 1, P2: 0x81}} {
		if f := formOf(&c); f != asIs {
			t.Errorf("%+v: form %d", c, f)
		}
	}
}

// Whatever a program or a card sends: nothing is read or written beyond it, the result fits
// a TPDU, and what was a record is the same record after both ways.
func FuzzRewrite(f *testing.F) {
	f.Add(byte(0xA4), byte(0), byte(0), unhex("3F 00"))
	f.Add(byte(0xE0), byte(0), byte(0), unhex(fcp))
	f.Add(byte(0xDA), byte(1), byte(0x62), unhex("80 02 00 03 83 02 11 05 85 03 01 02 03 86 28"+strings.Repeat("00", 40)+"A5 03 01 02 03"))
	f.Add(byte(0x30), byte(0), byte(0), unhex(record+"01 02 03"))
	f.Add(byte(0x30), byte(0), byte(0), unhex("C6 00"+strings.Repeat("01", 30+198)))
	f.Fuzz(func(t *testing.T, ins, p1, p2 byte, data []byte) {
		if len(data) > 255 {
			return
		}
		kept := bytes.Clone(data)
		out := rewritten(&iso7816.Command{INS: ins, P1: p1, P2: p2, Data: data}, nil)
		if len(out) > 255 || !bytes.Equal(data, kept) {
			t.Fatalf("% X becomes % X", kept, out)
		}
		for form := asIs; form <= swappedPairs; form++ {
			back := restored(form, data, nil)
			if len(back) > 255 || !bytes.Equal(data, kept) {
				t.Fatalf("form %d: % X becomes % X", form, kept, back)
			}
			if form == fileRecord && len(data) == recordLen {
				again := rewritten(&iso7816.Command{INS: 0xE0, Data: back}, nil)
				clear(kept[8:17]) // the life cycle is the card's alone
				if !bytes.Equal(again, kept) {
					t.Fatalf("% X comes back as % X", kept, again)
				}
				copy(kept, data)
			}
		}
	})
}
