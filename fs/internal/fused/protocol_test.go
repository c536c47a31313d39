package fused

import (
	"bytes"
	"syscall"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// The server relies on these properties of go-fuse's ProtocolServer, which "is not subject to
// API stability". If this fails after an update, look at serve.go.
func TestProtocolServer(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	var panics []any
	var reads []fuse.ReadIn
	fs := &protocolFS{answers: answers{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		open: func(cancel <-chan struct{}) fuse.Status {
			begun <- struct{}{}
			<-cancel
			<-end
			return fuse.EINTR
		},
		ioctl: func(_ <-chan struct{}, in, out []byte) fuse.Status {
			if len(in) == 0 {
				panic("here")
			}
			copy(out, "answer")
			return fuse.OK
		},
	}, reads: &reads}
	ps := fuse.NewProtocolServer(fs, &fuse.MountOptions{
		MaxWrite:     MaxWrite,
		PanicHandler: func(p any) fuse.Status { panics = append(panics, p); return fuse.EIO },
	})
	unique := uint64(0)
	ask := func(opcode uint32, h *fuse.InHeader, request, data []byte) (errno syscall.Errno, answer []byte) {
		t.Helper()
		unique += 2
		h.Opcode, h.Unique, h.Length = opcode, unique, uint32(len(request)+len(data))
		out := bytes.Repeat([]byte{0x5A}, 8192)
		n, status := ps.HandleRequest([][]byte{append(bytes.Clone(request), data...)}, [][]byte{out})
		if !status.Ok() {
			t.Fatalf("opcode %d: %v", opcode, status)
		}
		if n == 0 {
			return 0, nil
		}
		r := (*fuse.OutHeader)(unsafe.Pointer(&out[0]))
		if headerSize != 16 || int(r.Length) != n || r.Unique != h.Unique || r.Status > 0 {
			t.Fatalf("opcode %d: %d bytes, header %+v", opcode, n, *r)
		}
		return syscall.Errno(-r.Status), out[headerSize:n]
	}

	// A second ProtocolServer may be given the INIT that the first one got.
	init := fuse.InitIn{Major: 7, Minor: 38, Flags: fuse.CAP_FLOCK_LOCKS}
	if errno, answer := ask(opInit, &init.InHeader, bytesOf(&init), nil); errno != 0 || len(answer) == 0 {
		t.Errorf("INIT: %v, %d bytes", errno, len(answer))
	}

	// An ioctl's answer: fuse_ioctl_out, then all the room, in place.
	ioctl := fuse.IoctlIn{InSize: 1, OutSize: 100}
	errno, answer := ask(opIoctl, &ioctl.InHeader, bytesOf(&ioctl), []byte{1})
	if errno != 0 || len(answer) != 16+100 || !bytes.HasPrefix(answer[16:], []byte("answer")) {
		t.Errorf("IOCTL: %v, %d bytes", errno, len(answer))
	}
	// A panic in the file system reaches the handler.
	ioctl = fuse.IoctlIn{}
	if errno, _ := ask(opIoctl, &ioctl.InHeader, bytesOf(&ioctl), nil); errno != syscall.EIO || len(panics) != 1 {
		t.Errorf("a panic: %v, %d seen", errno, len(panics))
	}

	// READ carries fields that the file system API does not show.
	read := fuse.ReadIn{Size: 10, ReadFlags: 2, Flags: syscall.O_NONBLOCK | syscall.O_RDWR}
	errno, answer = ask(opRead, &read.InHeader, bytesOf(&read), nil)
	if errno != 0 || string(answer) != "read" || len(reads) != 1 || reads[0].ReadFlags != 2 || reads[0].Flags != read.Flags {
		t.Errorf("READ: %v, %q, %+v", errno, answer, reads)
	}

	// These have no answer.
	forget := fuse.ForgetIn{Nlookup: 1}
	if errno, answer := ask(opForget, &forget.InHeader, bytesOf(&forget), nil); answer != nil {
		t.Errorf("FORGET is answered: %v", errno)
	}

	// INTERRUPT has an answer only if it found no request.
	interrupt := fuse.InterruptIn{Unique: 1 << 40}
	if errno, answer := ask(opInterrupt, &interrupt.InHeader, bytesOf(&interrupt), nil); errno != syscall.EAGAIN || answer == nil {
		t.Errorf("INTERRUPT of nothing: %v", errno)
	}
	done := make(chan int)
	open := fuse.OpenIn{}
	open.Opcode, open.Unique, open.Length = opOpen, 1000, uint32(unsafe.Sizeof(open))
	go func() {
		n, _ := ps.HandleRequest([][]byte{bytesOf(&open)}, [][]byte{make([]byte, 1000)})
		done <- n
	}()
	<-begun
	interrupt.Unique = 1000
	if errno, answer := ask(opInterrupt, &interrupt.InHeader, bytesOf(&interrupt), nil); answer != nil {
		t.Errorf("INTERRUPT: %v", errno)
	}
	close(end)
	if n := <-done; n != headerSize {
		t.Errorf("who was interrupted has an answer of %d bytes", n)
	}

	// The extra file that go-fuse shows. Once go-fuse drops it, isHack can go as well.
	lookup := fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID}
	errno, answer = ask(1, &lookup, bytesOf(&lookup), []byte(hackName+"\x00"))
	if errno != 0 || (*fuse.EntryOut)(unsafe.Pointer(&answer[0])).NodeId != hackNode {
		t.Errorf("LOOKUP of %s: %v", hackName, errno)
	}
}

// protocolFS keeps the fields of a READ.
type protocolFS struct {
	answers
	reads *[]fuse.ReadIn
}

func (p *protocolFS) Read(_ <-chan struct{}, in *fuse.ReadIn, dest []byte) (fuse.ReadResult, fuse.Status) {
	*p.reads = append(*p.reads, *in)
	return fuse.ReadResultData([]byte("read")), fuse.OK
}
