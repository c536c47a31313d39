package fs

// stream is what makes a sequence of bytes that is produced once bear lseek(2):
// bash, stdio and Python read ahead and seek back, sftp servers seek before
// every read and write. The bytes of the last read can be had again; a read
// beyond the position takes nothing. Its user locks it.
type stream struct {
	buf  []byte
	last int   // buf[last:next] is what the last read gave
	next int   // buf[next:] is still to be read
	pos  int64 // file offset of buf[next]
}

// seek moves to where a read or write wants to be. It is false where that is
// beyond the position: a second chunk that sshfs asks for at once, or a
// read-ahead.
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

// grow makes room at the end: what comes before the last read is forgotten.
func (s *stream) grow() {
	if s.last > 0 {
		n := copy(s.buf, s.buf[s.last:])
		s.buf = s.buf[:n]
		s.next -= s.last
		s.last = 0
	}
}
