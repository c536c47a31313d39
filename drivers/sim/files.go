package sim

import (
	"bytes"
	"slices"
	"sync"
)

// kind is the structure of a file (ISO/IEC 7816-4:2013 §7.3.2).
type kind int

const (
	dedicated kind = iota
	transparent
	linear
	cyclic
)

// access is the PIN that must have been verified.
type access byte

const (
	always access = iota
	pin1
	pin2
	never
)

// file is one file of the virtual card with its factory content. All cards share these; a
// card keeps its own changes in card.own.
type file struct {
	fid          uint16
	kind         kind
	sfi          byte
	aid          []byte
	read, update access

	parent   *file
	children []*file

	recLen, maxRec int // records
	data           []byte
	gdo            bool // data depends on the card's serial number
}

// records returns the number of records in data.
func (f *file) records(data []byte) int { return len(data) / f.recLen }

func (f *file) child(fid uint16) *file {
	for _, c := range f.children {
		if c.fid == fid {
			return c
		}
	}
	return nil
}

func (f *file) bySFI(sfi byte) *file {
	for _, c := range f.children {
		if c.kind != dedicated && c.sfi == sfi {
			return c
		}
	}
	return nil
}

func (f *file) within(df *file) bool {
	for ; f != nil; f = f.parent {
		if f == df {
			return true
		}
	}
	return false
}

// appAID is proprietary (first nibble F: ISO/IEC 7816-4:2013 §8.2.1.2), "cardfs", 01.
var appAID = []byte{0xF0, 'c', 'a', 'r', 'd', 'f', 's', 0x01}

// masterFile makes the tree that the package comment lists, once.
var masterFile = sync.OnceValue(func() *file {
	big := make([]byte, 32768)
	for i := range big {
		big[i] = byte(i % 251)
	}
	mf := &file{fid: 0x3F00, children: []*file{
		{fid: 0x2F00, kind: linear, sfi: 30, update: never, recLen: 48, maxRec: 4, data: dirRecord(48)},
		{fid: 0x2F02, kind: transparent, sfi: 2, update: never, data: make([]byte, 12), gdo: true},
		{fid: 0x1001, kind: transparent, sfi: 1, data: make([]byte, 128)},
		{fid: 0x5000, aid: appAID, children: []*file{
			{fid: 0x5001, kind: transparent, sfi: 1, update: pin1, data: make([]byte, 256)},
			{fid: 0x5002, kind: linear, sfi: 2, update: pin1, recLen: 16, maxRec: 8, data: records(16,
				"Record one", "Record two", "Record three", "Record four")},
			{fid: 0x5003, kind: cyclic, sfi: 3, recLen: 8, maxRec: 5, data: records(8,
				"newest", "older", "oldest")},
			{fid: 0x5004, kind: transparent, sfi: 4, read: pin1, update: pin2, data: append([]byte("the secret"), make([]byte, 54)...)},
			{fid: 0x5005, kind: transparent, sfi: 5, data: big},
		}},
	}}
	mf.adopt()
	return mf
})

func (f *file) adopt() {
	for _, c := range f.children {
		c.parent = f
		c.adopt()
	}
}

// dirRecord is an application template (ISO/IEC 7816-4:2013 §8.2.1.1).
func dirRecord(n int) []byte {
	label := "cardfs sim"
	r := []byte{0x61, byte(2 + len(appAID) + 2 + len(label)), 0x4F, byte(len(appAID))}
	r = append(r, appAID...)
	r = append(r, 0x50, byte(len(label)))
	r = append(r, label...)
	return append(r, bytes.Repeat([]byte{0xFF}, n-len(r))...)
}

func records(n int, texts ...string) []byte {
	var data []byte
	for _, t := range texts {
		data = append(data, t...)
		data = append(data, make([]byte, n-len(t))...)
	}
	return data
}

// content returns the content of f in this card, which must not be changed.
func (c *card) content(f *file) []byte {
	if own, ok := c.own[f]; ok {
		return own
	}
	if f.gdo {
		return append([]byte{0x5A, 10}, c.iccsn()...)
	}
	return f.data
}

// writable returns the card's own copy of f's content.
func (c *card) writable(f *file) []byte {
	if own, ok := c.own[f]; ok {
		return own
	}
	if c.own == nil {
		c.own = make(map[*file][]byte)
	}
	own := slices.Clone(f.data)
	c.own[f] = own
	return own
}

// controlInfo returns the FCI, FCP or FMD template (ISO/IEC 7816-4:2013 §7.4.3).
func (c *card) controlInfo(f *file, tag byte) []byte {
	t := []byte{tag, 0}
	if tag != 0x64 {
		switch f.kind {
		case transparent:
			n := len(c.content(f))
			t = append(t, 0x80, 2, byte(n>>8), byte(n), 0x82, 1, 0x01)
		case dedicated:
			t = append(t, 0x82, 1, 0x38)
		default:
			fd := byte(0x02)
			if f.kind == cyclic {
				fd = 0x06
			}
			n := f.recLen * f.maxRec
			t = append(t, 0x80, 2, byte(n>>8), byte(n),
				0x82, 5, fd, 0x21, byte(f.recLen>>8), byte(f.recLen), byte(f.maxRec))
		}
		t = append(t, 0x83, 2, byte(f.fid>>8), byte(f.fid))
	}
	if f.aid != nil {
		t = append(append(t, 0x84, byte(len(f.aid))), f.aid...)
	}
	if f.kind != dedicated && tag != 0x64 {
		t = append(t, 0x88, 1, f.sfi<<3)
	}
	if tag != 0x64 {
		t = append(t, 0x8A, 1, 0x05) // operational, activated
	}
	t[1] = byte(len(t) - 2)
	return t
}
