package ctapi

import (
	"context"

	"github.com/cardfs/cardfs/reader/core"
)

// file is one file of the terminal's own tree.
type file struct {
	fid     uint16
	parent  *file
	files   []*file // of a directory
	content func(t *Terminal) []byte
}

func (f *file) directory() bool { return f.content == nil }

// tree is what terminals show by SELECT FILE and READ BINARY. The EFs hold data
// objects; their contents follow those of a REINER SCT cyberJack.
func (t *Terminal) tree() *file {
	mf := &file{fid: 0x3F00}
	mf.add(&file{fid: 0x0020, content: func(*Terminal) []byte {
		return append([]byte{0x01, 5}, "CRDFS\x02\x01\x00\x03\x02\x20\x00"...)
	}})
	ct := mf.add(&file{fid: 0x7F60})
	units := func(*Terminal) []byte { return []byte{0x03, 2, 0x20, 0x00} }
	ct.add(&file{fid: 0x6020, content: units})
	ct.add(&file{fid: 0x6021, content: units})
	for i, s := range t.home.Siblings() {
		dir := mf.add(&file{fid: 0x7F70 + uint16(i)})
		dir.add(&file{fid: 0x7020, content: func(*Terminal) []byte {
			// 20: slot type; 22: the protocols it speaks, as SET INTERFACE
			// PARAMETER numbers them.
			return []byte{0x03, 2, 0x20, 0x00, 0x20, 1, 0x81, 0x22, 2, 0x01, 0x02}
		}})
		dir.add(&file{fid: 0x7021 + uint16(i)<<8, content: func(*Terminal) []byte {
			state := slotState(s)
			object := []byte{0x21, 1, state & 1}
			if info := s.Info(); info.State == core.StatePowered {
				object = append(object, 0x22, 1, protocolByte(info))
			}
			return object
		}})
	}
	return mf
}

func (f *file) add(child *file) *file {
	child.parent = f
	f.files = append(f.files, child)
	return child
}

// read is a file's content: of a directory its entries, FID 01 00 00 each.
func (f *file) read(t *Terminal) []byte {
	if !f.directory() {
		return f.content(t)
	}
	var list []byte
	for _, c := range f.files {
		list = append(list, byte(c.fid>>8), byte(c.fid), 0x01, 0x00, 0x00)
	}
	return list
}

// selectFile is SELECT FILE by file identifier: the master file from anywhere,
// the rest from the directory that holds it.
func (t *Terminal) selectFile(ctx context.Context, c command) ([]byte, sw, error) {
	if c.p1 != 0 || c.p2 != 0 {
		return nil, swP1P2, nil
	}
	if len(c.data) != 2 {
		return nil, swLength, nil
	}
	fid := uint16(c.data[0])<<8 | uint16(c.data[1])
	root := t.tree()
	var found *file
	if fid == root.fid {
		found = root
	} else {
		dir := t.current(root)
		if !dir.directory() {
			dir = dir.parent
		}
		for _, f := range dir.files {
			if f.fid == fid {
				found = f
			}
		}
	}
	if found == nil {
		return nil, swNotFound, nil
	}
	t.file = found
	size := len(found.read(t))
	kind := byte(0x08)
	if found.directory() {
		kind = 0x88
	}
	return []byte{byte(size >> 8), byte(size), byte(size >> 8), byte(size), kind, 0, 0, 0, 0, 0}, swOK, nil
}

func (t *Terminal) current(root *file) *file {
	if t.file == nil {
		return root
	}
	return t.file
}

// readBinary is READ BINARY of the selected file: 62 82 where it ends before
// Le, 6B 00 where the offset lies behind its end.
func (t *Terminal) readBinary(ctx context.Context, c command) ([]byte, sw, error) {
	if t.file == nil {
		return nil, swNoFile, nil
	}
	if len(c.data) > 0 || c.le < 0 {
		return nil, swLength, nil
	}
	if c.p1&0x80 != 0 {
		return nil, swP1P2, nil // no short EF identifiers here
	}
	content, offset := t.file.read(t), int(c.p1)<<8|int(c.p2)
	if offset > len(content) {
		return nil, swOffset, nil
	}
	content = content[offset:]
	n := c.le
	switch {
	case n == 0: // all there is
		return content[:min(256, len(content))], swOK, nil
	case n > len(content):
		return content, swFewer, nil
	}
	return content[:n], swOK, nil
}
