package programs

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"io"
	"math/big"
	"net"
	"testing"
	"time"
)

// A card with what gpg, yubico-piv-tool and piv-go ask for: the applets of OpenPGP and of
// PIV, as a YubiKey 5 has them. It is a virtual card of the vpcd protocol.
const (
	keysATR = "3B800181" // T=1
	keysPIN = "123456"

	aidPIV     = "A000000308"
	aidOpenPGP = "D27600012401"
)

type keysCard struct {
	objects map[string][]byte // GET DATA, by tag
	key     *rsa.PrivateKey
	more    []byte // what GET RESPONSE fetches
	pgp     bool   // the applet of OpenPGP is selected
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// tlv is a data object in BER.
func tlv(tag string, value ...[]byte) []byte {
	v := bytes.Join(value, nil)
	b := unhex(tag)
	switch {
	case len(v) < 0x80:
		b = append(b, byte(len(v)))
	case len(v) < 0x100:
		b = append(b, 0x81, byte(len(v)))
	default:
		b = append(b, 0x82, byte(len(v)>>8), byte(len(v)))
	}
	return append(b, v...)
}

func newKeysCard() (*keysCard, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cardfs PIV"},
		NotBefore: time.Unix(1.7e9, 0), NotAfter: time.Unix(4e9, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	aid := unhex(aidOpenPGP + "0304" + "0006" + "12345678" + "0000")
	rsa2048 := unhex("010800002000")
	objects := map[string][]byte{
		"5FC105": tlv("53", tlv("70", der), tlv("71", []byte{0}), tlv("FE")), // PIV Authentication
		"4F":     aid,
		"5F52":   unhex("0031C573C00140009000"),
		"C4":     unhex("007F7F7F030003"),
		"5E":     []byte("login"),
		"5F50":   []byte("https://example.org/key"),
		"65":     tlv("65", tlv("5B", []byte("Doe<<Jane")), tlv("5F2D", []byte("en")), tlv("5F35", []byte("9"))),
		"7A":     tlv("7A", tlv("93", []byte{0, 0, 7})),
	}
	objects["6E"] = tlv("6E", tlv("4F", aid), tlv("5F52", objects["5F52"]), tlv("73",
		tlv("C0", unhex("340000FF080000FF0000")), tlv("C1", rsa2048), tlv("C2", rsa2048), tlv("C3", rsa2048), tlv("C4", objects["C4"]),
		tlv("C5", bytes.Repeat([]byte{0x11}, 60)), tlv("C6", make([]byte, 60)), tlv("CD", make([]byte, 12))))
	return &keysCard{objects: objects, key: key}, nil
}

// answer is the R-APDU of a command, 256 bytes at most and the rest by GET RESPONSE.
func (c *keysCard) answer(command []byte) []byte {
	data, sw := c.command(command)
	if command[1] == 0xC0 {
		data, sw = c.more, 0x9000
	}
	if c.more = nil; len(data) > 256 {
		data, c.more = data[:256], data[256:]
		sw = 0x6100 | uint16(min(len(c.more), 0xFF))
	}
	return binary.BigEndian.AppendUint16(bytes.Clone(data), sw)
}

func (c *keysCard) command(command []byte) (data []byte, sw uint16) {
	var body []byte
	if len(command) > 5 {
		body = command[5:min(len(command), 5+int(command[4]))]
	}
	object := func(tag []byte) ([]byte, uint16) {
		data, ok := c.objects[hexUpper(tag)]
		if !ok {
			return nil, 0x6A82
		}
		return data, 0x9000
	}
	switch command[1] {
	case 0xA4:
		c.pgp = hexUpper(body) == aidOpenPGP
		if c.pgp {
			return nil, 0x9000
		}
		if hexUpper(body[:min(len(body), 5)]) == aidPIV {
			return tlv("61", tlv("4F", unhex("000010000100")), tlv("79", tlv("4F", unhex(aidPIV)))), 0x9000
		}
		return nil, 0x6A82
	case 0xCA:
		return object(bytes.TrimLeft(command[2:4], "\x00"))
	case 0xCB: // 5C, length, tag
		return object(body[2:])
	case 0xFD:
		return []byte{5, 4, 3}, 0x9000
	case 0xF8:
		return []byte{0, 1, 2, 3}, 0x9000
	case 0x20:
		switch {
		case len(body) == 0:
			return nil, 0x63C3
		case string(bytes.TrimRight(body, "\xFF")) == keysPIN:
			return nil, 0x9000
		}
		return nil, 0x63C2
	}
	return nil, 0x6D00
}

func hexUpper(b []byte) string { return string(bytes.ToUpper([]byte(hex.EncodeToString(b)))) }

// insert connects a copy of the card to a reader that listens at a socket, until the test
// ends.
func (c keysCard) insert(t *testing.T, socket string) {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		_ = conn.Close()
		<-ended
	})
	go func() {
		defer close(ended)
		for {
			var n [2]byte
			if _, err := io.ReadFull(conn, n[:]); err != nil {
				return
			}
			message := make([]byte, binary.BigEndian.Uint16(n[:]))
			if _, err := io.ReadFull(conn, message); err != nil {
				return
			}
			var answer []byte
			switch {
			case len(message) > 1:
				answer = c.answer(message)
			case message[0] == 4:
				answer = unhex(keysATR)
			default: // off, on, reset: no answer
				c.pgp, c.more = false, nil
				continue
			}
			if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
				return
			}
		}
	}()
}
