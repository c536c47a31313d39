package rutoken

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/drivers/bus/usb/usbtest"
	"github.com/cardfs/cardfs/drivers/rutoken/emu"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// What crosses the bus, a line of a session each.
func send(p string) string {
	return fmt.Sprintf("OUT 41 65 0000 0000 %04X 10s | %s\n", len(unhex(p)), p)
}
func fetch(n int, p string) string { return fmt.Sprintf("IN C1 6F 0000 0000 %04X 10s | %s\n", n, p) }

// status is reads of the status, in words: 10 41 . 42 . 20; a dot is a pause.
func status(words string) (s string) {
	for _, w := range strings.Fields(words) {
		if w == "." {
			s += "wait 10ms\n"
		} else {
			s += "IN C1 A0 0000 0000 0001 1s | " + w + "\n"
		}
	}
	return s
}

func sw(p string) string { return fetch(2, p) + status("00") }

// The TPDUs of the cases of ISO/IEC 7816-3:2006 §12.1.3; case 2 with an answer, and with SW1
// SW2 alone.
func case1(header, sw12 string) string { return send(header) + status("20 20") + sw(sw12) }
func case2(header, data, sw12 string) string {
	le := int(unhex(header)[4])
	if le == 0 {
		le = 256
	}
	return send(header) + status("10 10") + fetch(le, data) + status("20 20") + sw(sw12)
}
func noData(header, sw12 string) string { return send(header) + status("20 20 20") + sw(sw12) }
func case3(header, data, sw12 string) string {
	return send(header) + status("10 10") + send(data) + status("20 20") + sw(sw12)
}

const powerOn = "claim 0\nOUT 41 63 0000 0000 0000 10s |\nIN C1 A0 0000 0000 0001 1s | 10\nIN C1 62 0000 0000 0013 1s | " + atr + "\n"

// player plays a power-up and what the session says then.
func player(t *testing.T, session string, params ...string) reader.Slot {
	t.Helper()
	lines, err := usbtest.Parse(powerOn + session)
	if err != nil {
		t.Fatalf("%v in\n%s", err, session)
	}
	_, s := open(t, usbtest.NewPlayer(t, lines).Describe(emu.New("").Descriptors()), params...)
	if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
		t.Fatal(err)
	}
	return s
}

// The TPDUs and answers of commands: what the sheet of OpenCT's rules says, and where this
// driver differs (rewrite.go, command.go).
func TestCommands(t *testing.T) {
	const (
		selected = "00 A4 00 00 02"
		fetchAll = "00 C0 00 00 00"
		objectR  = "03 00 11 05 01 02 03 00 00 00 00 00 00 00 00 00 00 01 02 03 04 05 06 07 08 11 12 13 14 15 16 17 AA BB CC"
		object   = "80 02 00 03 83 02 11 05 85 03 01 02 03 86 28 01 02 03 04 05 06 07 08 " +
			"11 00 00 00 12 00 00 00 13 00 00 00 14 00 00 00 15 00 00 00 16 00 00 00 17 00 00 00 00 00 00 00 A5 03 AA BB CC "
	)
	bytesOf := func(n int) string { return strings.Repeat("AB ", n) }
	for _, tt := range []struct {
		name, params, command, session, answer string
	}{
		{"case 1", "", "80 40 00 00", case1("80 40 00 00 00", "90 00"), "90 00"},
		{"case 2", "", "00 84 00 00 08", case2("00 84 00 00 08", "11 12 13 14 15 16 17 18", "90 00"), "11 12 13 14 15 16 17 18 90 00"},
		{"case 2, 256", "", "00 B0 00 00 00", case2("00 B0 00 00 00", bytesOf(256), "90 00"), bytesOf(256) + "90 00"},
		{"case 2, fewer", "", "00 B0 00 00 00", case2("00 B0 00 00 00", "AB CD", "62 82"), "AB CD 62 82"},
		{"case 2, refused", "", "00 84 00 00 08", noData("00 84 00 00 08", "6D 00"), "6D 00"},
		{"case 2, 67xx with data", "", "00 84 00 00 08", case2("00 84 00 00 08", "AB", "67 00"), "AB 67 00"},
		{"6Cxx is followed", "", "00 84 00 00 08", noData("00 84 00 00 08", "6C 02") + case2("00 84 00 00 02", "AB CD", "90 00"), "AB CD 90 00"},
		{"once", "", "00 84 00 00 08", noData("00 84 00 00 08", "6C 02") + noData("00 84 00 00 02", "6C 03"), "6C 03"},
		{"case 2, 61xx", "", "00 84 00 00 08", case2("00 84 00 00 08", "AB", "61 02") + case2("00 C0 00 00 02", "CD EF", "90 00"), "AB CD EF 90 00"},
		{"case 3", "", "00 D6 00 00 02 AA BB", case3("00 D6 00 00 02", "AA BB", "90 00"), "90 00"},
		{"case 3, 255", "", "00 D6 00 00 FF " + bytesOf(255), case3("00 D6 00 00 FF", bytesOf(255), "90 00"), "90 00"},
		{"case 3, refused without its data", "", "00 D6 00 00 02 AA BB", noData("00 D6 00 00 02", "69 82"), "69 82"},
		{"case 3, 61xx: dropped", "", "00 22 00 00 01 AA", case3("00 22 00 00 01", "AA", "61 02") + case2("00 C0 00 00 02", "CD EF", "90 00"), "90 00"},
		{"its SW counts", "", "00 22 00 00 01 AA", case3("00 22 00 00 01", "AA", "61 02") + case2("00 C0 00 00 02", "CD EF", "62 81"), "62 81"},
		{"case 3, 6Cxx", "", "00 22 00 00 01 AA", case3("00 22 00 00 01", "AA", "6C 02"), "6C 02"},
		{"case 4, 61xx", "", "00 2A 00 00 01 AA 00", case3("00 2A 00 00 01", "AA", "61 02") + case2("00 C0 00 00 02", "CD EF", "90 00"), "CD EF 90 00"},
		{"case 4, 61xx of a proprietary class", "", "80 2A 00 00 01 AA 00", case3("80 2A 00 00 01", "AA", "61 02") + case2("00 C0 00 00 02", "CD EF", "90 00"), "CD EF 90 00"},
		{"case 4, 90 00", "", "00 2A 00 00 01 AA 00", case3("00 2A 00 00 01", "AA", "90 00") + case2(fetchAll, "CD EF", "90 00"), "CD EF 90 00"},
		{"case 4, 90 00, no more than Le", "", "00 2A 00 00 01 AA 01", case3("00 2A 00 00 01", "AA", "90 00") + case2(fetchAll, "CD EF", "90 00"), "CD 90 00"},
		{"case 4, 90 00, and no data", "", "00 2A 00 00 01 AA 00", case3("00 2A 00 00 01", "AA", "90 00") + noData(fetchAll, "69 85"), "69 85"},
		{"case 4, 90 00, 6Cxx", "", "00 2A 00 00 01 AA 00", case3("00 2A 00 00 01", "AA", "90 00") + noData(fetchAll, "6C 02") + case2("00 C0 00 00 02", "CD EF", "90 00"), "CD EF 90 00"},
		{"case 4, refused", "", "00 2A 00 00 01 AA 00", case3("00 2A 00 00 01", "AA", "69 82"), "69 82"},
		{"t0=plain: case 4", "t0=plain", "00 2A 00 00 01 AA 00", case3("00 2A 00 00 01", "AA", "61 02"), "61 02"},
		{"t0=plain: case 3", "t0=plain", "00 2A 00 00 01 AA", case3("00 2A 00 00 01", "AA", "61 02"), "61 02"},
		{"t0=plain: case 2", "t0=plain", "00 84 00 00 08", noData("00 84 00 00 08", "6C 02"), "6C 02"},

		{"SELECT", "", selected + "3F 00", case3(selected, "00 3F", "90 00") + case2(fetchAll, record, "90 00"), fcp + "90 00"},
		{"SELECT, case 4", "", selected + "3F 00 00", case3(selected, "00 3F", "90 00") + case2(fetchAll, record, "90 00"), fcp + "90 00"},
		{"SELECT, case 4, Le 20", "", selected + "3F 00 20", case3(selected, "00 3F", "90 00") + case2(fetchAll, record, "90 00"), fcp + "90 00"},
		{"SELECT, 61xx", "", selected + "3F 00", case3(selected, "00 3F", "61 20") + case2("00 C0 00 00 20", record, "90 00"), fcp + "90 00"},
		{"SELECT, not found", "", selected + "3F 00", case3(selected, "00 3F", "6A 82"), "6A 82"},
		{"SELECT, another answer", "", selected + "3F 00", case3(selected, "00 3F", "90 00") + case2(fetchAll, bytesOf(31), "90 00"), bytesOf(31) + "90 00"},
		{"SELECT, a warning", "", selected + "3F 00", case3(selected, "00 3F", "90 00") + case2(fetchAll, record, "62 83"), record + "62 83"},
		{"SELECT, no answer wanted", "", "00 A4 00 0C 02 3F 00", case3("00 A4 00 0C 02", "00 3F", "90 00"), "90 00"},
		{"SELECT, no answer wanted, and yet an Le", "", "00 A4 00 0C 02 3F 00 00", case3("00 A4 00 0C 02", "00 3F", "90 00") + case2(fetchAll, record, "90 00"), fcp + "90 00"},
		{"SELECT by path", "", "00 A4 08 00 04 50 15 44 01", case3("00 A4 08 00 04", "15 50 01 44", "6A 82"), "6A 82"},
		{"SELECT, an odd length, Le", "", "00 A4 08 00 03 50 15 44 00", case3("00 A4 08 00 03", "15 50 44", "6A 82"), "6A 82"},
		{"SELECT by name", "", "00 A4 04 00 02 A0 01 00", case3("00 A4 04 00 02", "A0 01", "90 00") + case2(fetchAll, record, "90 00"), record + "90 00"},
		{"the first file", "", "00 A4 00 00 00", case2("00 A4 00 00 20", record, "90 00"), fcp + "90 00"},
		{"and no more of them", "", "00 A4 00 00 00", noData("00 A4 00 00 20", "6A 82"), "6A 82"},
		{"6Cxx here, too", "", "00 A4 00 00 00", noData("00 A4 00 00 20", "6C 10") + case2("00 A4 00 00 10", bytesOf(16), "90 00"), bytesOf(16) + "90 00"},
		{"and once", "", "00 A4 00 00 00", noData("00 A4 00 00 20", "6C 21") + noData("00 A4 00 00 21", "6C 20"), "6C 20"},
		{"SELECT of 4 bytes", "", "00 A4 00 00", case2("00 A4 00 00 20", record, "90 00"), "90 00"},
		{"DELETE FILE", "", "00 E4 00 00 02 50 15", case3("00 E4 00 00 02", "15 50", "90 00"), "90 00"},
		{"DELETE FILE of 4 bytes", "", "00 E4 00 00", case1("00 E4 00 00 00", "90 00"), "90 00"},
		{"CREATE FILE", "", "00 E0 00 00 3F " + fcp, case3("00 E0 00 00 20", "00 10 00 04 01 00 00 3F 00 00 00 00 00 00 00 00 00 01 02 03 04 05 06 07 08 11 12 13 14 15 16 17", "90 00"), "90 00"},
		{"CREATE FILE, case 4", "", "00 E0 00 00 3F " + fcp + "00", case3("00 E0 00 00 20", "00 10 00 04 01 00 00 3F 00 00 00 00 00 00 00 00 00 01 02 03 04 05 06 07 08 11 12 13 14 15 16 17", "6A 89"), "6A 89"},
		{"CREATE DO", "", "00 DA 01 62 3C " + object, case3("00 DA 01 62 23", objectR, "90 00"), "90 00"},
		{"CREATE DO, low byte first", "", "00 DA 01 62 3C " + strings.Replace(object, "00 03", "03 00", 1), case3("00 DA 01 62 23", "00 03"+objectR[5:], "90 00"), "90 00"},
		{"GENERATE KEY", "", "00 DA 01 65 37 80 02 20 00" + object[11:len(object)-15], case3("00 DA 01 65 20", "00 20"+objectR[5:len(objectR)-9], "90 00"), "90 00"},
		{"GENERATE KEY, too short", "", "00 DA 01 65 0D 80 02 20 00 83 02 11 05 85 03 01 02 03", case3("00 DA 01 65 0D", "80 02 20 00 83 02 11 05 85 03 01 02 03", "90 00"), "90 00"},
		{"GET DO INFO", "", "80 30 00 00 00", case2("80 30 00 00 FF", objectR, "90 00"), object + "90 00"},
		{"GET DO INFO by number", "", "80 30 00 00 01 05 FF", case3("80 30 00 00 01", "05", "90 00") + case2(fetchAll, objectR, "90 00"), object + "90 00"},
		{"GET DO INFO by number, 61xx", "", "80 30 00 00 01 05 FF", case3("80 30 00 00 01", "05", "61 23") + case2("00 C0 00 00 23", objectR, "90 00"), object + "90 00"},
		{"GET DO INFO, no Le", "", "80 30 00 00 01 05", case3("80 30 00 00 01", "05", "90 00"), "90 00"},
		{"GET DO INFO of 4 bytes", "", "80 30 00 00", case1("80 30 00 00 00", "90 00"), "90 00"},
		{"GET DO INFO, no more", "", "80 30 00 00 00", noData("80 30 00 00 FF", "6A 82"), "6A 82"},
		{"GET DO INFO, short", "", "80 30 00 00 00", case2("80 30 00 00 FF", bytesOf(31), "90 00"), bytesOf(31) + "90 00"},
		{"serial number", "", "00 CA 01 81 06", case2("00 CA 01 81 06", "01 02 03 04 05 06", "90 00"), "04 03 02 01 05 06 90 00"},
		{"free memory", "", "00 CA 01 8A 04", case2("00 CA 01 8A 04", "01 02 03 04", "90 00"), "04 03 02 01 90 00"},
		{"current EF", "", "00 CA 01 11 03", case2("00 CA 01 11 03", "01 02 03", "90 00"), "02 01 03 90 00"},
		{"after a warning nothing is rewritten", "", "00 CA 01 81 04", case2("00 CA 01 81 04", "01 02 03 04", "62 81"), "01 02 03 04 62 81"},
		{"other data", "", "00 CA 01 89 04", case2("00 CA 01 89 04", "01 02 03 04", "90 00"), "01 02 03 04 90 00"},
		{"of another P1", "", "00 CA 00 81 04", case2("00 CA 00 81 04", "01 02 03 04", "90 00"), "01 02 03 04 90 00"},
		{"other classes", "", "10 A4 00 00 02 3F 00", case3("10 A4 00 00 02", "3F 00", "90 00"), "90 00"},

		{"off: case 2", "rewrite=off", "00 CA 01 81 04", case2("00 CA 01 81 04", "01 02 03 04", "90 00"), "01 02 03 04 90 00"},
		{"off: case 3", "rewrite=off", selected + "3F 00", case3(selected, "3F 00", "90 00"), "90 00"},
		{"off: SELECT, P3 as it is", "rewrite=off", "00 A4 00 00 00", noData("00 A4 00 00 00", "6C 20"), "6C 20"},
		{"busy in each phase", "rewrite=off", selected + "3F 00",
			send(selected) + status("41 . 42 . 10 4F . 40 . 10") + send("3F 00") + status("47 . 20 41 . 20") + fetch(2, "90 00") + status("45 . 00"), "90 00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := player(t, tt.session, strings.Fields(tt.params)...)
				exchange(t, s, tt.command, tt.answer)
				if d := s.(interface{ Unwrap() reader.Slot }).Unwrap().(*dialect); true {
					clean(t, d)
				}
			})
		})
	}
}

// clean checks that nothing of a command or an answer is left in the driver.
func clean(t *testing.T, d *dialect) {
	t.Helper()
	if b := d.in[1:]; len(bytes.Trim(b, "\x00")) > 0 { // before them is a status
		t.Errorf("the driver holds % X", b)
	}
	if d.r == nil {
		return
	}
	for _, b := range [][]byte{d.r.data[:], d.r.out[:], d.r.rx[:]} {
		if len(bytes.Trim(b, "\x00")) > 0 {
			t.Errorf("the driver holds % X", b)
		}
	}
}

// What a token may not say in an exchange. The error says on which device and in which step,
// no bytes, and nothing is sent before the next reset.
func TestRefused(t *testing.T) {
	const verify, pin = "00 20 00 02 08", "31 32 33 34 35 36 37 38"
	for _, tt := range []struct {
		name, session string
		is            error
		says          string
	}{
		{"mute after the header", send(verify) + status("80 80 80"), reader.ErrTimeout, "receive SW1 SW2: the card is mute"},
		{"mute after the data", send(verify) + status("10 10") + send(pin) + status("80 80"), reader.ErrTimeout, "the card is mute (status 80)"},
		{"data phase of another status", send(verify) + status("11 11 11"), reader.ErrProtocol, "receive SW1 SW2: status 11, not 20"},
		{"idle in place of data", send(verify) + status("00 00 00"), reader.ErrProtocol, "status 00, not 20"},
		{"SW phase of another status", send(verify) + status("10 10") + send(pin) + status("20 21"), reader.ErrProtocol, "status 21, not 20"},
		{"mute, and more", send(verify) + status("81 81 81"), reader.ErrProtocol, "status 81, not 20"},
		{"SW1 alone", send(verify) + status("10 10") + send(pin) + status("20 20") + fetch(2, "90") + status("00"), reader.ErrProtocol, "receive SW1 SW2: one byte"},
		{"no SW", send(verify) + status("10 10") + send(pin) + status("20 20") + fetch(2, ""), reader.ErrProtocol, "receive SW1 SW2: no bytes"},
		{"no status", send(verify) + "IN C1 A0 0000 0000 0001 1s |\n", reader.ErrProtocol, "send header: a status of no bytes"},
		{"no status later", send(verify) + status("10") + "IN C1 A0 0000 0000 0001 1s |\n", reader.ErrProtocol, "data phase: a status of no bytes"},
		{"no status while it is busy", send(verify) + status("41 .") + "IN C1 A0 0000 0000 0001 1s |\n", reader.ErrProtocol, "send header: a status of no bytes"},
		{"stalls the header", "OUT 41 65 0000 0000 0005 10s | " + verify + " stall\n", reader.ErrProtocol, "send header: request 65"},
		{"stalls the data", send(verify) + status("10 10") + "OUT 41 65 0000 0000 0008 10s | " + pin + " stall\n", reader.ErrProtocol, "send data: request 65"},
		{"stalls the status", send(verify) + "IN C1 A0 0000 0000 0001 1s | stall\n", reader.ErrProtocol, "send header: request A0"},
		{"keeps the status", send(verify) + status("10") + "IN C1 A0 0000 0000 0001 1s | timeout\n", reader.ErrTimeout, "data phase: request A0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := player(t, tt.session)
				for i, is := range []error{tt.is, reader.ErrStale} {
					dst := append(make([]byte, 0, 600), "kept"...)
					got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex(verify + pin), Until: time.Now().Add(time.Hour)}, dst)
					if !errors.Is(err, is) || i == 0 && !strings.Contains(err.Error(), tt.says) || !strings.HasPrefix(err.Error(), "rutoken usb:1-2: ") {
						t.Errorf("%v; want %v and %q", err, is, tt.says)
					}
					for _, secret := range []string{"31", "36", "8 bytes", "13"} {
						if strings.Contains(strings.ReplaceAll(err.Error(), "rutoken usb:1-2", ""), secret) {
							t.Errorf("%q tells of the command", err)
						}
					}
					if string(got) != "kept" && got != nil || len(bytes.Trim(dst[4:cap(dst)], "\x00")) > 0 {
						t.Errorf("% X", got)
					}
				}
				d := s.(interface{ Unwrap() reader.Slot }).Unwrap().(*dialect)
				clean(t, d)
				if st, _ := s.Status(t.Context()); st != reader.Present {
					t.Errorf("status %v", st)
				}
			})
		})
	}
}

// Data of no bytes are none.
func TestNoData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := player(t, send("00 84 00 00 08")+status("10 10")+fetch(8, ""), "rewrite=off")
		if _, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 84 00 00 08")}, nil); !errors.Is(err, reader.ErrProtocol) || !strings.Contains(err.Error(), "receive data: no bytes") {
			t.Error(err)
		}
	})
}

// An answer whose SW1 SW2 did not come is not left with the caller.
func TestHalfAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := player(t, send("00 84 00 00 02")+status("10 10")+fetch(2, "AB CD")+status("20 80"), "rewrite=off")
		dst := append(make([]byte, 0, 600), "kept"...)
		got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 84 00 00 02")}, dst)
		if !errors.Is(err, reader.ErrTimeout) || string(got) != "kept" || len(bytes.Trim(dst[4:cap(dst)], "\x00")) > 0 {
			t.Errorf("% X, %v", dst[:10], err)
		}
	})
}

// fake is a token with an ATR and a status.
type fake struct {
	usb.Conn
	status func(n int) byte
	reads  int
	gone   chan struct{}
}

func (f *fake) OpenUSB(context.Context, uint8) (usb.Conn, error) { return f, nil }
func (f *fake) Descriptors() []byte                              { return nil }
func (f *fake) Gone() <-chan struct{}                            { return f.gone }
func (f *fake) Close() error                                     { return nil }

func (f *fake) Control(ctx context.Context, s usb.Setup, data []byte, wait time.Duration) (int, error) {
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case s.Request == reqStatus:
		f.reads++
		data[0] = f.status(f.reads)
	case s.Request == reqPowerOn:
		return copy(data, unhex(atr)), nil
	}
	return len(data), nil
}

// What a token may say to a reset, and what the card then is.
func TestPowerOn(t *testing.T) {
	const off, wait, on = "claim 0\nOUT 41 63 0000 0000 0000 10s |\n", "IN C1 A0 0000 0000 0001 1s | ", "IN C1 62 0000 0000 0013 1s | "
	for _, tt := range []struct {
		name, session string
		atr           string
		is            error
		says          string
	}{
		{"as seen", off + wait + "10\n" + on + atr, atr, nil, ""},
		{"uaToken", off + wait + "10\n" + on + "3B 6F 00 FF 00 56 75 61 54 6F 6B 6E 73 30 20 00 00 90 00", "3B 6F 00 FF 00 56 75 61 54 6F 6B 6E 73 30 20 00 00 90 00", nil, ""},
		{"busy first", off + status("41 . 42 .") + wait + "10\n" + on + atr, atr, nil, ""},
		{"a shorter ATR", off + wait + "10\n" + on + "3B 00", "3B 00", nil, ""},
		{"no ATR", off + wait + "10\n" + on, "", reader.ErrMute, "power on: an ATR of no bytes"},
		{"mute", off + wait + "80\n", "", reader.ErrMute, "power on: status 80"},
		{"idle", off + wait + "00\n", "", reader.ErrProtocol, "power on: status 00, not 10"},
		{"ready, and more", off + wait + "11\n", "", reader.ErrProtocol, "power on: status 11, not 10"},
		{"SW", off + wait + "20\n", "", reader.ErrProtocol, "power on: status 20, not 10"},
		{"stalled ATR", off + wait + "10\n" + on + "stall", "", reader.ErrMute, "power on: request 62"},
		{"late ATR", off + wait + "10\n" + on + "timeout", "", reader.ErrMute, "power on: request 62"},
		{"broken ATR", off + wait + "10\n" + on + "overflow", "", reader.ErrProtocol, "power on: request 62"},
		{"no status", off + wait, "", reader.ErrProtocol, "power on: a status of no bytes"},
		{"stalled power off", "claim 0\nOUT 41 63 0000 0000 0000 10s | stall\n", "", reader.ErrProtocol, "power off: request 63"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lines, err := usbtest.Parse(tt.session)
				if err != nil {
					t.Fatal(err)
				}
				_, s := open(t, usbtest.NewPlayer(t, lines).Describe(emu.New("").Descriptors()))
				got, err := s.PowerOn(t.Context(), reader.Warm)
				if !bytes.Equal(got, unhex(tt.atr)) || !errors.Is(err, tt.is) {
					t.Errorf("% X, %v", got, err)
				}
				if tt.is == nil {
					return
				}
				if err == nil || !strings.Contains(err.Error(), "rutoken usb:1-2: "+tt.says) || tt.is != reader.ErrMute && errors.Is(err, reader.ErrMute) {
					t.Errorf("%v, want %q", err, tt.says)
				}
				if _, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 84 00 00 08")}, nil); !errors.Is(err, reader.ErrStale) {
					t.Errorf("exchange: %v", err)
				}
			})
		})
	}
}

// A reset that never ends has ten seconds.
func TestPowerOnEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s := open(t, &fake{status: func(n int) byte { return 0x40 | byte(n)&0x0F }})
		start := time.Now()
		if _, err := s.PowerOn(t.Context(), reader.Cold); !errors.Is(err, reader.ErrTimeout) || time.Since(start) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// Power is taken away by a request, and the card takes no command then.
func TestPowerOff(t *testing.T) {
	for _, params := range []string{"rewrite=on", "rewrite=off"} {
		synctest.Test(t, func(t *testing.T) {
			s := player(t, "OUT 41 63 0000 0000 0000 10s |\n", params)
			if err := s.PowerOff(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 84 00 00 08")}, nil); !errors.Is(err, reader.ErrStale) {
				t.Error(err)
			}
		})
	}
}

// What is no command is not sent, and no harm to the card.
func TestInvalid(t *testing.T) {
	for _, tt := range []struct {
		params, command string
		is              error
	}{
		{"rewrite=on", "", reader.ErrInvalid},
		{"rewrite=on", "00 84 00", reader.ErrInvalid},
		{"rewrite=on", "00 20 00 02 08 31 32", reader.ErrInvalid},
		{"rewrite=on", "00 20 00 02 01 31 32 33", reader.ErrInvalid},
		{"rewrite=on", "00 64 00 00 08", reader.ErrInvalid},
		{"rewrite=on", "00 B0 00 00 00 01 00", reader.ErrUnsupported},
		{"rewrite=on", "00 D6 00 00 00 00 01 AA", reader.ErrUnsupported},
		{"rewrite=off", "00 84 00 00", reader.ErrInvalid},
		{"rewrite=off", "00 20 00 02 02 31", reader.ErrInvalid},
		{"rewrite=off", "00 20 00 02 01 31 32", reader.ErrInvalid},
		{"rewrite=off", "", reader.ErrInvalid},
	} {
		synctest.Test(t, func(t *testing.T) {
			session := noData("80 40 00 00 00", "90 00")
			if tt.params == "rewrite=on" {
				session = case1("80 40 00 00 00", "90 00")
			}
			s := player(t, session, tt.params)
			got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex(tt.command)}, []byte("kept"))
			if !errors.Is(err, tt.is) || len(got) > 0 && string(got) != "kept" || strings.Contains(err.Error(), "2 ") {
				t.Errorf("%s, %s: %q, %v", tt.params, tt.command, got, err)
			}
			if tt.params == "rewrite=on" {
				exchange(t, s, "80 40 00 00", "90 00")
			} else {
				exchange(t, s, "80 40 00 00 00", "90 00")
			}
		})
	}
}

// instant is a token whose card answers a case 2 command with SW1 SW2 at once.
type instant struct{ fake }

func (f *instant) OpenUSB(context.Context, uint8) (usb.Conn, error) { return f, nil }

func (f *instant) Control(_ context.Context, s usb.Setup, data []byte, _ time.Duration) (int, error) {
	switch s.Request {
	case reqStatus:
		data[0] = 0x20
	case reqReceive:
		data[0], data[1] = 0x90, 0x00
	}
	return len(data), nil
}

// An exchange allocates nothing.
func TestAllocations(t *testing.T) {
	for _, params := range []string{"rewrite=on", "rewrite=off"} {
		_, s := open(t, &instant{}, params)
		d := s.(interface{ Unwrap() reader.Slot }).Unwrap().(*dialect)
		d.whole = true
		if d.r != nil {
			d.r.t0 = iso7816.NewT0(iso7816.T0Config{Params: iso7816.DefaultParams(0)})
		}
		x, dst := reader.Transfer{Out: unhex("00 84 00 00 08")}, make([]byte, 0, 300)
		if n := testing.AllocsPerRun(100, func() {
			if rx, err := s.Exchange(t.Context(), x, dst); err != nil || len(rx) != 2 {
				t.Fatal(rx, err)
			}
		}); n > 0 {
			t.Errorf("%s: %v allocations", params, n)
		}
	}
}
