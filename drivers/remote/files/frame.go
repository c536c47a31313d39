package files

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Both directions of the connection carry frames: a header of headerLen bytes, most
// significant byte first, and data.
//
//	0   length of the data
//	4   number of the request, which its reply repeats
//	12  op of a request; 0 of a reply
//	13  number of the file; of a reply to open: the new file's
//	17  of a request: flags of open, or the most bytes that a read returns;
//	    of a reply: errno
const headerLen = 21

// maxData is the most that a frame carries: the text of the longest R-APDU, 65,538 bytes at
// three characters each, and room for words.
const maxData = 256 << 10

// Operations.
const (
	opOpen      = 1 + iota // data: the directory, a NUL, and the path below it
	opOpenAlone            // the same, see Group.OpenAlone
	opRead                 // one read(2)
	opWrite                // one write(2) of all data
	opExchange             // opWrite and, if that succeeds, opRead
	opClose
)

type frame struct {
	id     uint64
	op     byte
	handle uint32
	arg    uint32
	data   []byte
}

func (f *frame) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(f.data)))
	dst = binary.BigEndian.AppendUint64(dst, f.id)
	dst = append(dst, f.op)
	dst = binary.BigEndian.AppendUint32(dst, f.handle)
	dst = binary.BigEndian.AppendUint32(dst, f.arg)
	return append(dst, f.data...)
}

// readFrame reads one frame. Its data are the caller's.
func readFrame(r io.Reader) (f frame, err error) {
	var h [headerLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return f, err
	}
	n := binary.BigEndian.Uint32(h[0:])
	f = frame{id: binary.BigEndian.Uint64(h[4:]), op: h[12], handle: binary.BigEndian.Uint32(h[13:]), arg: binary.BigEndian.Uint32(h[17:])}
	if n > maxData {
		return f, fmt.Errorf("files: a frame of %d bytes; the most is %d", n, maxData)
	}
	f.data = make([]byte, n)
	_, err = io.ReadFull(r, f.data)
	return f, err
}
