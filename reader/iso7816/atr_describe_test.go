package iso7816

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestATRDescribe compares with testdata/atr; go test -run ATRDescribe -update
// writes it.
func TestATRDescribe(t *testing.T) {
	for name, s := range map[string]string{
		"ikey3000":    "3B B7 94 00 81 31 FE 65 53 50 4B 32 33 90 00 D1",
		"t1-t15":      "3B D2 96 FF 81 B1 FE 45 1F 03 41 42 2F",
		"rutoken":     "3B 6F 00 FF 00 56 72 75 54 6F 6B 6E 73 30 20 00 00 90 00",
		"uicc":        "3B 9F 95 80 1F 42 80 31 A0 73 BE 21 15 67 41 42 43 44 82 90 00 4E",
		"least":       "3B 00",
		"inverse":     "3F 65 25 00 2C 09 69 90 00",
		"specific":    "3B 90 95 91 81 31 20 45 41",
		"implicit":    "3B 90 95 10 10",
		"odd":         "3B F0 7F 25 05 F1 62 25 00 F1 FF F2 03 8E 7F C8 15 01 CB",
		"tck":         "3B 02 41 42 01",
		"broken-tlv":  "3B 05 80 31 A0 73 BE",
		"objects":     "3B 0F 80 12 49 9F 22 12 34 43 00 A4 04 51 41 81 07",
		"spu":         "3B 80 80 3F C7 81 79",
		"short-00":    "3B 02 00 41",
		"dir":         "3B 04 10 01 41 42",
		"unusable-ta": "3B 90 7F 10 80",
		"left-over":   "3B 67 00 00 29 20 00 6F 78 90 00 4A",
		"wrong-tck":   "3B 80 01 80 90",
		"cut-off":     "3B F7 94 00",
		"t15-first":   "3B 81 1F 00 41 DF",
		"ts":          "3B",
		"dual":        "3B 80 80 01 01",
		"category-85": "3B 02 85 41",
		"t14-first":   "3B 80 8E 01 0F",
		"status":      "3B 04 00 05 90 00",
	} {
		t.Run(name, func(t *testing.T) {
			b := unhex(t, s)
			a, err := ParseATR(b)
			if err != nil {
				t.Fatalf("%v (XOR %02X)", err, LRC(b[1:]))
			}
			if err := checkATR(a); err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			fmt.Fprintf(&got, "%s\n\n", s)
			if err := a.Describe(&got); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", "atr", name+".txt")
			if *update {
				os.MkdirAll(filepath.Dir(golden), 0o755)
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("got\n%s\nwant\n%s", &got, want)
			}
		})
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestATRDescribeFails(t *testing.T) {
	a, err := ParseATR([]byte{0x3B, 0x00})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Describe(full{}); !errors.Is(err, io.ErrShortWrite) {
		t.Error(err)
	}
}
