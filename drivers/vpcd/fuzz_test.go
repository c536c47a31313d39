package vpcd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/core"
	"github.com/cardfs/cardfs/reader/readertest"
)

// Messages are read as they were sent, however the stream splits them.
func FuzzInbox(f *testing.F) {
	f.Add([]byte("\x00\x02\x90\x00\x00\x00\x00\x01\x90"), byte(1))
	f.Add([]byte("\xFF\xFF\x90\x00"), byte(3))
	f.Add(append([]byte{0x10, 0x00}, make([]byte, 0x1000)...), byte(200))
	f.Fuzz(func(t *testing.T, stream []byte, cut byte) {
		in := new(inbox)
		rest := stream
		for len(rest) > 0 {
			// What the reference says about the rest of the stream.
			var want []byte
			complete := len(rest) >= 2 && len(rest) >= 2+int(binary.BigEndian.Uint16(rest))
			if complete {
				want = rest[2 : 2+binary.BigEndian.Uint16(rest)]
			}
			came := 0
			for {
				p, extra, ok := in.message()
				if ok {
					if !complete || !bytes.Equal(p, want) {
						t.Fatalf("message % X, want % X (%v)", p, want, complete)
					}
					rest = rest[came-extra:]
					in.reset()
					break
				}
				if came == len(rest) {
					if complete {
						t.Fatalf("no message after %d bytes, want % X", came, want)
					}
					return
				}
				space := in.space()
				if len(space) == 0 {
					t.Fatal("no space for an incomplete message")
				}
				n := copy(space[:min(len(space), int(cut)+1)], rest[came:])
				in.add(n)
				came += n
			}
		}
	})
}

// A hostile card: whatever it sends after a command, the exchange ends. An answer is exactly
// the one message that arrived, and the error says what was wrong.
func FuzzCard(f *testing.F) {
	f.Add([]byte("\x00\x02\x90\x00"), true)
	f.Add([]byte("\x00\x02\x90\x00"), false)
	f.Add([]byte("\x00\x02\x90\x00\x00"), true)
	f.Add([]byte("\x00\x01\x90"), true)
	f.Add([]byte("\x00\x00"), true)
	f.Add([]byte("\x00"), false)
	f.Add([]byte(""), true)
	f.Add([]byte("\xFF\xFFxxxx"), true)
	f.Add([]byte("\xFF\xFFxxxx"), false)
	f.Add(append([]byte("\xFF\xFF"), make([]byte, 0xFFFF)...), true)
	f.Fuzz(func(t *testing.T, stream []byte, closes bool) {
		synctest.Test(t, func(t *testing.T) { hostile(t, stream, closes) })
	})
}

func hostile(t *testing.T, stream []byte, closes bool) {
	s, nc := piped(t, time.Second)
	go func() {
		_ = play(nc, "> 00 01 01; > 00 01 04; < 00 02 3B 00; > 00 04 00 00 00 01")
		_, _ = nc.Write(stream)
		if closes {
			_ = nc.Close()
		}
		_, _ = io.Copy(io.Discard, nc)
	}()
	if _, err := s.PowerOn(t.Context(), reader.Cold); err != nil {
		t.Fatal(err)
	}
	// What the protocol says of the stream.
	silent := reader.ErrTimeout
	if closes {
		silent = reader.ErrNoCard
	}
	var answer []byte
	want := silent
	if len(stream) >= header {
		switch n := int(binary.BigEndian.Uint16(stream)); {
		case len(stream) < header+n:
		case len(stream) > header+n, n < 2:
			want = reader.ErrProtocol
		default:
			want, answer = nil, stream[header:]
		}
	}
	got, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 00 00 01")}, []byte("kept "))
	if !errors.Is(err, want) || want == nil && err != nil {
		t.Fatalf("%d bytes % X…: %v, want %v", len(stream), stream[:min(len(stream), 8)], err, want)
	}
	if got, ok := bytes.CutPrefix(got, []byte("kept ")); !ok || !bytes.Equal(got, answer) {
		t.Fatalf("answer of %d bytes, want %d", len(got), len(answer))
	}
	// No byte of it becomes the answer to the next command.
	if len(stream) == header && want == reader.ErrProtocol || len(stream) == header+1 && want == reader.ErrProtocol && stream[1] == 1 {
		want = nil // an answer without SW1 SW2 is whole: the connection stays
	}
	next := reader.ErrNoCard
	if want == nil && !closes {
		next = reader.ErrTimeout
	}
	if _, err := s.Exchange(t.Context(), reader.Transfer{Out: unhex("00 00 00 02")}, nil); !errors.Is(err, next) {
		t.Fatalf("the next command: %v, want %v", err, next)
	}
}

// FuzzOptions: whatever `attach` receives, loopback remains the default.
func FuzzOptions(f *testing.F) {
	for _, s := range []string{"", "4000", ":4000", "0.0.0.0:1", "[::1%lo]:1", "unix:/x", "localhost:1", "[::ffff:1.2.3.4]:1"} {
		f.Add(s, "timeout", "1s")
	}
	f.Fuzz(func(t *testing.T, address, key, value string) {
		o, err := parseOptions(address, map[string]string{key: value})
		if err != nil || o.network != "tcp" || key == "public" {
			return
		}
		host, _, err := net.SplitHostPort(o.address)
		if err != nil {
			t.Fatal(err)
		}
		if ip := net.ParseIP(host); ip != nil && !ip.IsLoopback() {
			t.Fatalf("%q listens at %s without public=yes", address, o.address)
		}
	})
}

// A hostile card in the core. It sends one piece of its script after each message that it
// receives, and then only listens. The first byte of each piece is its length.
func FuzzManager(f *testing.F) {
	f.Add(unhex("07 00 05 3B 80 80 01 01  04 00 02 90 00  04 00 02 6C 02  06 00 04 11 22 90 00  04 00 02 90 00"), readertest.AllOps)
	f.Add(unhex("04 00 02 3B 00  05 00 03 11 61 10  04 00 02 90 00  01 00  01 02  02 90 00"), readertest.AllOps)
	f.Add(unhex("07 00 05 3B 80 80 01 01  05 00 02 90 00 00"), readertest.AllOps)
	f.Add(unhex("02 FF FF"), []byte{1, 7, 2, 0, 11})
	f.Add([]byte{}, readertest.AllOps)
	f.Fuzz(func(t *testing.T, said, ops []byte) {
		if len(said) > 2000 || len(ops) > 40 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			here, there := net.Pipe()
			go func() {
				var head [header]byte
				for {
					if _, err := io.ReadFull(there, head[:]); err != nil {
						return
					}
					n := int64(binary.BigEndian.Uint16(head[:]))
					first := make([]byte, 1)
					if _, err := io.ReadFull(there, first[:min(n, 1)]); err != nil {
						return
					}
					if _, err := io.CopyN(io.Discard, there, max(n-1, 0)); err != nil {
						return
					}
					if n == 1 && first[0] != ctlATR || len(said) == 0 {
						continue // nothing is to be answered
					}
					piece := said[1:][:min(int(said[0]), len(said)-1)]
					said = said[1+len(piece):]
					if _, err := there.Write(piece); err != nil {
						return
					}
				}
			}()
			defer there.Close()
			c := newConn(here, time.Minute, slog.New(slog.DiscardHandler), func(*conn) {})
			c.lost = reader.ErrGone
			go c.read()
			dev := reader.Device{Driver: "vpcd", Address: "a", Slots: 1, Link: c}
			readertest.Use(t, Driver{}, dev, ops, func(*core.Manager, byte) { there.Close() })
			c.end(errors.New("the test is over")) // where no reader was opened
		})
	})
}
