package core

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// "Any ATR that begins with 3B or 3F gives a working card … `status` says
// `atr-defect` with what the standard has against it. Only TS wrong, no bytes, or
// more than 33 fail."
func TestDefectiveATR(t *testing.T) {
	for _, tt := range []struct {
		name, atr string
		defect    string // what status says
		err       error
	}{
		{"fine", "3B 80 01 81", "", nil},
		{"TS alone", "3B", "T0 is missing: the ATR ends after TS", nil},
		{"ends early", "3B 9F 95 81", "TD2 is announced, but the ATR ends after 4 bytes", nil},
		{"TCK is wrong", "3B 80 01 80", "TCK is 80 instead of 81", nil},
		{"TCK is missing", "3B 80 01", "TCK is missing", nil},
		{"more than it announces", "3B 00 00 01", "2 bytes announced, 4 are there", nil},
		{"a gas card", "3B 10 14 50", "3 bytes announced, 4 are there", nil},
		{"a GSM card", "3B 67 00 00 29 20 00 6F 78 90 00 4A", "11 bytes announced, 12 are there", nil},
		{"two defects", "3B 82 01 41", "2 historical bytes are announced, 1 are there; TCK is missing", nil},
		{"T=15 first", "3B 80 0F 8F", "TD1 is 0F: T=15", nil},
		{"33 bytes", "3B 0F" + strings.Repeat(" 55", 31), "17 bytes announced, 33 are there", nil},
		{"TDs without end", "3B 80" + strings.Repeat(" 80", 31), "TD32 is announced", nil},
		{"nothing", "", "", reader.ErrProtocol},
		{"no TS", "00 00 00", "", reader.ErrProtocol},
		{"34 bytes", "3B 0F" + strings.Repeat(" 55", 32), "", reader.ErrProtocol},
	} {
		for _, level := range []reader.Level{reader.TPDU, reader.ShortAPDU, reader.ExtendedAPDU} {
			t.Run(fmt.Sprintf("%s, level %d", tt.name, level), func(t *testing.T) {
				bubble(t, Options{}, func(t *testing.T, r *rig) {
					c := newRateCard(t, tt.atr)
					if level != reader.TPDU {
						c.traits.Level, c.traits.AutoPPS = level, true
						c.exchange = func(_ context.Context, x reader.Transfer, dst []byte) ([]byte, error) {
							return append(dst, 0x90, 0x00), nil
						}
					}
					b := r.plugSlot(c, c.fakeSlot)
					s, err := b.Open(context.Background(), someone())
					wantErr(t, "open", err, tt.err)
					if tt.err != nil {
						if len(c.resets) != attempts || b.Info().State != "present" || c.count("power off") != 1 {
							t.Errorf("resets %q, state %s, calls %q", c.resets, b.Info().State, c.calls())
						}
						return
					}
					if !bytes.Equal(s.ATR(), hexb(tt.atr)) {
						t.Errorf("ATR % X", s.ATR())
					}
					wantAnswer(t, s, "00 A4 04 00 01 A0 00", "90 00")
					var defects []string
					for _, d := range b.Info().Answer.Defects() {
						defects = append(defects, d.String())
					}
					if got := strings.Join(defects, "; "); (got == "") != (tt.defect == "") || !strings.HasPrefix(got, tt.defect) {
						t.Errorf("defects %q, want %q", got, tt.defect)
					}
				})
			})
		}
	}
}

// Every ATR without wildcards in the list of Debian's pcsc-tools belongs to a card that works
// somewhere. With each of them a simulated card at TPDU level answers a SELECT.
func TestEveryATR(t *testing.T) {
	const list = "/usr/share/pcsc/smartcard_list.txt"
	f, err := os.Open(list)
	if err != nil {
		t.Fatalf("%v\nThis test needs the list of Debian's pcsc-tools: apt-get install pcsc-tools", err)
	}
	defer f.Close()
	// "T=14 and others by no one": these cards have no other protocol.
	refused := []string{
		"3B 88 8E FE 53 2A 03 1E 04 92 80 00 41 32 36 01 11 E4",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 03 83 95 00 80 55",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 03 84 55 6D FF 80",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 03 84 55 FF 80 6D",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 20 56 31 2E 32 A0",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 20 56 34 2E 31 9D",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 20 56 35 2E 30 9D",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 20 56 35 2E 33 9E",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 20 56 35 2E 34 99",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 20 56 35 2E 37 9A",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 20 56 36 2E 30 9E",
		"3B 9F 21 0E 49 52 44 45 54 4F 20 41 43 53 20 56 37 2E 30 9F",
		"3B F5 71 00 FF FE 24 00 01 1E 0F 33 39 32 01 03",
	}
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		c := newRateCard(t, "3B 00")
		b := r.plugSlot(c, c.fakeSlot)
		n := 0
		in := bufio.NewScanner(f)
		for in.Scan() {
			line := strings.TrimRight(in.Text(), " \t\r")
			if line == "" || strings.Trim(line, "0123456789ABCDEF ") != "" || !strings.Contains(line, " ") {
				continue
			}
			n++
			c.atr, c.commands = hexb(line), nil
			if err := b.Power(context.Background(), PowerDown, someone()); err != nil {
				t.Fatal(err)
			}
			s, err := b.Open(context.Background(), someone())
			if slices.Contains(refused, line) {
				wantErr(t, line, err, reader.ErrUnsupported)
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", line, err)
				continue
			}
			answer, err := s.Transmit(context.Background(), hexb("00 A4 04 00 02 3F 00 00"), nil)
			if err != nil || !bytes.Equal(answer, hexb("90 00")) || len(c.commands) != 1 {
				t.Errorf("%s: % X, %v", line, answer, err)
			}
			s.Close()
		}
		if n != 3803 {
			t.Errorf("%d ATRs", n)
		}
	})
}
