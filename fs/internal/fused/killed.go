package fused

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Once a command was sent its caller waits for the card, whatever signals come, and the
// kernel lets no process die whose request is in the server. The kernel sends INTERRUPT for
// the first signal only, which may be any; a SIGKILL may follow it. So after an INTERRUPT
// the server looks at the caller again and again until the request is done. A caller with
// a SIGKILL pending is answered EINTR, which lets it die; the handler goes on, and its
// answer is dropped.

// watched is a request that was interrupted and goes on.
type watched struct {
	worker *worker
	unique uint64
	pid    uint32
}

// watchEvery is how long a handler has to end by itself, and the longest that a SIGKILL goes
// unnoticed.
const watchEvery = 100 * time.Millisecond

// watch begins to watch a request that was interrupted.
func (s *Server) watch(unique uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.workers {
		pid := w.pid.Load()
		if w.request.Load() != unique || pid == 0 { // 0: of another pid namespace
			continue
		}
		s.watched = append(s.watched, watched{w, unique, pid})
		if len(s.watched) == 1 {
			go s.watchKilled()
		}
		return
	}
}

// watchKilled goes on as long as there is something to watch.
func (s *Server) watchKilled() {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-s.gone: // and so is who asked
			return
		}
		s.mu.Lock()
		now := append([]watched(nil), s.watched...)
		s.mu.Unlock()
		for _, w := range now {
			if w.worker.request.Load() == w.unique && killed(w.pid) {
				s.abandon(w)
			}
		}
		s.mu.Lock()
		rest := s.watched[:0]
		for _, w := range s.watched {
			if w.worker.request.Load() == w.unique {
				rest = append(rest, w)
			}
		}
		clear(s.watched[len(rest):])
		s.watched = rest
		s.mu.Unlock()
		if len(rest) == 0 {
			return
		}
	}
}

// abandon answers in place of the worker, which keeps the request until its handler returns.
func (s *Server) abandon(w watched) {
	if !w.worker.request.CompareAndSwap(w.unique, abandoned) {
		return
	}
	var answer [headerSize]byte
	reply(answer[:], w.unique, fuse.EINTR, 0)
	s.writeOutside(answer[:], opInterrupt)
	if s.leaving.Load() {
		select {
		case s.answered <- struct{}{}:
		default:
		}
	}
}

// killed reports whether the thread has SIGKILL pending, or has ended. If /proc cannot tell,
// the thread counts as alive.
func killed(tid uint32) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return errors.Is(unix.Kill(int(tid), 0), unix.ESRCH)
	}
	return sigkillPending(text)
}

// sigkillPending reports whether SIGKILL is pending for a thread or for its process. text is
// the thread's /proc/TID/status (proc_pid_status(5)).
func sigkillPending(text []byte) bool {
	for line := range bytes.Lines(text) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		switch string(key) {
		case "SigPnd", "ShdPnd": // of the thread, of its process
			set, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64)
			if err == nil && set&(1<<(unix.SIGKILL-1)) != 0 {
				return true
			}
		}
	}
	return false
}
