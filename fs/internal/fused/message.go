package fused

import (
	"bytes"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// The opcodes that say how large their answer may be, and those without one
// (linux/include/uapi/linux/fuse.h, enum fuse_opcode).
const (
	opForget      = 2
	opRead        = 15
	opWrite       = 16
	opGetXAttr    = 22
	opListXAttr   = 23
	opReadDir     = 28
	opInterrupt   = 36
	opIoctl       = 39
	opBatchForget = 42
	opReadDirPlus = 44
)

// bytesOf is the memory of v, a structure of the protocol.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

const (
	inHeaderSize = int(unsafe.Sizeof(fuse.InHeader{}))
	headerSize   = int(unsafe.Sizeof(fuse.OutHeader{}))
)

// reply puts the header of an answer with size bytes behind it into out. An error has
// none.
func reply(out []byte, unique uint64, status fuse.Status, size int) int {
	if !status.Ok() {
		size = 0
	}
	size += headerSize
	*(*fuse.OutHeader)(unsafe.Pointer(&out[0])) = fuse.OutHeader{
		Length: uint32(size), Status: -int32(status), Unique: unique,
	}
	return size
}

// answerSize returns the largest size of the answer, in bytes. A size that the kernel never
// asks for is reported as more than largeSize, as an int has 32 bits on some processors.
func answerSize(h *fuse.InHeader) int {
	const fixed = 512 // more than any answer of a fixed size
	p := unsafe.Pointer(h)
	switch h.Opcode {
	case opRead, opReadDir, opReadDirPlus:
		return fixed + int(min((*fuse.ReadIn)(p).Size, largeSize))
	case opIoctl:
		return fixed + int(min((*fuse.IoctlIn)(p).OutSize, largeSize))
	case opGetXAttr, opListXAttr:
		return fixed + int(min((*fuse.GetXAttrIn)(p).Size, largeSize))
	}
	return fixed
}

// hackName and hackNode are a file that go-fuse's ProtocolServer shows to everybody in
// the top directory. It is there for servers that open files of their own mount.
const (
	hackName = ".go-fuse-epoll-hack"
	hackNode = ^uint64(0)
)

func isHack(h *fuse.InHeader, in []byte) bool {
	return h.NodeId == hackNode ||
		h.NodeId == fuse.FUSE_ROOT_ID && bytes.Contains(in[inHeaderSize:], []byte(hackName))
}

// shorten cuts the answer to an ioctl down to what is to be copied to the caller.
func shorten(cmd uint32, out []byte) int {
	const fixed = headerSize + ioctlOutSize
	if len(out) < fixed { // an error
		return len(out)
	}
	result := (*fuse.IoctlOut)(unsafe.Pointer(&out[headerSize]))
	n := fixed + copiedBack(cmd, int(result.Result), len(out)-fixed)
	(*fuse.OutHeader)(unsafe.Pointer(&out[0])).Length = uint32(n)
	return n
}
