package iso7816

import "fmt"

// Protocol and parameters selection, ISO/IEC 7816-3:2006 §9.

// PPSRequest is the request for protocol t with F and D as ta1 codes them. The
// default 11 is not spelled out: PPS1 is then absent, as in FF 01 FE.
func PPSRequest(t int, ta1 byte) []byte {
	b := []byte{0xFF, byte(t & 0x0F)}
	if ta1 != DefaultTA1 {
		b[1] |= 0x10
		b = append(b, ta1)
	}
	return append(b, LRC(b))
}

// ppsFields takes a PPS request or response apart; opt holds PPS1..PPS3 at
// index 1..3, and has says which of them are there.
func ppsFields(b []byte) (pps0 byte, opt [4]byte, has [4]bool, err error) {
	if len(b) < 3 {
		return 0, opt, has, fmt.Errorf("%d bytes; a PPS has at least 3: %w", len(b), ErrProtocol)
	}
	if b[0] != 0xFF {
		return 0, opt, has, fmt.Errorf("PPSS is not FF: %w", ErrProtocol)
	}
	pps0 = b[1]
	if pps0&0x80 != 0 {
		return 0, opt, has, fmt.Errorf("PPS0 has bit 8, which is reserved: %w", ErrProtocol)
	}
	n := 2
	for i := 1; i <= 3; i++ {
		if pps0&(0x08<<i) == 0 {
			continue
		}
		if n < len(b) {
			opt[i], has[i] = b[n], true
		}
		n++
	}
	if len(b) != n+1 {
		return 0, opt, has, fmt.Errorf("PPS0 announces %d bytes altogether, %d came: %w", n+1, len(b), ErrProtocol)
	}
	if LRC(b) != 0 {
		return 0, opt, has, fmt.Errorf("PCK is wrong: %w", ErrProtocol)
	}
	return pps0, opt, has, nil
}

// CheckPPS compares the card's response with the request. ta1 codes the F and D
// that both sides use from now on: PPS1 where the card echoed it, else 11
// (ISO/IEC 7816-3:2006 §9.3). After an error the card must be reset or rejected.
func CheckPPS(req, resp []byte) (ta1 byte, err error) {
	q0, q, qhas, err := ppsFields(req)
	if err != nil {
		return 0, fmt.Errorf("PPS request: %w", err)
	}
	r0, r, rhas, err := ppsFields(resp)
	if err != nil {
		return 0, fmt.Errorf("PPS response: %w", err)
	}
	if q0&0x0F != r0&0x0F {
		return 0, fmt.Errorf("PPS: T=%d was asked for, the card answers T=%d: %w", q0&0x0F, r0&0x0F, ErrProtocol)
	}
	for i := 1; i <= 3; i++ {
		switch {
		case !rhas[i]: // the card declines: the default is used
		case !qhas[i]:
			return 0, fmt.Errorf("PPS: the card answers with PPS%d, which was not asked for: %w", i, ErrProtocol)
		case r[i] != q[i]:
			return 0, fmt.Errorf("PPS: PPS%d = %02X was asked for, the card answers with another: %w", i, q[i], ErrProtocol)
		}
	}
	if rhas[1] {
		return r[1], nil
	}
	return DefaultTA1, nil
}

// PPSLength is the length of the PPS that begins with b, once its first two
// bytes are there; 0 before. At character level it says how many to receive.
func PPSLength(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	n := 3
	for i := 1; i <= 3; i++ {
		if b[1]&(0x08<<i) != 0 {
			n++
		}
	}
	return n
}
