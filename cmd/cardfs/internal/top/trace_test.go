package top

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pipe is a trace of a test.
type pipe struct {
	*io.PipeReader
	closed chan struct{}
}

func TestTrace(t *testing.T) {
	files := newFakeMount(slot(0, "state powered", "reader A"), slot(1, "state powered"), slot(2, "state powered"))
	run(t, files, func(s *scene) {
		r, w := io.Pipe()
		closed := make(chan struct{})
		files.traces = map[int]func() (io.ReadCloser, error){
			0: func() (io.ReadCloser, error) { return pipe{r, closed}, nil },
			1: func() (io.ReadCloser, error) { return nil, unix.EACCES },
			2: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("the last\n")), nil },
		}
		time.Sleep(time.Second)
		s.keys("t")
		s.shows("trace of slot 0  A")
		fmt.Fprint(w, "first line\nsecond ")
		time.Sleep(2 * redraw)
		s.shows("first line\n")
		fmt.Fprint(w, "line\n")
		time.Sleep(2 * redraw)
		s.shows("first line\nsecond line\n")
		s.keys("q")
		<-closed
		s.shows("    0 powered")
		s.keys("j", "enter")
		s.shows("explained: permission denied")
		s.keys("esc", "j", "t")
		s.shows("the last\n")
		s.shows("the reader left")
		s.keys("t")
		s.shows("    0 powered")
	})
}

// A trace that is left before it was open, or while a read waits, is closed. None of its lines
// appear in the next one.
func TestTraceTooLate(t *testing.T) {
	files := newFakeMount(slot(0, "state powered", "reader A"), slot(1, "state powered", "reader B"))
	run(t, files, func(s *scene) {
		opened := make(chan struct{})
		r, w := io.Pipe()
		closed := make(chan struct{})
		other, _ := io.Pipe()
		files.traces = map[int]func() (io.ReadCloser, error){
			0: func() (io.ReadCloser, error) { <-opened; return pipe{r, closed}, nil },
			1: func() (io.ReadCloser, error) { return pipe{other, make(chan struct{})}, nil },
		}
		time.Sleep(time.Second)
		s.keys("t", "q", "j", "t")
		s.shows("trace of slot 1  B")
		close(opened)
		<-closed
		if _, err := fmt.Fprint(w, "of another slot\n"); err == nil {
			t.Error("somebody reads the trace that was left")
		}
		time.Sleep(2 * redraw)
		if text, _, _ := s.screen.shown(); strings.Contains(text, "of another slot") {
			t.Errorf("the trace of another slot:\n%s", text)
		}
	})
}

func TestTraceLines(t *testing.T) {
	var tr trace
	for i := range 10 {
		tr.add(fmt.Sprintf("line %d\n", i))
	}
	tr.add("0123456789")
	tr.add("ABCDE\n")
	show := func(what string, width, height int, want ...string) {
		t.Helper()
		if got := tr.shown(width, height); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	show("wide", 100, 3, "line 8", "line 9", "0123456789ABCDE")
	show("narrow", 10, 3, "line 9", "0123456789", "ABCDE")
	show("low", 10, 1, "ABCDE")
	show("none", 10, 0)
	show("too high", 20, 50, "line 0", "line 1", "line 2", "line 3", "line 4", "line 5", "line 6", "line 7", "line 8", "line 9", "0123456789ABCDE")
	tr.scroll("up", 3)
	tr.scroll("pgup", 3)
	show("back", 20, 2, "line 5", "line 6")
	tr.add("one more\n")
	show("what is looked at stays", 20, 2, "line 5", "line 6")
	tr.scroll("down", 3)
	show("down", 20, 2, "line 6", "line 7")
	tr.scroll("home", 3)
	show("home", 20, 3, "line 0", "line 1", "line 2")
	tr.scroll("end", 3)
	show("end", 20, 1, "one more")
	tr.scroll("down", 3)
	if tr.back != 0 {
		t.Errorf("behind the end: %d", tr.back)
	}
	for i := range 2 * traceLines {
		tr.add(fmt.Sprintln(i))
	}
	if len(tr.lines) != traceLines || tr.lines[traceLines-1] != fmt.Sprint(2*traceLines-1) {
		t.Errorf("%d lines", len(tr.lines))
	}
}
