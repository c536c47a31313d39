// Package pcapng writes capture files of smart-card exchanges for Wireshark.
//
// A pcapng file (draft-ietf-opsawg-pcapng) is a sequence of blocks. A section header comes
// first, then an interface description for each source of packets, which may also come
// later. A packet names its interface and may have comments. Statistics of an interface
// come when it ends. A block is written with one Write, so that a file that is cut off
// ends with a whole block, and a pipe has each packet at once.
//
// What Wireshark decodes as commands and answers of a smart card is GSMTAP, messages over
// UDP to port 4729, of type SIM. Here they are wrapped into UDP and IPv4 from 127.0.0.1 to
// itself. See Exchange and Note.
package pcapng

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// Block types and options of the draft, section 4.
const (
	blockSection    = 0x0A0D0D0A
	blockInterface  = 1
	blockStatistics = 5
	blockPacket     = 6 // the enhanced one

	optComment = 1

	optProgram = 4

	optName        = 2 // of an interface
	optDescription = 3
	optResolution  = 9

	optStart    = 2 // of statistics
	optEnd      = 3
	optReceived = 4
	optDropped  = 5
)

// LinkType is that of all interfaces: packets begin with an IPv4 header.
const LinkType = 228

// Writer writes one section. It is not for several goroutines at once.
type Writer struct {
	w      io.Writer
	block  []byte
	number uint32 // of interfaces
}

// New begins a file, which says that program wrote it.
func New(w io.Writer, program string) (*Writer, error) {
	p := &Writer{w: w}
	p.begin(blockSection)
	p.uint32(0x1A2B3C4D) // byte order
	p.uint32(1)          // version 1.0
	p.uint32(0xFFFFFFFF) // the section's length, not known
	p.uint32(0xFFFFFFFF)
	p.text(optProgram, program)
	return p, p.end()
}

// Interface is a source of packets.
type Interface struct {
	file     *Writer
	number   uint32
	start    time.Time
	received uint64
	dropped  uint64
}

// Interface adds one, which captures from start on.
func (p *Writer) Interface(name, description string, start time.Time) (*Interface, error) {
	i := &Interface{file: p, number: p.number, start: start}
	p.number++
	p.begin(blockInterface)
	p.uint32(LinkType) // and two reserved bytes
	p.uint32(0)        // no limit of a packet's length
	p.text(optName, name)
	p.text(optDescription, description)
	p.option(optResolution, []byte{6}) // microseconds
	return i, p.end()
}

// Packet writes a packet with comments.
func (i *Interface) Packet(at time.Time, packet []byte, comments ...string) error {
	p := i.file
	i.received++
	p.begin(blockPacket)
	p.uint32(i.number)
	p.time(at)
	p.uint32(uint32(len(packet)))
	p.uint32(uint32(len(packet)))
	p.padded(packet)
	for _, c := range comments {
		p.text(optComment, c)
	}
	return p.end()
}

// Lost counts what was lost before it could be written.
func (i *Interface) Lost(n uint64) { i.dropped += n }

// End writes the interface's statistics.
func (i *Interface) End(at time.Time, comments ...string) error {
	p := i.file
	p.begin(blockStatistics)
	p.uint32(i.number)
	p.time(at)
	for _, c := range comments {
		p.text(optComment, c)
	}
	p.option(optStart, stamp(i.start))
	p.option(optEnd, stamp(at))
	p.option(optReceived, binary.LittleEndian.AppendUint64(nil, i.received+i.dropped))
	p.option(optDropped, binary.LittleEndian.AppendUint64(nil, i.dropped))
	return p.end()
}

// begin begins a block. Its length is set by end.
func (p *Writer) begin(kind uint32) {
	p.block = p.block[:0]
	p.uint32(kind)
	p.uint32(0)
}

// end writes the block: no options follow, then the length once more.
func (p *Writer) end() error {
	p.uint32(0) // opt_endofopt
	n := uint32(len(p.block) + 4)
	binary.LittleEndian.PutUint32(p.block[4:], n)
	p.uint32(n)
	if _, err := p.w.Write(p.block); err != nil {
		return fmt.Errorf("write capture file: %w", err)
	}
	return nil
}

func (p *Writer) uint32(v uint32) { p.block = binary.LittleEndian.AppendUint32(p.block, v) }

func (p *Writer) time(t time.Time) { p.block = append(p.block, stamp(t)...) }

// stamp is a time as two words, the high one first.
func stamp(t time.Time) []byte {
	us := uint64(t.UnixMicro())
	b := binary.LittleEndian.AppendUint32(nil, uint32(us>>32))
	return binary.LittleEndian.AppendUint32(b, uint32(us))
}

// padded appends b, filled up to words of 32 bits.
func (p *Writer) padded(b []byte) {
	p.block = append(p.block, b...)
	for len(p.block)%4 != 0 {
		p.block = append(p.block, 0)
	}
}

// maxOption is what the 16 bits of an option's length can say.
const maxOption = 0xFFFF

func (p *Writer) option(code uint16, value []byte) {
	value = value[:min(len(value), maxOption)]
	p.block = binary.LittleEndian.AppendUint16(p.block, code)
	p.block = binary.LittleEndian.AppendUint16(p.block, uint16(len(value)))
	p.padded(value)
}

func (p *Writer) text(code uint16, s string) {
	if s != "" {
		p.option(code, []byte(s))
	}
}
