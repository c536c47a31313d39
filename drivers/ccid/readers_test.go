package ccid

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

// readersDir contains descriptors of real readers, printed by libccid's program "parse".
// They are not part of this repository.
const readersDir = "../../../shared/data/ccid-readers"

// listing is one interface of such a file.
type listing struct {
	file   string
	device map[string]string // before "CCID Class Descriptor"
	class  map[string]string // after it
}

func readListings(t testing.TB) []listing {
	files, err := filepath.Glob(filepath.Join(readersDir, "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Skipf("SKIPPED: no descriptors of real readers in %s; fetch them with libccid's sources (readers/*.txt)", readersDir)
	}
	var all []listing
	for _, f := range files {
		if filepath.Base(f) == "supported_readers.txt" {
			continue
		}
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var cur *listing
		into := map[string]string{}
		for sc := bufio.NewScanner(strings.NewReader(string(data))); sc.Scan(); {
			k, v, ok := strings.Cut(strings.TrimSpace(sc.Text()), ":")
			v = strings.TrimSpace(v)
			switch {
			case k == "idVendor":
				all = append(all, listing{file: filepath.Base(f), device: map[string]string{}})
				cur = &all[len(all)-1]
				into = cur.device
			case k == "CCID Class Descriptor":
				cur.class = map[string]string{}
				into = cur.class
			}
			if _, dup := into[k]; ok && !dup {
				into[k] = v
			}
		}
	}
	return all
}

// field reads "0x00", "4.000 MHz", "10752 bps", "1.00" (BCD), "0x0000 0x0003".
func (l *listing) field(t testing.TB, m map[string]string, key string) uint32 {
	t.Helper()
	words := strings.Fields(m[key])
	if len(words) == 0 {
		t.Fatalf("%s: no %s", l.file, key)
	}
	parse := func(s string, base int) uint32 {
		n, err := strconv.ParseUint(s, base, 32)
		if err != nil {
			t.Fatalf("%s: %s: %v", l.file, key, err)
		}
		return uint32(n)
	}
	switch {
	case len(words) > 1 && words[1] == "MHz":
		mega, kilo, _ := strings.Cut(words[0], ".")
		return parse(mega, 10)*1000 + parse(kilo, 10)
	case strings.HasPrefix(key, "bcd"):
		return parse(strings.ReplaceAll(words[0], ".", ""), 16)
	case key == "dwProtocols":
		return parse(words[0], 0)<<16 | parse(words[1], 0)
	}
	return parse(words[0], 0)
}

// descriptors builds what the device sent.
func (l *listing) descriptors(t testing.TB) []byte {
	dev := func(k string) uint32 { return l.field(t, l.device, k) }
	cls := func(k string) uint32 { return l.field(t, l.class, k) }
	le := binary.LittleEndian
	d := make([]byte, 18)
	d[0], d[1], d[7], d[14], d[15] = 18, 1, 64, 1, 2
	le.PutUint16(d[8:], uint16(dev("idVendor")))
	le.PutUint16(d[10:], uint16(dev("idProduct")))
	le.PutUint16(d[12:], uint16(dev("bcdDevice")))

	c := make([]byte, 54)
	c[0], c[1] = byte(cls("bLength")), byte(cls("bDescriptorType"))
	le.PutUint16(c[2:], uint16(cls("bcdCCID")))
	c[4], c[5] = byte(cls("bMaxSlotIndex")), byte(cls("bVoltageSupport"))
	for off, k := range map[int]string{6: "dwProtocols", 10: "dwDefaultClock", 14: "dwMaximumClock", 19: "dwDataRate",
		23: "dwMaxDataRate", 28: "dwMaxIFSD", 32: "dwSynchProtocols", 36: "dwMechanical", 40: "dwFeatures", 44: "dwMaxCCIDMessageLength"} {
		le.PutUint32(c[off:], cls(k))
	}
	c[18], c[27] = byte(cls("bNumClockSupported")), byte(cls("bNumDataRatesSupported"))
	c[48], c[49] = byte(cls("bClassGetResponse")), byte(cls("bClassEnvelope"))
	le.PutUint16(c[50:], uint16(cls("wLcdLayout")))
	c[52], c[53] = byte(cls("bPINSupport")), byte(cls("bMaxCCIDBusySlots"))

	eps := dev("bNumEndpoints")
	conf := []byte{9, 2, 0, 0, 1, 1, 0, 0x80, 50,
		9, 4, byte(dev("bInterfaceNumber")), byte(dev("bAlternateSetting")), byte(eps),
		byte(dev("bInterfaceClass")), byte(dev("bInterfaceSubClass")), byte(dev("bInterfaceProtocol")), 0}
	conf = append(conf, c...)
	if eps >= 2 {
		conf = append(conf, 7, 5, 0x02, 2, 64, 0, 0, 7, 5, 0x81, 2, 64, 0, 0)
	}
	if eps == 1 || eps == 3 {
		conf = append(conf, 7, 5, 0x83, 3, 8, 0, 24)
	}
	le.PutUint16(conf[2:], uint16(len(conf)))
	return append(d, conf...)
}

// Every field of every descriptor is read as the listing shows it. The counts summarise
// what the driver makes of the readers, so a change shows here.
func TestRealReaders(t *testing.T) {
	all := readListings(t)
	levels := map[string]int{}
	refused := map[string]string{}
	corrected, pinpads, slots := 0, 0, 0
	files := map[string]bool{}
	for _, l := range all {
		files[l.file] = true
		desc := l.descriptors(t)
		name := fmt.Sprintf("%s (%s:%s interface %s)", l.file, l.device["idVendor"], l.device["idProduct"], l.device["bInterfaceNumber"])
		dev, ifs, err := Parse(desc)
		if err != nil {
			refused[name] = err.Error()
			continue
		}
		i := ifs[0]
		raw := decodeClass(desc[18+18:])
		for _, f := range []struct {
			key string
			got uint32
		}{
			{"bcdCCID", uint32(raw.Release)}, {"bMaxSlotIndex", uint32(raw.MaxSlotIndex)}, {"bVoltageSupport", uint32(raw.VoltageSupport)},
			{"dwProtocols", raw.Protocols}, {"dwDefaultClock", raw.DefaultClock}, {"dwMaximumClock", raw.MaximumClock},
			{"bNumClockSupported", uint32(raw.NumClocks)}, {"dwDataRate", raw.DataRate}, {"dwMaxDataRate", raw.MaxDataRate},
			{"bNumDataRatesSupported", uint32(raw.NumDataRates)}, {"dwMaxIFSD", raw.MaxIFSD}, {"dwSynchProtocols", raw.SynchProtocols},
			{"dwMechanical", raw.Mechanical}, {"dwFeatures", uint32(raw.Features)}, {"dwMaxCCIDMessageLength", raw.MaxMessage},
			{"bClassGetResponse", uint32(raw.ClassGetResp)}, {"bClassEnvelope", uint32(raw.ClassEnvelope)},
			{"wLcdLayout", uint32(raw.LCDLayout)}, {"bPINSupport", uint32(raw.PINSupport)}, {"bMaxCCIDBusySlots", uint32(raw.MaxBusySlots)},
		} {
			if want := l.field(t, l.class, f.key); f.got != want {
				t.Errorf("%s: %s = %d, want %d", name, f.key, f.got, want)
			}
		}
		if want := uint16(l.field(t, l.device, "bcdDevice")); dev.Release != want {
			t.Errorf("%s: bcdDevice %04X, want %04X", name, dev.Release, want)
		}
		if len(i.Notes) > 0 {
			corrected++
		} else if raw.MaxIFSD = min(raw.MaxIFSD, 254); raw.MaxIFSD != 0 && i.Descriptor != raw {
			t.Errorf("%s: changed without a note:\n%+v\n%+v", name, i.Descriptor, raw)
		}
		e := lookup(dev)
		if dev.Release < e.minFirmware {
			refused[name] = fmt.Sprintf("firmware %s, below %s it has known defects", bcd(dev.Release), bcd(e.minFirmware))
			continue
		}
		if len(usable(ifs, e, anyInterface)) == 0 {
			refused[name] = "interface is no reader"
			continue
		}
		e.apply(&i)
		f := &function{ifd: &ifd{effects: e}, Interface: i}
		levels[f.levelName()]++
		slots += int(i.MaxSlotIndex) + 1
		if s := (&slot{function: f}).PINSupport(); s.Verify {
			pinpads++
		}
		if tr := f.traits(); tr.IFSD < 1 || tr.IFSD > 254 || tr.ClockHz < 1_000_000 {
			t.Errorf("%s: %+v", name, tr)
		}
	}
	t.Logf("%d files, %d interfaces, %d slots; %d descriptors corrected, %d PIN pads", len(files), len(all), slots, corrected, pinpads)
	for _, l := range slices.Sorted(maps.Keys(levels)) {
		t.Logf("%4d at %s level", levels[l], l)
	}
	t.Logf("%4d refused", len(refused))
	for _, n := range slices.SortedFunc(maps.Keys(refused), cmp.Compare[string]) {
		t.Logf("     %s: %s", n, refused[n])
	}
	want := map[string]int{
		"character": 3, "TPDU": 276, "short APDU": 187, "extended APDU": 294,
		"TPDU, ICCD A": 2, "TPDU, ICCD B": 1, "short APDU, ICCD B": 8,
	}
	if !maps.Equal(levels, want) {
		t.Errorf("levels %v, want %v", levels, want)
	}
	if len(refused) != 2 {
		t.Errorf("%d refused, want 2: ActivCard V2 and SCL010 with old firmware", len(refused))
	}
}

// Notes are complete sentences for `status`; those about real readers are worth reading.
func TestRealReadersNotes(t *testing.T) {
	notes := map[string]int{}
	for _, l := range readListings(t) {
		if _, ifs, err := Parse(l.descriptors(t)); err == nil {
			for _, n := range ifs[0].Notes {
				notes[n]++
			}
		} else if !errors.Is(err, reader.ErrProtocol) && !errors.Is(err, reader.ErrUnsupported) {
			t.Errorf("%s: %v is of no kind", l.file, err)
		}
	}
	for _, n := range slices.Sorted(maps.Keys(notes)) {
		t.Logf("%4d %s", notes[n], n)
	}
}
