package fs

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// The rules of a stream that tolerates lseek(2): "READ at the position: go on. Below
// it by no more than the last READ gave: put those bytes back. Above it: return
// 0, take nothing. Else go on."
func TestStreamSeek(t *testing.T) {
	type read struct {
		off  int64
		n    int
		want string // "EOF": the seek is refused
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

// "A WRITE gives bytes back only from behind the first byte of the last read". Each case reads
// and writes at these offsets of one open; its stream holds "abcdefghij".
func TestStreamWrite(t *testing.T) {
	type step struct {
		off  int64
		n    int
		want string // of a read; "W": a write
	}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"in turn", []step{{0, 2, "ab"}, {2, 5, "W"}, {7, 2, "cd"}, {9, 5, "W"}, {14, 2, "ef"}}},
		{"over and over from 0", []step{{0, 5, "W"}, {0, 3, "abc"}, {0, 5, "W"}, {0, 3, "def"}, {0, 5, "W"}, {0, 3, "ghi"}}},
		{"over and over, read where the write ended", []step{{0, 5, "W"}, {5, 3, "abc"}, {0, 5, "W"}, {5, 3, "def"}}},
		{"a part was used", []step{{0, 6, "abcdef"}, {2, 5, "W"}, {7, 9, "cdefghij"}}},
		{"all but a byte was used", []step{{0, 6, "abcdef"}, {5, 5, "W"}, {10, 9, "fghij"}}},
		{"a byte was used", []step{{0, 6, "abcdef"}, {1, 5, "W"}, {6, 9, "bcdefghij"}}},
		{"from the first byte", []step{{4, 0, "W"}, {4, 6, "abcdef"}, {4, 5, "W"}, {9, 9, "ghij"}}},
		{"before the first byte", []step{{4, 0, "W"}, {4, 6, "abcdef"}, {3, 5, "W"}, {8, 9, "ghij"}}},
		{"where the read ended", []step{{0, 6, "abcdef"}, {6, 5, "W"}, {11, 9, "ghij"}}},
		{"beyond", []step{{0, 6, "abcdef"}, {60, 5, "W"}, {65, 9, "ghij"}}},
		{"not of the read before the last", []step{{0, 3, "abc"}, {3, 3, "def"}, {2, 5, "W"}, {7, 9, "ghij"}}},
		{"twice, and only once given back", []step{{0, 6, "abcdef"}, {2, 5, "W"}, {4, 5, "W"}, {9, 9, "cdefghij"}}},
		{"a read cannot step back behind a write", []step{{0, 6, "abcdef"}, {6, 5, "W"}, {8, 2, "gh"}, {8, 2, "gh"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := stream{buf: []byte("abcdefghij")}
			for _, st := range tt.steps {
				if st.want == "W" {
					s.wrote(st.off, st.n)
					continue
				}
				got := "EOF"
				if s.seek(st.off) {
					got = string(s.read(make([]byte, st.n)))
				}
				if got != st.want {
					t.Errorf("read of %d at %d gave %q, want %q", st.n, st.off, got, st.want)
				}
			}
		})
	}
}

// A reader that reads ahead and seeks back to its first unused byte sees every byte once. The
// stream forgets the bytes that were read long ago.
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
