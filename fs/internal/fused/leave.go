package fused

import (
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Drain waits until no answer is under way, or until enough is closed. The loops go on,
// because a program with an open file may make further requests.
func (s *Server) Drain(enough <-chan struct{}) {
	s.leaving.Store(true)
	for s.underWay() {
		select {
		case <-s.answered:
		case <-enough:
			return
		}
	}
}

func (s *Server) underWay() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.workers {
		if r := w.request.Load(); r != noRequest && r != abandoned {
			return true
		}
	}
	return false
}

// end interrupts everything under way because the mount is gone.
func (s *Server) end() {
	if s.dead.Swap(true) {
		return
	}
	close(s.gone)
	var workers []*worker
	s.mu.Lock()
	for w := range s.workers {
		workers = append(workers, w)
	}
	s.mu.Unlock()
	for _, w := range workers {
		unique := w.request.Load()
		// The handler may not have begun yet, and cannot be interrupted before.
		for try := 0; try < 100 && unique > abandoned && w.request.Load() == unique; try++ {
			if s.interrupt(unique) {
				break
			}
			request := fuse.InterruptIn{Unique: unique}
			request.Opcode = opInterrupt
			request.Length = uint32(unsafe.Sizeof(request))
			var answer [64]byte
			if n, _ := s.proto.HandleRequest([][]byte{bytesOf(&request)}, [][]byte{answer[:]}); n == 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
}
