package core

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// By-id names keep the characters that udev keeps, which include all ASCII letters and digits.
// A run of anything else becomes one underscore.
func TestTame(t *testing.T) {
	for s, want := range map[string]string{
		"0123456789":                 "0123456789",
		"abcxyz":                     "abcxyz",
		"ABCXYZ":                     "ABCXYZ",
		"#+-.:=@_":                   "#+-.:=@_",
		"a/b;c[d`e{f":                "a_b_c_d_e_f", // beside the digits and the letters
		"a/ \x00\u00e9b":             "a_b",
		" a ":                        "a",
		"_ a":                        "_a",
		"a\u0660\u0391\uff10\u2028b": "a_b", // digits and letters elsewhere
		"!\"$%&'()*,<>?\\]^|}~":      "_",
		"":                           "",
	} {
		if got := tame(s); got != want {
			t.Errorf("%q becomes %q, want %q", s, got, want)
		}
	}
}

// versioned is a reader that reports its firmware version.
type versioned struct {
	*fakeReader
	version string
}

func (v versioned) Identify() (string, map[string]string) {
	return "", map[string]string{"version": v.version}
}

// sFirmwareID (PC/SC part 10 §2.6.14, tag 08) is the version that the reader reports, up to 64
// bytes. Firmware, vendor or display size that the reader does not report have no tag.
func TestTLVOfFirmware(t *testing.T) {
	const rest = "09 01 00 0A 04 00 00 01 00"
	for _, version := range []string{"", "1", strings.Repeat("v", 63), strings.Repeat("v", 64), strings.Repeat("v", 65)} {
		bubble(t, Options{}, func(t *testing.T, r *rig) {
			fake := newFakeReader(newFakeSlot(t))
			r.driver.open = func(context.Context, reader.Device) (reader.Reader, error) { return versioned{fake, version}, nil }
			b := r.announce(reader.Device{})
			mustOpen(t, b, someone())
			var want []byte
			if said := version[:min(len(version), 64)]; said != "" {
				want = append([]byte{8, byte(len(said))}, said...)
			}
			want = append(want, hexb(rest)...)
			got, err := b.Control(context.Background(), ctlFeature+featureTLVProperties, nil, someone())
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("a version of %d bytes: % X, %v, want % X", len(version), got, err, want)
			}
		})
	}
}

// A device without a driver or with a failing link is refused, and leaves nothing behind.
func TestAnnounceRefuses(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, r *rig) {
		err := r.Announce(reader.Device{Driver: "none", Address: "a"})
		if !errors.Is(err, reader.ErrInvalid) || !strings.Contains(err.Error(), `no driver "none"`) {
			t.Errorf("a driver that is not there: %v", err)
		}
		wantErr(t, "a link that panics", r.Announce(reader.Device{Driver: "fake", Address: "a", Link: badLink{}}), reader.ErrFailed)
		if len(r.Slots()) != 0 || len(r.ifds) != 0 {
			t.Errorf("%d slots, %d devices", len(r.Slots()), len(r.ifds))
		}
	})
}

// badLink is a link whose Gone panics.
type badLink struct{}

func (badLink) Gone() <-chan struct{} { panic("a fault") }

// A log line leaves out attributes that are unknown.
func TestLogOfNoModel(t *testing.T) {
	var log strings.Builder
	bubble(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, r *rig) {
		r.plug(reader.Device{}, newFakeSlot(t))
		r.plug(reader.Device{Address: "b", ID: reader.ID{Model: "M"}}, newFakeSlot(t))
	})
	text := log.String()
	if strings.Contains(text, `model=""`) || strings.Count(text, "model=") != 1 || !strings.Contains(text, "model=M\n") {
		t.Error(text)
	}
}

// A PIN pad that supports only verify or only modify has that feature and the properties of a
// pad, but not the other feature (PC/SC part 10 §2.3).
func TestFeaturesOfHalfAPad(t *testing.T) {
	const properties, tlv, escape = "0A 04 42 33 00 0A", "12 04 42 33 00 12", "13 04 42 33 00 13"
	for first, support := range map[string]reader.PINSupport{
		"06 04 42 33 00 06": {Verify: true, Columns: 16, Lines: 2},
		"07 04 42 33 00 07": {Modify: true, Columns: 16, Lines: 2},
	} {
		bubble(t, Options{}, func(t *testing.T, r *rig) {
			pad := newPadSlot(t, "")
			pad.traits.Level, pad.support = reader.ExtendedAPDU, support
			b := r.plugPad(pad, true)
			for code, want := range map[uint32]string{
				CtlGetFeatures:                       first + properties + tlv + escape,
				ctlFeature + featureIFDPINProperties: "10 02 07 00",
			} {
				got, err := b.Control(context.Background(), code, nil, someone())
				if err != nil || !bytes.Equal(got, hexb(want)) {
					t.Errorf("%+v, %08X: % X, %v", support, code, got, err)
				}
			}
			got, err := b.Control(context.Background(), ctlFeature+featureTLVProperties, nil, someone())
			if err != nil || !bytes.HasPrefix(got, hexb("01 02 10 02 02 01 07 03 01 00 04 02 10 00 05 02 02 00")) {
				t.Errorf("%+v: TLV properties % X, %v", support, got, err)
			}
		})
	}
}
