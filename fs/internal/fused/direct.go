package fused

import (
	"context"
	"syscall"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// An exchange is an IOCTL, or a WRITE and a READ. go-fuse's HandleRequest makes more than a
// kilobyte of garbage for each; its collection takes a tenth of what one client's exchanges
// cost, and a third of what those of many do. So a well-formed request for an open exchange
// file is answered here, without garbage. go-fuse answers all others. TestDirect checks that
// both give the same answers.

// exchangeFile is a handle whose requests are answered here.
type exchangeFile interface {
	fs.FileReader
	fs.FileWriter
	fs.FileIoctler
}

// interruptible is the context of a request: its channel is closed by an INTERRUPT. It
// means nothing once the request has its answer.
type interruptible chan struct{}

func (i interruptible) Done() <-chan struct{} { return i }

func (i interruptible) Err() error {
	select {
	case <-i:
		return context.Canceled
	default:
		return nil
	}
}

func (i interruptible) Deadline() (none time.Time, ok bool) { return none, false }
func (i interruptible) Value(any) any                       { return nil }

// begin makes a request interruptible.
func (w *worker) begin(unique uint64) context.Context {
	w.direct.Store(unique)
	return interruptible(w.cancel)
}

// end is called when the handler has returned: from then on an interrupt comes too late.
func (w *worker) end(unique uint64) {
	if !w.direct.CompareAndSwap(unique, noRequest) {
		<-w.cancel // about to be closed, if it is not
		w.cancel = make(chan struct{})
		w.direct.Store(noRequest)
	}
}

// interrupt ends the waiting of a request that is answered here. It returns false if there is
// no such request, or if it was interrupted before.
func (s *Server) interrupt(unique uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.workers {
		if unique > abandoned && w.direct.CompareAndSwap(unique, answering) {
			close(w.cancel)
			return true
		}
	}
	return false
}

const (
	readInSize      = int(unsafe.Sizeof(fuse.ReadIn{}))
	writeInSize     = int(unsafe.Sizeof(fuse.WriteIn{}))
	writeOutSize    = int(unsafe.Sizeof(fuse.WriteOut{}))
	ioctlInSize     = int(unsafe.Sizeof(fuse.IoctlIn{}))
	ioctlOutSize    = int(unsafe.Sizeof(fuse.IoctlOut{}))
	interruptInSize = int(unsafe.Sizeof(fuse.InterruptIn{}))
)

// exchangeOpen is the open that a request is for, if it is for an exchange file and whole.
func (s *Server) exchangeOpen(h *fuse.InHeader, in []byte) *openFile {
	if s.exchanges == nil || h.TotalExtlen != 0 {
		return nil
	}
	p, fh := unsafe.Pointer(h), uint64(0)
	switch {
	case h.Opcode == opIoctl && len(in) >= ioctlInSize:
		fh = (*fuse.IoctlIn)(p).Fh
	case h.Opcode == opWrite && len(in) >= writeInSize:
		fh = (*fuse.WriteIn)(p).Fh
	case h.Opcode == opRead && len(in) >= readInSize:
		fh = (*fuse.ReadIn)(p).Fh
	default:
		return nil
	}
	if o := s.exchanges.get(fh); o != nil && o.exchange != nil && o.node == h.NodeId {
		return o
	}
	return nil
}

// answerExchange puts the answer to a request for o into out, which has room for it.
func (s *Server) answerExchange(w *worker, o *openFile, h *fuse.InHeader, in, out []byte) int {
	ctx := w.begin(h.Unique)
	defer w.end(h.Unique)
	p, body := unsafe.Pointer(h), out[headerSize:]
	var size int
	var call string
	var errno syscall.Errno
	switch h.Opcode {
	case opIoctl:
		r := (*fuse.IoctlIn)(p)
		room := body[ioctlOutSize : ioctlOutSize+int(r.OutSize)]
		var result int32
		result, errno = o.exchange.Ioctl(ctx, r.Cmd, r.Arg, in[ioctlInSize:], room)
		*(*fuse.IoctlOut)(unsafe.Pointer(&body[0])) = fuse.IoctlOut{Result: result}
		call, size = "ioctl", ioctlOutSize+copiedBack(r.Cmd, int(result), len(room))
	case opWrite:
		r := (*fuse.WriteIn)(p)
		o.flagged(r.Flags)
		var n uint32
		n, errno = o.exchange.Write(ctx, in[writeInSize:], int64(r.Offset))
		*(*fuse.WriteOut)(unsafe.Pointer(&body[0])) = fuse.WriteOut{Size: n}
		call, size = "write", writeOutSize
	case opRead:
		r := (*fuse.ReadIn)(p)
		if pageCache(r) {
			return reply(out, h.Unique, fuse.EINVAL, 0)
		}
		o.flagged(r.Flags)
		dest := body[:r.Size]
		var result fuse.ReadResult
		result, errno = o.exchange.Read(ctx, dest, int64(r.Offset))
		if errno == 0 {
			data, _ := result.Bytes(dest)
			size = copy(dest, data)
		}
		call = "read"
	}
	if errno != 0 {
		o.owner.Failed(call, errno)
	}
	return reply(out, h.Unique, fuse.Status(errno), size)
}
