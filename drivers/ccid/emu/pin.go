package emu

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// Keys beside the digits.
const (
	KeyOK     = '\r'
	KeyCancel = '\x1b'
	KeyClear  = '\b'
)

// Press presses keys of slot n's PIN pad: digits, KeyOK, KeyCancel, KeyClear. Keys pressed
// before the reader asks for a PIN are kept until then.
func (e *Reader) Press(n int, keys string) {
	for _, k := range []byte(keys) {
		select {
		case e.slots[n].keys <- k:
		default: // nobody types that far ahead
		}
	}
}

// Key waits for the next key pressed at slot n. It serves entries for which CCID has no
// message.
func (e *Reader) Key(ctx context.Context, n int) (byte, error) {
	select {
	case k := <-e.slots[n].keys:
		return k, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-e.Context().Done():
		return 0, reader.ErrGone
	}
}

// forgetKeys drops keys that were pressed but not asked for.
func (s *slot) forgetKeys() {
	for {
		select {
		case <-s.keys:
		default:
			return
		}
	}
}

// pinDefault is the time for an entry when bTimerOut is 0.
const pinDefault = 30 * time.Second

// pinEntry is a PIN data structure (CCID 1.1 §6.1.11.1, .7).
type pinEntry struct {
	modify             bool
	timeout            time.Duration
	format, block, ln  byte
	oldAt, newAt       int
	most, least        int
	confirm, condition byte
	prologue           []byte
	apdu               []byte
}

// readPIN reads the structure behind Secure's header. If it is invalid, wrong is the
// offset of the wrong field from the start of the message (CCID 1.1 table 6.2-2).
func readPIN(b []byte) (p pinEntry, wrong byte) {
	const header = 10
	if len(b) < 1 {
		return p, 1
	}
	if b[0] > 1 {
		return p, header
	}
	p.modify = b[0] == 1
	rest := b[1:]
	take := func(n int) []byte {
		if len(rest) < n {
			wrong, rest = 1, nil
			return make([]byte, n)
		}
		part := rest[:n]
		rest = rest[n:]
		return part
	}
	h := take(4)
	p.timeout = time.Duration(h[0]) * time.Second
	if h[0] == 0 {
		p.timeout = pinDefault
	}
	p.format, p.block, p.ln = h[1], h[2], h[3]
	if p.modify {
		at := take(2)
		p.oldAt, p.newAt = int(at[0]), int(at[1])
	}
	digits := binary.LittleEndian.Uint16(take(2))
	p.least, p.most = int(digits>>8), int(digits&0xFF)
	if p.modify {
		p.confirm = take(1)[0]
	}
	p.condition = take(1)[0]
	messages := take(1)[0]
	take(2) // wLangId
	take(1)
	if p.modify && messages != 0 {
		take(1)
		if messages >= 3 {
			take(1)
		}
	}
	p.prologue = take(3)
	p.apdu = rest
	switch {
	case wrong != 0:
	case len(rest) < 4:
		wrong = 1
	case p.condition == 0 || p.condition > 7:
		wrong = header + 7
		if p.modify {
			wrong = header + 10
		}
	case p.most < p.least || p.most > 16:
		wrong = header + 5
	}
	return p, wrong
}

// secure executes Secure.
func (s *slot) secure(ctx context.Context, data []byte) reply {
	if !s.e.cfg.PINPad {
		return reply{fail: true}
	}
	p, wrong := readPIN(data)
	if wrong != 0 {
		return failure(wrong)
	}
	apdu := append([]byte(nil), p.apdu...)
	var failed byte
	enter := func(at int) bool {
		pin, code := s.enter(ctx, &p)
		if failed = code; code != 0 {
			return false
		}
		apdu = p.insert(apdu, at, pin)
		return true
	}
	ok := true
	if !p.modify {
		ok = enter(0)
	} else {
		if p.confirm&2 != 0 {
			ok = enter(p.oldAt)
		}
		if ok {
			var first, second string
			first, failed = s.enter(ctx, &p)
			if second = first; failed == 0 && p.confirm&1 != 0 {
				second, failed = s.enter(ctx, &p)
			}
			if failed == 0 && first != second {
				failed = 0xEE
			}
			if ok = failed == 0; ok {
				apdu = p.insert(apdu, p.newAt, first)
			}
		}
	}
	if !ok {
		return failure(failed)
	}
	switch {
	case s.e.cfg.Level >= reader.ShortAPDU:
		return s.respond(s.apdu(ctx, apdu))
	case s.contact.Protocol() == 1:
		block := append(append([]byte(nil), p.prologue...), apdu...)
		block[2] = byte(len(apdu))
		var lrc byte
		for _, b := range block {
			lrc ^= b
		}
		apdu = append(block, lrc)
	}
	if bad := s.mistuned(ctx); bad.fail {
		return bad
	}
	rx := s.contact.TPDU(ctx, apdu)
	if rx == nil {
		return s.silence(ctx)
	}
	return reply{data: rx}
}

// enter reads one PIN from the keys. If there is none, code is the bError that says why.
func (s *slot) enter(ctx context.Context, p *pinEntry) (pin string, code byte) {
	late := time.NewTimer(p.timeout)
	defer late.Stop()
	for {
		select {
		case k := <-s.keys:
			switch {
			case k == KeyCancel:
				return "", 0xEF
			case k == KeyClear:
				pin = ""
			case k == KeyOK && p.condition&2 != 0 && len(pin) >= p.least:
				return pin, 0
			case k >= '0' && k <= '9' && len(pin) < p.most:
				if pin += string(k); len(pin) == p.most && p.condition&1 != 0 {
					return pin, 0
				}
			}
		case <-late.C:
			if p.condition&4 != 0 && len(pin) >= p.least {
				return pin, 0
			}
			return "", 0xF0
		case <-ctx.Done():
			return "", 0xFF
		}
	}
}

// insert puts pin into the command's data field, at the offset at.
func (p *pinEntry) insert(apdu []byte, at int, pin string) []byte {
	if len(apdu) == 4 {
		apdu = append(apdu, 0)
	}
	var digits []byte // as encoded in the block
	switch p.format & 3 {
	case 1:
		for i := 0; i < len(pin); i += 2 {
			b := pin[i]<<4 | 0x0F
			if i+1 < len(pin) {
				b = pin[i]<<4 | pin[i+1]&0x0F
			}
			digits = append(digits, b)
		}
	case 2:
		digits = []byte(pin)
	default:
		for i := range len(pin) {
			digits = append(digits, pin[i]&0x0F)
		}
	}
	const dataAt = 5
	start := int(p.format >> 3 & 15)
	if p.format&0x80 == 0 {
		start /= 8
	}
	start += dataAt + at
	size := int(p.block & 15)
	need := start + max(size, len(digits))
	for len(apdu) < need {
		apdu = append(apdu, 0xFF)
	}
	if size > len(digits) && p.format&4 != 0 {
		start += size - len(digits)
	}
	for i, d := range digits {
		if p.format&3 == 1 && i == len(digits)-1 && len(pin)%2 == 1 {
			d = d&0xF0 | apdu[start+i]&0x0F // the padding stays
		}
		apdu[start+i] = d
	}
	if bits := int(p.block >> 4); bits > 0 {
		pos := int(p.ln & 15)
		if p.ln&0x10 != 0 {
			pos *= 8
		}
		pos += 8 * (dataAt + at)
		for i := range bits {
			bit := byte(0)
			if len(pin)>>(bits-1-i)&1 != 0 {
				bit = 0x80 >> ((pos + i) % 8)
			}
			if byteAt := (pos + i) / 8; byteAt < len(apdu) {
				apdu[byteAt] = apdu[byteAt]&^(0x80>>((pos+i)%8)) | bit
			}
		}
	}
	apdu[4] = byte(len(apdu) - dataAt)
	return apdu
}
