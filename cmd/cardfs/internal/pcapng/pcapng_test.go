package pcapng

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var when = time.Unix(1700000000, 123456000).UTC()

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// block is a block as the draft has it, section 3.1: type, length, body, length.
type block struct {
	kind uint32
	body []byte
}

func blocks(t *testing.T, file []byte) (all []block) {
	t.Helper()
	for len(file) > 0 {
		if len(file) < 12 {
			t.Fatalf("%d bytes at the end", len(file))
		}
		n := binary.LittleEndian.Uint32(file[4:])
		if n%4 != 0 || int(n) > len(file) || n < 12 {
			t.Fatalf("a block of %d bytes; %d are left", n, len(file))
		}
		if again := binary.LittleEndian.Uint32(file[n-4:]); again != n {
			t.Fatalf("length %d, and at the end %d", n, again)
		}
		all = append(all, block{binary.LittleEndian.Uint32(file), file[8 : n-4]})
		file = file[n:]
	}
	return all
}

// options are those at the end of a block, as CODE=VALUE.
func options(t *testing.T, b []byte) (list []string) {
	t.Helper()
	for {
		code, n := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
		if code == 0 {
			if n != 0 || len(b) != 4 {
				t.Errorf("the end of the options has length %d, %d bytes follow", n, len(b)-4)
			}
			return list
		}
		list = append(list, fmt.Sprintf("%d=%s", code, b[4:4+n]))
		b = b[4+(n+3)/4*4:]
	}
}

// Each block as the draft wants it, byte by byte where it is not an option.
func TestBlocks(t *testing.T) {
	var out bytes.Buffer
	w, err := New(&out, "cardfs 1")
	if err != nil {
		t.Fatal(err)
	}
	one, err1 := w.Interface("one", "the first", when)
	two, err2 := w.Interface("two", "", when)
	two.Lost(2)
	two.Lost(1)
	err = errors.Join(err1, err2, two.Packet(when, []byte("12345"), "masked", "twice"), one.Packet(when, nil),
		two.Packet(when, []byte("1234")), two.End(when.Add(time.Second), "gone"))
	if err != nil {
		t.Fatal(err)
	}
	all := blocks(t, out.Bytes())
	us := uint64(when.UnixMicro())
	stamp := string(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, uint32(us>>32)), uint32(us)))
	us += 1e6
	later := string(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, uint32(us>>32)), uint32(us)))
	for i, want := range []struct {
		kind    uint32
		fixed   string
		options []string
	}{
		{0x0A0D0D0A, "\x4D\x3C\x2B\x1A\x01\x00\x00\x00\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", []string{"4=cardfs 1"}},
		{1, "\xE4\x00\x00\x00\x00\x00\x00\x00", []string{"2=one", "3=the first", "9=\x06"}},
		{1, "\xE4\x00\x00\x00\x00\x00\x00\x00", []string{"2=two", "9=\x06"}},
		{6, "\x01\x00\x00\x00" + stamp + "\x05\x00\x00\x00\x05\x00\x00\x0012345\x00\x00\x00", []string{"1=masked", "1=twice"}},
		{6, "\x00\x00\x00\x00" + stamp + "\x00\x00\x00\x00\x00\x00\x00\x00", nil},
		{6, "\x01\x00\x00\x00" + stamp + "\x04\x00\x00\x00\x04\x00\x00\x001234", nil},
		{5, "\x01\x00\x00\x00" + later, []string{"1=gone", "2=" + stamp, "3=" + later, "4=\x05\x00\x00\x00\x00\x00\x00\x00", "5=\x03\x00\x00\x00\x00\x00\x00\x00"}},
	} {
		b := all[i]
		if b.kind != want.kind || len(b.body) < len(want.fixed) || string(b.body[:len(want.fixed)]) != want.fixed {
			t.Errorf("block %d: type %x, % X; want %x, % X", i, b.kind, b.body, want.kind, want.fixed)
			continue
		}
		if got := options(t, b.body[len(want.fixed):]); !slices.Equal(got, want.options) {
			t.Errorf("block %d: options %q, want %q", i, got, want.options)
		}
	}
	if len(all) != 7 {
		t.Errorf("%d blocks", len(all))
	}
}

// "The Option Length is a 16-bit unsigned value": a longer text is cut.
func TestLongComment(t *testing.T) {
	var out bytes.Buffer
	w, _ := New(&out, "")
	i, _ := w.Interface("i", "", when)
	if err := i.Packet(when, nil, strings.Repeat("x", 1<<17)); err != nil {
		t.Fatal(err)
	}
	got := options(t, blocks(t, out.Bytes())[2].body[20:])
	if len(got) != 1 || len(got[0]) != len("1=")+0xFFFF {
		t.Errorf("%d comments, %d bytes", len(got), len(got[0]))
	}
}

// chunks keeps the data of each Write.
type chunks struct {
	list [][]byte
	err  error
}

func (c *chunks) Write(p []byte) (int, error) {
	c.list = append(c.list, bytes.Clone(p))
	return len(p), c.err
}

// A file that is cut off ends with a whole block: each is one Write.
func TestWritesAreWhole(t *testing.T) {
	var out chunks
	w, _ := New(&out, "p")
	i, _ := w.Interface("i", "", when)
	i.Packet(when, make([]byte, 70000), "c")
	i.End(when)
	if len(out.list) != 4 {
		t.Fatalf("%d writes", len(out.list))
	}
	for n, chunk := range out.list {
		if got := len(blocks(t, chunk)); got != 1 {
			t.Errorf("write %d has %d blocks", n, got)
		}
	}
}

func TestWriteFails(t *testing.T) {
	out := chunks{err: os.ErrClosed}
	w, err := New(&out, "p")
	if !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	i, err := w.Interface("i", "", when)
	if !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	if err := i.Packet(when, nil); !errors.Is(err, os.ErrClosed) || !strings.Contains(err.Error(), "capture file") {
		t.Error(err)
	}
	if err := i.End(when); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

// The headers: IPv4 (RFC 791), UDP (RFC 768), GSMTAP.
func TestWrap(t *testing.T) {
	got := wrap(typeSIM, simAPDU, unhex(t, "00 A4 00 00 00 90 00"))
	want := unhex(t, "45 00 00 33 00 00 40 00 40 11 3C B8 7F 00 00 01 7F 00 00 01"+
		"12 79 12 79 00 1F 00 00"+
		"02 04 04 00 00 00 00 00 00 00 00 00 00 00 00 00"+
		"00 A4 00 00 00 90 00")
	if !bytes.Equal(got, want) {
		t.Errorf("% X\nwant\n% X", got, want)
	}
	// RFC 1071: the sum over the header with its checksum is 0.
	if sum := checksum(got[:20]); sum != 0 {
		t.Errorf("sum %04X", sum)
	}
}

// What stands behind the GSMTAP header, for each case of a command.
func TestExchange(t *testing.T) {
	for _, tt := range []struct {
		name, command, answer, want string
		comments                    []string
	}{
		{"1", "00 A4 00 00", "90 00", "00 A4 00 00 00 90 00", []string{"case 1: the command has no P3"}},
		{"2S", "00 B0 00 00 02", "AA BB 90 00", "00 B0 00 00 02 AA BB 90 00", nil},
		{"2S, up to 256", "00 B0 00 00 00", "AA BB 90 00", "00 B0 00 00 02 AA BB 90 00", []string{"Le of the command: 00"}},
		{"2S, refused", "00 B0 00 00 02", "6A 82", "00 B0 00 00 00 6A 82", []string{"Le of the command: 02"}},
		{"2S, refused, up to 256", "00 B0 00 00 00", "6A 82", "00 B0 00 00 00 6A 82", nil},
		{"2S, no answer", "00 B0 00 00 02", "", "00 B0 00 00 00", []string{"Le of the command: 02"}},
		{"3S", "00 A4 00 0C 02 3F 00", "90 00", "00 A4 00 0C 02 3F 00 90 00", nil},
		{"4S", "00 A4 00 00 02 3F 00 00", "6F 00 90 00", "00 A4 00 00 02 3F 00 6F 00 90 00", []string{"Le of the command: 00"}},
		{"2E", "00 B0 00 00 00 00 00", "AA 90 00", "00 B0 00 00 00 00 01 AA 90 00", []string{"Le of the command: 00 00"}},
		{"2E, exact", "00 B0 00 00 00 00 01", "AA 90 00", "00 B0 00 00 00 00 01 AA 90 00", nil},
		{"3E", "00 D6 00 00 00 00 01 AA", "90 00", "00 D6 00 00 00 00 01 AA 90 00", nil},
		{"4E", "00 CB 00 00 00 00 01 AA 01 00", "90 00", "00 CB 00 00 00 00 01 AA 90 00", []string{"Le of the command: 01 00"}},
		{"none", "00 D6 00 00 02 AA", "67 00", "00 D6 00 00 02 AA 67 00", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			command := unhex(t, tt.command)
			packet, comments := Exchange(command, unhex(t, tt.answer))
			if got := packet[44:]; !bytes.Equal(got, unhex(t, tt.want)) || packet[30] != typeSIM {
				t.Errorf("% X, want %s", got, tt.want)
			}
			if !slices.Equal(comments, tt.comments) {
				t.Errorf("%q, want %q", comments, tt.comments)
			}
			if !bytes.Equal(command, unhex(t, tt.command)) {
				t.Error("the command itself was changed")
			}
		})
	}
}

// IPv4's length has 16 bits. What is longer loses bytes, but not its status.
func TestLongExchange(t *testing.T) {
	command := append(unhex(t, "00 D6 00 00 00 FF FF"), make([]byte, 65535)...)
	answer := append(bytes.Repeat([]byte{0xAB}, 65536), 0x90, 0x0F)
	for _, tt := range []struct{ command, answer []byte }{
		{command, answer}, {command, answer[len(answer)-2:]}, {command[:4], answer}, {command, nil},
	} {
		packet, comments := Exchange(tt.command, tt.answer)
		if len(packet) != 65535 || binary.BigEndian.Uint16(packet[2:]) != 65535 || binary.BigEndian.Uint16(packet[24:]) != 65515 {
			t.Errorf("%d bytes; lengths % X, % X", len(packet), packet[2:4], packet[24:26])
		}
		if len(tt.answer) > 0 && !bytes.HasSuffix(packet, []byte{0x90, 0x0F}) {
			t.Error("the status word is lost")
		}
		n := len(tt.command) + len(tt.answer) - maxPayload
		if len(tt.command) == 4 {
			n++
		}
		if want := fmt.Sprintf("%d bytes before SW1 SW2 are left out", n); comments[len(comments)-1] != want {
			t.Errorf("%q, want %q", comments, want)
		}
	}
	// The longest that fits.
	packet, comments := Exchange(command[:len(command)-60], answer[len(answer)-2:])
	if _, again := Exchange(command[:len(command)-53], answer[len(answer)-2:]); len(packet) != 65535-7 || len(comments) != 0 || len(again) != 0 {
		t.Errorf("%d bytes, %q, %q", len(packet), comments, again)
	}
	if _, over := Exchange(command[:len(command)-52], answer[len(answer)-2:]); len(over) != 1 {
		t.Errorf("one byte more: %q", over)
	}
}

// struct gsmtap_osmocore_log_hdr: the time, the program's name in 16 bytes and its number,
// the level and three bytes, the subsystem in 16 bytes, a file in 32 and a line; the text.
func TestNote(t *testing.T) {
	got := Note(when, "cold reset")[28:]
	want := slices.Concat(unhex(t, "02 04 10 00 00 00 00 00 00 00 00 00 00 00 00 00"),
		unhex(t, "65 53 F1 00 00 01 E2 40"), []byte("cardfs\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), make([]byte, 4),
		[]byte{3, 0, 0, 0}, []byte("trace\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), make([]byte, 36), []byte("cold reset"))
	if !bytes.Equal(got, want) {
		t.Errorf("% X\nwant\n% X", got, want)
	}
}

func TestLongNote(t *testing.T) {
	if n := len(Note(when, strings.Repeat("x", 1<<17))); n != 65535 {
		t.Errorf("%d bytes", n)
	}
}

// Wireshark's own program reads a file with all kinds of packets.
func TestWireshark(t *testing.T) {
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Fatal("tshark is missing: apt-get install tshark")
	}
	path := filepath.Join(t.TempDir(), "file.pcapng")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := New(f, "cardfs")
	if err != nil {
		t.Fatal(err)
	}
	a, err1 := w.Interface("0: Reader A", "sim", when)
	b, err2 := w.Interface("1: Reader B", "", when)
	err = errors.Join(err1, err2, a.Packet(when, Note(when, "cold reset")))
	for i, x := range []struct{ command, answer string }{
		{"00 A4 00 0C 02 3F 00", "90 00"},
		{"00 A4 04 00 08 F0 63 61 72 64 66 73 01 00", "6F 02 84 00 90 00"},
		{"00 B0 81 04 00", "01 02 03 04 90 00"},
		{"00 B0 00 00 10", "6A 82"},
		{"00 B0 00 00", "67 00"},
		{"00 B0 00 00 00 01 00", "01 02 90 00"},
		{"00 84 00 00 08", "00 00"},
	} {
		packet, comments := Exchange(unhex(t, x.command), unhex(t, x.answer))
		iface := a
		if i%2 == 1 {
			iface = b
		}
		err = errors.Join(err, iface.Packet(when.Add(time.Duration(i)*time.Second), packet, comments...))
	}
	b.Lost(7)
	err = errors.Join(err, a.End(when), b.End(when, "7 lines were lost"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("tshark", "-r", path, "-T", "fields", "-E", "separator=|",
		"-e", "frame.interface_name", "-e", "frame.time_epoch", "-e", "_ws.col.Protocol", "-e", "_ws.col.Info",
		"-e", "gsm_sim.apdu.data", "-e", "gsm_sim.apdu.sw", "-e", "frame.comment")
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "LC_ALL=C.UTF-8")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v", err)
	}
	want := `0: Reader A|1700000000.123456000|GSMTAP|cold reset|||
0: Reader A|1700000000.123456000|GSM SIM|ISO/IEC 7816-4 SELECT File MF ||0x9000|
1: Reader B|1700000001.123456000|GSM SIM|ISO/IEC 7816-4 SELECT Application f063617264667301 ||0x9000|Le of the command: 00
0: Reader A|1700000002.123456000|GSM SIM|ISO/IEC 7816-4 READ BINARY Offset=4 |01020304|0x9000|Le of the command: 00
1: Reader B|1700000003.123456000|GSM SIM|ISO/IEC 7816-4 READ BINARY Offset=0 : Wrong parameters: File not found |<MISSING>|0x6a82|Le of the command: 10
0: Reader A|1700000004.123456000|GSM SIM|ISO/IEC 7816-4 READ BINARY Offset=0 : Wrong length |<MISSING>|0x6700|case 1: the command has no P3
1: Reader B|1700000005.123456000|GSM SIM|ISO/IEC 7816-4 READ BINARY Offset=0 |<MISSING>|0x9000|Le of the command: 01 00
0: Reader A|1700000006.123456000|GSM SIM|ISO/IEC 7816-4 GET CHALLENGE : Unknown status word: 0000 ||0x0000|Le of the command: 08
`
	if string(out) != want {
		t.Errorf("%s\nwant\n%s", out, want)
	}
}
