package fused

import (
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Drain waits until no answer is under way, or until enough is closed. The loops go on, as
// who has a file open may ask again.
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

// end interrupts all that is under way, as the mount is gone.
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
		// It may be about to begin, where nothing can interrupt it yet.
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
