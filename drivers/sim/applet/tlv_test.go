package applet

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestObjects(t *testing.T) {
	long := strings.Repeat("55", 256)
	for _, x := range []struct {
		in   string
		want []Object
	}{
		{"", nil},
		{"5C 03 5FC105", []Object{{0x5C, unhex("5FC105")}}},
		{"5FC105 00 7F49 01 AA", []Object{{0x5FC105, []byte{}}, {0x7F49, []byte{0xAA}}}},
		{"53 81 01 AA", []Object{{0x53, []byte{0xAA}}}}, // no length has to be the shortest
		{"53 82 0100" + long, []Object{{0x53, unhex(long)}}},
		{"53 84 00000001 AA", []Object{{0x53, []byte{0xAA}}}},
	} {
		got, err := Objects(unhex(x.in))
		if err != nil || !reflect.DeepEqual(got, x.want) {
			t.Errorf("%.20s: %v, %v", x.in, got, err)
		}
	}
	for _, in := range []string{
		"00", "00 00", "53", "53 01", "53 80", "53 80 0000", "53 81", "53 81 80 AA", "53 82 01", "53 85 0000000001 AA",
		"53 84 FFFFFFFF", "53 FF", "5F", "5FC1", "5FC1C1 01 00", "5F80 01 00", "5F8005 01 00", "7F49 01 AA 53",
	} {
		if got, err := Objects(unhex(in)); !errors.Is(err, ErrTLV) || got != nil {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
}

func TestAppendObject(t *testing.T) {
	for _, x := range []struct {
		tag, n int
		head   string
	}{
		{0x53, 0, "53 00"}, {0x53, 127, "53 7F"}, {0x7F49, 128, "7F49 81 80"}, {0x5FC105, 255, "5FC105 81 FF"},
		{0x53, 256, "53 82 0100"}, {0x53, 65535, "53 82 FFFF"}, {0x53, 65536, "53 83 010000"},
	} {
		v := counting(x.n)
		got := TLV(x.tag, v[:x.n/2], v[x.n/2:])
		if want := append(unhex(x.head), v...); !bytes.Equal(got, want) {
			t.Errorf("%X, %d bytes: %X", x.tag, x.n, got[:min(8, len(got))])
		}
	}
	all := []Object{{0x81, []byte{1}}, {0x82, nil}}
	if v, ok := Find(all, 0x82); !ok || len(v) != 0 {
		t.Error("82 is not found")
	}
	if _, ok := Find(all, 0x83); ok {
		t.Error("83 is found")
	}
}

func FuzzObjects(f *testing.F) {
	f.Add(unhex("7C 06 82 00 81 02 AABB"))
	f.Add(unhex("5FC105 84 00000001 AA"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := Objects(b)
		if err != nil {
			return
		}
		var again []byte
		for _, o := range all {
			again = AppendObject(again, o.Tag, o.Value)
		}
		if len(again) > len(b) {
			t.Fatalf("%d bytes became %d", len(b), len(again))
		}
		got, err := Objects(again)
		if err != nil || len(got) != len(all) {
			t.Fatalf("%v, %v", got, err)
		}
		for i, o := range got {
			if o.Tag != all[i].Tag || !bytes.Equal(o.Value, all[i].Value) {
				t.Fatalf("object %d differs", i)
			}
		}
	})
}
