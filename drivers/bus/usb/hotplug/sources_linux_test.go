package hotplug

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// One source is enough. Without any, sysfs is polled. Each missing source is logged.
func TestSources(t *testing.T) {
	for _, tt := range []struct {
		what             string
		deaf, uevents    bool
		inotify, polling bool
	}{
		{"both", false, true, true, false},
		{"no uevents, as told", true, true, true, false},
		{"no uevents, as told, nor anything else", true, true, false, true},
		{"uevents are refused", false, false, true, false},
		{"no device files", false, true, false, false},
		{"none", false, false, false, true},
	} {
		t.Run(tt.what, func(t *testing.T) {
			f := newTree(t)
			f.w.deaf = tt.deaf
			if !tt.uevents {
				f.refuse = unix.EPERM
			}
			if !tt.inotify {
				f.w.openInotify = func() (source, error) { return nil, os.ErrNotExist }
			}
			f.must(f.w.start(f.Context()))
			if polls := f.log.count("looked for every second") == 1; polls != tt.polling {
				t.Errorf("polls: %v", polls)
			}
			if opened := f.opened == 1; opened == tt.deaf {
				t.Errorf("uevents opened: %v", opened)
			}
			if n := f.log.count("no uevents, as told"); (n == 1) != tt.deaf {
				t.Errorf("told %d times to be deaf", n)
			}
			if n := f.log.count(`"no uevents" error=`); (n == 1) != (!tt.deaf && !tt.uevents) {
				t.Errorf("uevents missing: %d", n)
			}
			if n := f.log.count(`"no events from ` + f.w.dev + `" error=`); (n == 1) == tt.inotify {
				t.Errorf("events of files missing: %d", n)
			}
		})
	}
}

// After a failed or truncated recvmsg, the buffer holds no message: its bytes may be those
// of the previous one.
func TestMessageOfAFailedCall(t *testing.T) {
	f := newTree(t)
	f.plug(d1)
	f.start("uevents")
	r := f.next()
	for _, m := range []message{{err: unix.ENOBUFS}, {err: unix.EINTR}, {flags: unix.MSG_TRUNC}} {
		m.text, m.from, m.cred = d1.event("remove"), kernelAddr, root
		f.send(&m)
		f.stays(r, "nothing was received")
	}
	f.say([]byte("remove@/\x00"), d1.event("remove"))
	f.gone(r)
}

// A device that was seen complete, or that left, needs no more looks. The next device in its
// port gets all its looks.
func TestLooksBeginAnew(t *testing.T) {
	f := newTree(t).start("uevents")
	early := func() (n int, there bool) {
		f.w.mu.Lock()
		defer f.w.mu.Unlock()
		n, there = f.w.early[d1.name]
		return n, there
	}
	set := func() {
		f.w.mu.Lock()
		defer f.w.mu.Unlock()
		f.w.early[d1.name] = laterMost - 1
	}
	set()
	f.plug(d1)
	f.say(d1.event("add"))
	r := f.next()
	f.quiet()
	if n, there := early(); there {
		t.Errorf("whole: %d looks are remembered", n)
	}
	f.say(d1.event("remove"))
	f.gone(r)
	f.unplug(d1)
	f.heard()
	set()
	f.say(d1.event("add")) // late: it is not there
	f.quiet()
	if n, there := early(); there {
		t.Errorf("gone: %d looks are remembered", n)
	}
}
