package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
)

// Whoever logs never waits for who reads the log: a pipe that nobody reads takes 64 KiB, and
// the rest is lost, with a word about it where the log goes on.
func TestSpoolNeverWaits(t *testing.T) {
	r, w := io.Pipe() // takes nothing
	s := newSpooled(w)
	log := slog.New(slog.NewTextHandler(s, nil))
	for i := range spoolSize + 100 {
		log.Info("line", "n", i)
	}
	read := make(chan string)
	go func() {
		var out bytes.Buffer
		buf := make([]byte, 1<<16)
		for !strings.Contains(out.String(), "last") {
			n, err := r.Read(buf)
			if err != nil {
				break
			}
			out.Write(buf[:n])
		}
		read <- out.String()
	}()
	s.flush()
	log.Info("last")
	got := <-read
	var lost int
	for line := range strings.Lines(got) {
		fmt.Sscanf(line, "cardfs: %d lines of the log were lost here", &lost)
	}
	if n := strings.Count(got, "msg=line"); lost == 0 || n+lost != spoolSize+100 {
		t.Errorf("%d lines came, %d are said to be lost, of %d", n, lost, spoolSize+100)
	}
	if !strings.Contains(got, "n=0\n") {
		t.Error("the first line is lost")
	}
}
