package ifd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cardfs/cardfs/reader/iso7816"
	"github.com/cardfs/cardfs/tests/internal/hex"
)

// list has the ATRs of real cards that Debian's pcsc-tools collects.
const list = "/usr/share/pcsc/smartcard_list.txt"

// realATRs are the list's ATRs without wildcards, once each.
func realATRs(t *testing.T) (atrs [][]byte) {
	t.Helper()
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatalf("%v (apt-get install pcsc-tools)", err)
	}
	seen := map[string]bool{}
	for _, line := range regexp.MustCompile(`(?m)^[0-9A-F]{2}( [0-9A-F]{2})*\s*$`).FindAllString(string(text), -1) {
		atr, err := hex.Decode(line)
		if err != nil || seen[string(atr)] {
			continue
		}
		seen[string(atr)] = true
		atrs = append(atrs, atr)
	}
	return atrs
}

// play is a virtual card with that ATR: it answers each command with 90 00.
func play(t *testing.T, nc net.Conn, atr []byte) {
	in := bufio.NewReader(nc)
	for {
		var head [2]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		msg := make([]byte, binary.BigEndian.Uint16(head[:]))
		if _, err := io.ReadFull(in, msg); err != nil {
			return
		}
		answer := []byte{0x90, 0x00}
		switch {
		case len(msg) == 1 && msg[0] == 4:
			answer = atr
		case len(msg) == 1:
			continue
		}
		if _, err := nc.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// "Any ATR that begins with 3B or 3F gives a working card, as under pcscd": a card with
// each of the real ones answers a SELECT through pcscd.
func TestATRsThroughPcscd(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "card")
	m := mount(t, "--usb=false", "--attach", "vpcd unix:"+socket)
	m.Await("0/status", "state empty")
	s := newPcscd(t, conf("ATRs", "cardfs:"+m.Path("0")))
	c := newClient(t, s)
	reader := strings.TrimPrefix(c.say("list"), "ok ")
	var mismatched [][]byte
	tried, defective := 0, 0
	begin := time.Now()
	for _, atr := range realATRs(t) {
		parsed, err := iso7816.ParseATR(atr)
		broken := err != nil || len(parsed.Defects()) > 0
		tried++
		// "A protocol is used only where card and reader both have it; T=14 and others by
		// no one."
		refused := err == nil && !slices.Contains(parsed.Protocols(), 0) && !slices.Contains(parsed.Protocols(), 1)
		if broken {
			defective++
		}
		nc, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			play(t, nc, atr)
		}()
		if refused {
			if f, err := os.OpenFile(m.Path("0/apdu"), os.O_RDWR, 0); !errors.Is(err, syscall.EOPNOTSUPP) {
				t.Errorf("% X: %v, and nobody has its protocol", atr, err)
				_ = f.Close()
			}
		} else if got := c.say("soon", reader); got == "PROTO_MISMATCH" {
			mismatched = append(mismatched, atr)
		} else if !strings.HasPrefix(got, "ok") {
			t.Errorf("% X: connect: %s", atr, got)
		} else {
			if got := c.say("send", "00A4040000"); got != "ok 9000" {
				t.Errorf("% X: SELECT: %s", atr, got)
			}
			c.say("disconnect", "leave")
		}
		_ = nc.Close()
		<-ended
		// pcscd may never have seen a card that is refused.
		m.Await("0/status", "state empty")
		if got := c.say("await", reader, "empty"); !strings.HasPrefix(got, "ok") {
			t.Fatalf("% X: the card is out: %s", atr, got)
		}
	}
	t.Logf("%d cards, %d of them with an ATR that breaks the standard, in %v", tried, defective, time.Since(begin).Round(time.Second))
	// pcscd examines the ATR itself, and finds no protocol in some ATRs. No handler can help
	// that.
	t.Logf("%d that pcscd refuses", len(mismatched))
	withLibifdvpcd(t, mismatched)
	if defective < 50 {
		t.Errorf("only %d ATRs of %s break the standard", defective, list)
	}
}

// withLibifdvpcd checks that vsmartcard's own handler does no better with these.
func withLibifdvpcd(t *testing.T, atrs [][]byte) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	_ = ln.Close()
	s := newPcscd(t, fmt.Sprintf("FRIENDLYNAME \"Virtual PCD\"\nLIBPATH %s\nCHANNELID 0x%X\n", "/usr/lib/pcsc/drivers/serial/libifdvpcd.so", port))
	c := newClient(t, s)
	reader := strings.TrimPrefix(c.say("list"), "ok ")
	reader, _, _ = strings.Cut(reader, "|")
	for _, atr := range atrs {
		nc, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		go play(t, nc, atr)
		if got := c.say("soon", reader); got != "PROTO_MISMATCH" {
			t.Errorf("% X: PROTO_MISMATCH by libifdcardfs, %s by libifdvpcd", atr, got)
		}
		_ = nc.Close()
		if got := c.say("await", reader, "empty"); !strings.HasPrefix(got, "ok") {
			t.Fatalf("% X: the card is out: %s", atr, got)
		}
	}
}
