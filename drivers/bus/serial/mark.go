package serial

// unmark takes characters out of what a tty with PARMRK delivers: FF 00 x is x with wrong
// parity, FF FF is FF, all else is itself (termios(3)). It writes to dst, which may be
// src, until dst is full, src has no whole character more, or behind a wrong one. It
// returns how much of each it used. A break comes as FF 00 00.
func unmark(dst, src []byte) (wrote, used int, wrong bool) {
	for wrote < len(dst) && used < len(src) {
		c, n := src[used], 1
		if c == 0xFF {
			switch {
			case used+1 == len(src):
				return wrote, used, false
			case src[used+1] == 0 && used+2 == len(src):
				return wrote, used, false
			case src[used+1] == 0:
				c, n, wrong = src[used+2], 3, true
			default: // FF FF; nothing else follows an FF
				n = 2
			}
		}
		dst[wrote] = c
		wrote++
		used += n
		if wrong {
			break
		}
	}
	return wrote, used, wrong
}

// plain returns the characters of src without their marks.
func plain(src []byte) []byte {
	all := make([]byte, 0, len(src))
	for {
		n, used, wrong := unmark(all[len(all):cap(all)], src)
		all, src = all[:len(all)+n], src[used:]
		if !wrong {
			return all
		}
	}
}
