package core

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"unicode/utf8"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/words"
)

// By-id names have at most 200 bytes. They are the same each time, and differ for different
// devices.
func TestLongNames(t *testing.T) {
	long := strings.Repeat("x", 5000)
	seen := make(map[string]bool)
	for _, dev := range []reader.Device{
		{Bus: "usb", ID: reader.ID{Model: long}, Serial: long},
		{Bus: "usb", ID: reader.ID{Model: long}, Serial: long + "1"},
		{Bus: "usb", ID: reader.ID{Model: long + "x"}, Serial: long[1:]},
		{Bus: "usb", ID: reader.ID{Model: "m"}, Serial: long},
		{Bus: "usb", ID: reader.ID{Model: "m"}, Serial: strings.Repeat("x", words.MaxName)},
		{Bus: "usb", ID: reader.ID{Model: "m"}, Serial: strings.Repeat("x", words.MaxName-len("usb-m_-slot0"))},
		{Driver: "d", Address: long},
	} {
		for _, index := range []int{0, 1, 12} {
			name := lastingName(dev, index)
			if len(name) > words.MaxName || seen[name] || name != lastingName(dev, index) || !strings.HasSuffix(name, fmt.Sprintf("-slot%d", index)) {
				t.Errorf("%d bytes, seen %v: %s", len(name), seen[name], name)
			}
			seen[name] = true
		}
	}
	if got := lastingName(reader.Device{Bus: "usb", ID: reader.ID{Model: "m"}, Serial: strings.Repeat("x", words.MaxName-len("usb-m_-slot0"))}, 0); len(got) != words.MaxName || strings.Count(got, "x") != words.MaxName-12 {
		t.Errorf("a name that just fits was cut: %s", got)
	}
}

// "Bidi, zero-width and format characters (Cf, Zl, Zp, Co, Cs)" are in no name, status
// value, event or log line. The length of a device's texts is bounded.
func TestWhatDevicesSay(t *testing.T) {
	evil := "a\u202eb\u200bc\u2066d\ufefee\u2028f\u2029g\ue000h\U000f0000i\u00adj\x1b[2J\xed\xa0\x80\U000e0041k\u0600l\u0085m\u00a0n"
	const most = words.MaxWords * 2
	bad := func(s string) bool {
		return !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && r != ' ' && words.OneLine(r) != r })
	}
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		r := newRig(t, Options{Log: newTextLog(&log)})
		defer r.Close(context.Background())
		events := r.Follow()
		slot := newFakeSlot(t)
		slot.power = func(context.Context, reader.Reset) ([]byte, error) {
			return nil, errors.New(evil + strings.Repeat("e", 5000))
		}
		fake := newFakeReader(slot)
		more := map[string]string{evil: evil, "long": strings.Repeat("ä", 5000)}
		for i := range 1000 {
			more[fmt.Sprint("key", i)] = "value"
		}
		r.driver.open = func(context.Context, reader.Device) (reader.Reader, error) {
			return saysMore{fake, evil + strings.Repeat("m", 5000), more}, nil
		}
		b := r.announce(reader.Device{Address: evil + strings.Repeat("a", 5000), Serial: evil, Port: evil, Bus: evil, ID: reader.ID{Model: evil},
			Params: map[string]string{evil: evil}})
		synctest.Wait()
		b.Open(context.Background(), someone())
		i := b.Info()
		for what, text := range map[string]string{
			"more": fmt.Sprintln(i.More), "name": i.ByID, "model": i.Model, "events": lines(events), "log": log.String(),
		} {
			if bad(text) {
				t.Errorf("%s: %q", what, text)
			}
			for line := range strings.Lines(text) {
				if utf8.RuneCountInString(line) > 2*most {
					t.Errorf("%s: a line of %d characters", what, utf8.RuneCountInString(line))
				}
			}
		}
		if n := len(i.More); n > words.MaxPairs {
			t.Errorf("it says %d things more", n)
		}
		if !strings.HasSuffix(i.Model, "…") {
			t.Error("nothing says that something was cut")
		}
	})
	for _, tt := range []struct {
		in   string
		most int
		want string
	}{
		{"", 3, ""}, {"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"äöü", 3, "äöü"}, {"äöüß", 3, "äö…"}, {"a\tb", 9, "a b"},
		{"a\u200bb", 9, "a\ufffdb"}, {"日本", 9, "日本"},
	} {
		if got := words.Printable(tt.in, tt.most); got != tt.want {
			t.Errorf("printable(%q, %d) = %q, want %q", tt.in, tt.most, got, tt.want)
		}
	}
}

// saysMore is a reader with long texts about itself.
type saysMore struct {
	*fakeReader
	model string
	more  map[string]string
}

func (s saysMore) Identify() (string, map[string]string) { return s.model, s.more }
