package gempc

import (
	"fmt"

	"github.com/cardfs/cardfs/reader"
)

// The Gemplus Block Protocol of the serial models, as libgcr410 2.4.0, libgempc410 1.0.8
// and OpenCT 0.6.20 were observed to speak it. A block is NAD, PCB, LEN, LEN bytes of data,
// and LRC, the XOR of all bytes before it. Each side numbers its I-blocks by one bit, and
// both begin at 0, after a RESYNCH too.
//
// An R-block asks the other side to send its last block again. Its number is that of the
// I-block that its sender expects next. So an R-block of the reader with the number of the
// last command says that the reader had not taken this command when it sent the block.
const (
	toReader   = 0x42 // NAD
	fromReader = 0x24

	pcbR          = 0x80 // and one of the next two
	wrongLRC      = 0x01
	otherError    = 0x02
	askResync     = 0xC0
	resynced      = 0xE0
	numberOfI     = 0x40 // the bit of the number, in an I-block
	numberOfR     = 0x10
	blockHead     = 3
	blockOverhead = blockHead + 1
	longestBlock  = blockHead + 255 + 1
)

// block is a block of the reader. Its data are valid until the next one is read.
type block struct {
	pcb  byte
	data []byte
}

// iBlock is the PCB of an I-block with number n, 0 or 1.
func iBlock(n byte) byte { return n * numberOfI }

// rBlock is the PCB of an R-block that expects the I-block with number n.
func rBlock(n, reason byte) byte { return pcbR | n*numberOfR | reason }

// refuses reports whether a block is an R-block that expects the I-block with number n.
func (b block) refuses(n byte) bool {
	return b.pcb == rBlock(n, wrongLRC) || b.pcb == rBlock(n, otherError)
}

// precedes reports whether a block is the one that the reader sent before its I-block with
// number n.
func (b block) precedes(n byte) bool {
	return b.pcb == iBlock(n^1) || n == 0 && b.pcb == resynced
}

// appendBlock appends a block to the reader to dst.
func appendBlock(dst []byte, pcb byte, data []byte) []byte {
	start := len(dst)
	dst = append(dst, toReader, pcb, byte(len(data)))
	dst = append(dst, data...)
	return append(dst, lrc(dst[start:]))
}

func lrc(p []byte) (x byte) {
	for _, b := range p {
		x ^= b
	}
	return x
}

// missing is how many bytes are missing at least of a block that begins with p.
func missing(p []byte) int {
	if len(p) < blockHead {
		return blockOverhead - len(p)
	}
	return max(0, blockOverhead+int(p[2])-len(p))
}

// parseBlock reads the block that p begins with. Bytes behind it are no part of it.
func parseBlock(p []byte) (block, error) {
	switch n := missing(p); {
	case len(p) > 0 && p[0] == toReader:
		return block{}, fmt.Errorf("the line echoes: %w", reader.ErrProtocol)
	case len(p) > 0 && p[0] != fromReader:
		return block{}, fmt.Errorf("no block: it begins with %02X: %w", p[0], reader.ErrProtocol)
	case n > 0:
		return block{}, fmt.Errorf("a block that lacks %d bytes or more: %w", n, reader.ErrProtocol)
	}
	p = p[:blockOverhead+int(p[2])]
	if lrc(p) != 0 {
		return block{}, fmt.Errorf("%w: %w", errLRC, reader.ErrProtocol)
	}
	return block{p[1], p[blockHead : len(p)-1]}, nil
}
