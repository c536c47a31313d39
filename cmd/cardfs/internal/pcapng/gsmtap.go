package pcapng

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/cardfs/cardfs/reader/iso7816"
)

// GSMTAP, version 2 (libosmocore, include/osmocom/core/gsmtap.h).
const (
	port    = 4729 // of UDP
	version = 2

	typeSIM = 0x04
	typeLog = 0x10

	// The subtypes for ATR and PPS are not used: Wireshark takes them for commands.
	simAPDU = 0x00

	headerLen = 16 // of GSMTAP
	ipLen     = 20
	udpLen    = 8
	maxIP     = 65535 // what a header of IPv4 can say
)

// maxPayload is how long a GSMTAP message may be behind its header.
const maxPayload = maxIP - ipLen - udpLen - headerLen

// wrap puts the payload into a GSMTAP message, and that into UDP and IPv4.
func wrap(kind, sub byte, payload []byte) []byte {
	n := ipLen + udpLen + headerLen + len(payload)
	b := make([]byte, ipLen+udpLen+headerLen, n)

	ip := b[:ipLen]
	ip[0] = 4<<4 | ipLen/4
	binary.BigEndian.PutUint16(ip[2:], uint16(n))
	ip[6] = 0x40 // not to be fragmented
	ip[8] = 64   // time to live
	ip[9] = 17   // UDP
	copy(ip[12:], []byte{127, 0, 0, 1, 127, 0, 0, 1})
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))

	udp := b[ipLen:][:udpLen] // its checksum 0: there is none
	binary.BigEndian.PutUint16(udp, port)
	binary.BigEndian.PutUint16(udp[2:], port)
	binary.BigEndian.PutUint16(udp[4:], uint16(n-ipLen))

	gsmtap := b[ipLen+udpLen:]
	gsmtap[0], gsmtap[1], gsmtap[2] = version, headerLen/4, kind
	gsmtap[12] = sub
	return append(b, payload...)
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xFFFF + sum>>16
	}
	return ^uint16(sum)
}

// NoAnswer stands for SW1 SW2 where the card gave none: no card has it, for SW1 is 6X or
// 9X.
var NoAnswer = []byte{0, 0}

// Exchange is a packet with a C-APDU and its R-APDU, and what has to be said of it.
//
// Wireshark expects them as T=0 carries them, one behind the other: always with P3, which
// is 00 for a command of case 1, without the Le of case 4, and with the number of bytes
// that came in the place of the Le of case 2. It takes the packet for malformed otherwise,
// or overlooks the answer's data. A comment says what the command had.
func Exchange(command, answer []byte) (packet []byte, comments []string) {
	body, le, p3 := command, []byte(nil), []byte(nil)
	if cmd, err := iso7816.ParseCommand(command); err == nil {
		came := max(0, len(answer)-2)
		switch cmd.Case() {
		case iso7816.Case1:
			p3 = []byte{0}
			comments = append(comments, "case 1: the command has no P3")
		case iso7816.Case2S:
			body, le = splitLast(command, 1)
			p3 = []byte{byte(came)}
		case iso7816.Case2E:
			body, le = splitLast(command, 2)
			p3 = binary.BigEndian.AppendUint16(nil, uint16(came))
		case iso7816.Case4S:
			body, le = splitLast(command, 1)
		case iso7816.Case4E:
			body, le = splitLast(command, 2)
		}
		if len(le) > 0 && !bytes.Equal(p3, le) {
			comments = append(comments, fmt.Sprintf("Le of the command: % X", le))
		}
	}
	payload := slices.Concat(body, p3, answer)
	if cut := len(payload) - maxPayload; cut > 0 {
		end := min(2, len(answer)) // SW1 SW2
		payload = append(payload[:maxPayload-end], answer[len(answer)-end:]...)
		comments = append(comments, fmt.Sprintf("%d bytes before SW1 SW2 are left out", cut))
	}
	return wrap(typeSIM, simAPDU, payload), comments
}

func splitLast(b []byte, n int) (before, last []byte) { return b[:len(b)-n], b[len(b)-n:] }

// Note is a packet with a line of text, which Wireshark shows as a line of a log.
func Note(at time.Time, text string) []byte {
	// struct gsmtap_osmocore_log_hdr
	const (
		program, process = 16, 4
		subsystem, file  = 16, 32
		line             = 4
		info             = 3 // LOGL_INFO
	)
	log := binary.BigEndian.AppendUint32(nil, uint32(at.Unix()))
	log = binary.BigEndian.AppendUint32(log, uint32(at.Nanosecond()/1000))
	log = append(log, fixed("cardfs", program)...)
	log = append(log, make([]byte, process)...)
	log = append(log, info, 0, 0, 0)
	log = append(log, fixed("trace", subsystem)...)
	log = append(log, make([]byte, file+line)...)
	log = append(log, text...)
	return wrap(typeLog, 0, log[:min(len(log), maxPayload)])
}

// fixed is s in n bytes.
func fixed(s string, n int) []byte {
	b := make([]byte, n)
	copy(b, s)
	return b
}
