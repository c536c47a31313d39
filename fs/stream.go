package fs

// stream makes a sequence of bytes that is produced once tolerate lseek(2): bash, stdio and
// Python read ahead and seek back, and SFTP servers seek before every read and write. The
// bytes of the last read can be read again; a read beyond the position takes nothing. The
// caller does the locking.
type stream struct {
	buf  []byte
	last int   // buf[last:next] is what the last read gave
	next int   // buf[next:] is still to be read
	pos  int64 // file offset of buf[next]
}

// seek moves to the offset of a read. It returns false for an offset beyond the position:
// a second chunk that sshfs requests at the same time, or a read-ahead.
func (s *stream) seek(off int64) bool {
	switch back := s.pos - off; {
	case back < 0:
		return false
	case back > 0 && back <= int64(s.next-s.last):
		s.next -= int(back)
		s.pos = off
	default:
		// Here, or so far back that nobody can mean what was there: go on.
		s.pos = off
	}
	return true
}

// wrote moves to behind a write of n bytes at off. Where it comes from inside the last
// read, a buffered reader has used part of what it read ahead: the rest can be had again.
// From the first byte of the last read, that was used and the program began anew, as
// seek(0), write, seek(0), read does over and over.
func (s *stream) wrote(off int64, n int) {
	if back := s.pos - off; back > 0 && back < int64(s.next-s.last) {
		s.next -= int(back)
	}
	s.move(off + int64(n))
}

// move makes off the position of what is to be read next; nothing can be put back.
func (s *stream) move(off int64) { s.pos, s.last = off, s.next }

// ready is how many bytes can be read without waiting.
func (s *stream) ready() int { return len(s.buf) - s.next }

// read takes up to len(dest) bytes.
func (s *stream) read(dest []byte) []byte {
	n := copy(dest, s.buf[s.next:])
	s.last = s.next
	s.next += n
	s.pos += int64(n)
	return dest[:n]
}

// Bytes that leave the stream are wiped: they may be secret.

// room makes room for n bytes more behind buf.
func (s *stream) room(n int) {
	if cap(s.buf)-len(s.buf) < n {
		s.replace(s.buf, max(len(s.buf)+n, 2*cap(s.buf)))
	}
}

// replace makes buf a copy of keep, a part of it, with so much capacity.
func (s *stream) replace(keep []byte, capacity int) {
	old := s.buf
	s.buf = append(make([]byte, 0, capacity), keep...)
	clear(old)
}

// forget drops the bytes that were read.
func (s *stream) forget() {
	s.replace(s.buf[s.next:], len(s.buf)-s.next)
	s.last, s.next = 0, 0
}

// grow makes room at the end: what comes before the last read is forgotten.
func (s *stream) grow() {
	if s.last > 0 {
		rest := s.buf[s.last:]
		if cap(s.buf) > smallStream && cap(s.buf) > 4*len(rest) {
			s.replace(rest, len(rest))
		} else {
			n := copy(s.buf, rest)
			clear(s.buf[n:])
			s.buf = s.buf[:n]
		}
		s.next -= s.last
		s.last = 0
	}
}
