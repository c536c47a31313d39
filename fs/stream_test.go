package fs

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// The rules of a stream that bears lseek(2): "READ at the position: go on. Below
// it by no more than the last READ gave: put those bytes back. Above it: return
// 0, take nothing. Else go on."
func TestStreamSeek(t *testing.T) {
	type read struct {
		off  int64
		n    int
		want string // "EOF": the seek says no
	}
	for _, tt := range []struct {
		name  string
		reads []read
	}{
		{"on and on", []read{{0, 3, "abc"}, {3, 3, "def"}, {6, 9, "ghij"}, {10, 3, ""}}},
		{"all again", []read{{0, 4, "abcd"}, {0, 4, "abcd"}, {4, 2, "ef"}}},
		{"read ahead, and a part put back", []read{{0, 8, "abcdefgh"}, {3, 8, "defghij"}}},
		{"back by one", []read{{0, 4, "abcd"}, {3, 1, "d"}, {4, 1, "e"}}},
		{"back twice", []read{{0, 4, "abcd"}, {2, 1, "c"}, {2, 1, "c"}, {3, 2, "de"}}},
		{"back beyond the last read: go on", []read{{0, 4, "abcd"}, {4, 2, "ef"}, {0, 2, "gh"}, {2, 2, "ij"}}},
		{"beyond the position: nothing is taken", []read{{0, 2, "ab"}, {100, 4, "EOF"}, {2, 2, "cd"}}},
		{"a second chunk asked for at once", []read{{4, 4, "EOF"}, {0, 4, "abcd"}, {8, 4, "EOF"}, {4, 4, "efgh"}}},
		{"back after what was put back", []read{{0, 6, "abcdef"}, {2, 2, "cd"}, {2, 4, "cdef"}, {6, 1, "g"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := stream{buf: []byte("abcdefghij")}
			for _, r := range tt.reads {
				got := "EOF"
				if s.seek(r.off) {
					got = string(s.read(make([]byte, r.n)))
				}
				if got != r.want {
					t.Errorf("read of %d at %d gave %q, want %q", r.n, r.off, got, r.want)
				}
			}
		})
	}
}

// Whatever is read ahead and put back, a reader that knows what it has not used
// sees every byte once, and the stream forgets what was read long ago.
func TestStreamReadAhead(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var s stream
	var in, out []byte
	var pos int64
	for len(out) < 100_000 {
		if s.ready() == 0 {
			s.grow()
			piece := make([]byte, 1+rnd.IntN(300))
			for i := range piece {
				piece[i] = byte(rnd.Uint32())
			}
			in = append(in, piece...)
			s.buf = append(s.buf, piece...)
		}
		if !s.seek(pos) {
			t.Fatalf("at %d: refused", pos)
		}
		ahead := s.read(make([]byte, 1+rnd.IntN(200)))
		use := rnd.IntN(len(ahead) + 1)
		out = append(out, ahead[:use]...)
		pos += int64(use)
	}
	if !bytes.Equal(out, in[:len(out)]) {
		t.Error("what was read is not what was written")
	}
	if cap(s.buf) > 4096 {
		t.Errorf("the buffer grew to %d", cap(s.buf))
	}
}
