package proc

import (
	"bytes"
	"context"
	"fmt"
	"sync"
)

// Log keeps what a process writes. Its zero value is empty.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed at the next Write; nil: nobody waits
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
	return l.text.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Len returns how many bytes were written so far.
func (l *Log) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Len()
}

// Tail returns at most the last n bytes.
func (l *Log) Tail(n int) string {
	s := l.String()
	return s[max(0, len(s)-n):]
}

// Wait waits until text appears in the log after its first from bytes.
func (l *Log) Wait(ctx context.Context, text string, from int) error {
	for {
		// The time is checked before the log: text that arrived before the end counts.
		late := ctx.Err() != nil
		l.mu.Lock()
		found := bytes.Contains(l.text.Bytes()[from:], []byte(text))
		if l.more == nil {
			l.more = make(chan struct{})
		}
		more := l.more
		l.mu.Unlock()
		switch {
		case found:
			return nil
		case late:
			return fmt.Errorf("waiting for %q: %w", text, context.Cause(ctx))
		}
		select {
		case <-more:
		case <-ctx.Done():
		}
	}
}
