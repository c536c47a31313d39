package remote

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cardfs/cardfs/reader"
)

const someInstance = "0123456789abcdef"

// "Names, ATRs and lines from the far side are hostile: length limits, no control characters,
// no / or .. in by-id, ATR of over 33 bytes, endless lines, garbage: refused."
func TestHostileTexts(t *testing.T) {
	powered := "state powered\natr 3B 80 01 81\nprotocol T=1\ninstance " + someInstance + "\n"
	for _, x := range []struct{ name, text string }{
		{"no state", "reader x\n"},
		{"another state", "state dancing\n"},
		{"a control character", "state empty\nreader \x1b[2J\n"},
		{"a line without end", "state empty\nreader " + strings.Repeat("x", maxLine) + "\n"},
		{"a text without end", "state empty\n" + strings.Repeat("x y\n", maxText/4)},
		{"an ATR of 34 bytes", strings.Replace(powered, "3B 80 01 81", strings.Repeat("3B ", 34), 1)},
		{"an ATR without bytes", strings.Replace(powered, "3B 80 01 81", "", 1)},
		{"an ATR of letters", strings.Replace(powered, "3B", "XY", 1)},
		{"no ATR", "state powered\nprotocol T=0\n"},
		{"no protocol", "state powered\natr 3B 00\n"},
		{"a third protocol", strings.Replace(powered, "T=1", "T=14", 1)},
		{"an instance that is none", "state empty\ninstance ../x\n"},
		{"an event that is none", "state empty\nevent -1\n"},
	} {
		if _, err := parseStatus([]byte(x.text)); !errors.Is(err, reader.ErrProtocol) {
			t.Errorf("%s: %v, want ErrProtocol", x.name, err)
		}
	}
	if s, err := parseStatus([]byte(powered)); err != nil || s.instance != someInstance || s.protocol != 1 || len(s.atr) != 4 {
		t.Errorf("%+v, %v", s, err)
	}
	for _, x := range []string{"", "# attach DRIVER DEVICE\ndriver sim slots=1\n", "instance x\n"} {
		if _, err := parseCtl([]byte(x)); !errors.Is(err, reader.ErrUnsupported) {
			t.Errorf("ctl %q: %v, want ErrUnsupported", x, err)
		}
	}
}

func TestHostileEvents(t *testing.T) {
	for _, line := range []string{
		"", "1", "1 0", "x 0 ready", "-1 0 ready", "1 -1 ready", "1 9999999 ready", "1 0 arrived word",
		"1 0 arrived\x00", "1 0 " + strings.Repeat("x", maxLine),
	} {
		if _, err := parseEvent([]byte(line)); !errors.Is(err, reader.ErrProtocol) {
			t.Errorf("%.40q: %v, want ErrProtocol", line, err)
		}
	}
	via := strings.TrimSuffix(strings.Repeat(someInstance+",", maxVia), ",")
	for _, more := range []map[string]string{
		nil, {"by-id": ""}, {"by-id": "x"}, {"by-id": "a/b-slot0"}, {"by-id": "..-slot0"}, {"by-id": "a..b-slot0"},
		{"by-id": strings.Repeat("a", 201) + "-slot0"}, {"by-id": "a-slot256"}, {"by-id": "a-slot-1"},
		{"by-id": "a-slot0", "via": "x"}, {"by-id": "a-slot0", "via": via}, {"by-id": "ä-slot0"},
	} {
		if p, err := parsePlace(more); !errors.Is(err, reader.ErrProtocol) {
			t.Errorf("%.60v: %+v, %v; want ErrProtocol", more, p, err)
		}
	}
	p, err := parsePlace(map[string]string{"by-id": "usb-x_1-slot1-7", "via": someInstance})
	if err != nil || p.reader != "usb-x_1-7" || p.index != 1 || len(p.via) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
}

// An error line becomes the error that it was there; everything else is bytes or refused.
func TestReplies(t *testing.T) {
	for _, x := range []struct {
		line string
		want error
	}{
		{"error ESTALE the card was reset", reader.ErrStale},
		{"error ENOMEDIUM no card", reader.ErrNoCard},
		{"error ENODEV gone", reader.ErrGone},
		{"error EBUSY x", reader.ErrLocked},
		{"error EINVAL x", reader.ErrInvalid},
		{"error EOPNOTSUPP x", reader.ErrUnsupported},
		{"error ETIMEDOUT x", reader.ErrTimeout},
		{"error EPROTO x", reader.ErrProtocol},
		{"error EIO " + reader.ErrInDoubt.Error(), reader.ErrInDoubt},
		{"error what", reader.ErrProtocol},
		{"90 0", reader.ErrProtocol},
		{"9000", reader.ErrProtocol},
		{"90-00", reader.ErrProtocol},
		{"ok", reader.ErrProtocol},
		{"9z 00", reader.ErrProtocol},
		{"9f 00", reader.ErrProtocol}, // no cardfs writes that
	} {
		if _, err := parseReply([]byte(x.line), nil); !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want %v", x.line, err, x.want)
		}
	}
	if got, err := parseReply([]byte("01 AB 90 00"), []byte{7}); err != nil || !bytes.Equal(got, []byte{7, 1, 0xAB, 0x90, 0}) {
		t.Errorf("% X, %v", got, err)
	}
}

func FuzzReply(f *testing.F) {
	for _, s := range []string{"90 00", "error EIO x", "ok", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		data, err := parseReply(line, nil)
		if err == nil && !strings.EqualFold(fmt.Sprintf("% X", data), string(line)) {
			t.Errorf("%q became % X", line, data)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\x00\n\x1b") {
			t.Errorf("%q: %q", line, err)
		}
	})
}

func FuzzTexts(f *testing.F) {
	f.Add([]byte("state powered\natr 3B 00\nprotocol T=0\nevent 7\ninstance " + someInstance + "\n"))
	f.Add([]byte("instance " + someInstance + "\nreader 0 sim x empty\n"))
	f.Add([]byte("1 0 arrived by-id=a-slot0 via=" + someInstance))
	f.Fuzz(func(t *testing.T, text []byte) {
		if s, err := parseStatus(text); err == nil && (len(s.atr) > maxATR || s.state == "") {
			t.Errorf("%q: %+v", text, s)
		}
		if o, err := parseCtl(text); err == nil && len(o.instance) != 16 {
			t.Errorf("%q: %+v", text, o)
		}
		e, err := parseEvent(text)
		if err != nil {
			return
		}
		if p, err := parsePlace(e.more); err == nil && (strings.ContainsAny(p.reader, "/ \n") || strings.Contains(p.reader, "..") || p.index < 0 || p.index >= maxIndex) {
			t.Errorf("%q: %+v", text, p)
		}
	})
}

// The source of the mount that covers a directory names the machine.
func TestMountSource(t *testing.T) {
	const table = `22 1 8:1 / / rw - ext4 /dev/sda1 rw
40 22 0:40 / /mnt/lab rw,nosuid - fuse.sshfs alice@lab:/mnt/cards rw
41 22 0:41 / /mnt/with\040blank rw shared:3 - fuse.sshfs bob@x:/ rw
broken line
`
	for dir, want := range map[string]string{
		"/mnt/lab": "alice@lab:/mnt/cards", "/mnt/lab/3": "alice@lab:/mnt/cards", "/mnt/labor": "/dev/sda1", "/mnt/with blank": "bob@x:/",
	} {
		if got := sourceOf([]byte(table), dir); got != want {
			t.Errorf("%s: %s, want %s", dir, got, want)
		}
	}
}
