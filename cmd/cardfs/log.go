package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// spool writes lines in a goroutine of its own, so that logging never blocks: the reader of
// the daemon's stderr may have stopped reading, and syslog may hang. Lines that do not fit
// are dropped and counted.
type spool struct {
	lines  chan func()
	lost   atomic.Int64
	report func(lost int64)
}

// spoolSize is how many lines wait at most.
const spoolSize = 4096

// newSpool starts a spool. After lines were lost it calls report with their number, in
// between two lines.
func newSpool(report func(lost int64)) *spool {
	s := &spool{lines: make(chan func(), spoolSize), report: report}
	go func() {
		for line := range s.lines {
			line()
			if n := s.lost.Swap(0); n > 0 {
				s.report(n)
			}
		}
	}()
	return s
}

func (s *spool) put(line func()) {
	select {
	case s.lines <- line:
	default:
		s.lost.Add(1)
	}
}

// flush waits until all lines before it are written, for a second at most.
func (s *spool) flush() {
	done := make(chan struct{})
	timeout := time.After(time.Second)
	select {
	case s.lines <- func() { close(done) }:
	case <-timeout:
		return
	}
	select {
	case <-done:
	case <-timeout:
	}
}

// spooled is a writer of whole lines through a spool.
type spooled struct {
	*spool
	to io.Writer
}

func newSpooled(to io.Writer) spooled {
	return spooled{newSpool(func(lost int64) { fmt.Fprintf(to, "cardfs: %d lines of the log were lost here\n", lost) }), to}
}

// Write never fails, for a lost line is no error of the code that logs it.
func (s spooled) Write(p []byte) (int, error) {
	line := bytes.Clone(p)
	s.put(func() { _, _ = s.to.Write(line) })
	return len(p), nil
}

// openLog opens the log: the file name if there is one, in the background syslog, else
// stderr. flush waits until what was logged is written.
func openLog(name string, level slog.Level, stderr spooled) (h slog.Handler, file *os.File, flush func(), err error) {
	options := &slog.HandlerOptions{Level: level}
	switch {
	case name != "":
		file, err = openLogFile(name)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("--log: %w", err)
		}
		to := newSpooled(file)
		return slog.NewTextHandler(to, options), file, to.flush, nil
	case isBackground():
		w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, "cardfs")
		if err != nil {
			fmt.Fprintf(stderr, "cardfs: no log: %v; --log FILE keeps one\n", err)
			return slog.DiscardHandler, nil, func() {}, nil
		}
		s := newSpool(func(lost int64) { _ = w.Warning(fmt.Sprintf("%d lines of the log were lost here", lost)) })
		return newSyslogHandler(w, s, level), nil, s.flush, nil
	}
	return slog.NewTextHandler(stderr, options), nil, func() {}, nil
}

func openLogFile(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
}

// rotateLog opens the log file anew at each SIGUSR1, for logrotate moves the old one away.
// A file that is not there is made; one that cannot be opened leaves the log where it is.
// Without a log file there is nothing to do: Go's runtime ignores a SIGUSR1 that nobody
// wants.
func rotateLog(file *os.File, log *slog.Logger) (stop func(), err error) {
	if file == nil {
		return func() {}, nil
	}
	name, err := filepath.Abs(file.Name()) // the daemon does not stay in this directory
	if err != nil {
		return nil, fmt.Errorf("--log: %w", err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	go func() {
		for range signals {
			if err := reopenLog(file, name); err != nil {
				log.Error("the log stays in its old file", "err", err)
				continue
			}
			log.Info("log opened anew", "file", name)
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
	}, nil
}

// reopenLog puts a new open of name in the place of file, which its writer does not notice.
// In the background stdout and stderr are the same file, and follow.
func reopenLog(file *os.File, name string) error {
	old, err := file.Stat()
	if err != nil {
		return err
	}
	fresh, err := openLogFile(name)
	if err != nil {
		return err
	}
	defer fresh.Close()
	for _, f := range []*os.File{os.Stdout, os.Stderr} {
		if info, err := f.Stat(); err == nil && os.SameFile(info, old) {
			if err := unix.Dup3(int(fresh.Fd()), int(f.Fd()), 0); err != nil {
				return err
			}
		}
	}
	return unix.Dup3(int(fresh.Fd()), int(file.Fd()), unix.O_CLOEXEC)
}

// syslogHandler writes records without their time and level, which syslog has itself.
type syslogHandler struct {
	slog.Handler // writes to line
	shared       *syslogLine
}

type syslogLine struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	to    *syslog.Writer
	spool *spool
}

func newSyslogHandler(to *syslog.Writer, s *spool, level slog.Level) slog.Handler {
	line := &syslogLine{to: to, spool: s}
	return syslogHandler{slog.NewTextHandler(&line.buf, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
				return slog.Attr{}
			}
			return a
		},
	}), line}
}

func (h syslogHandler) Handle(ctx context.Context, r slog.Record) error {
	h.shared.mu.Lock()
	defer h.shared.mu.Unlock()
	h.shared.buf.Reset()
	if err := h.Handler.Handle(ctx, r); err != nil {
		return err
	}
	text, write := h.shared.buf.String(), h.shared.to.Debug
	switch {
	case r.Level >= slog.LevelError:
		write = h.shared.to.Err
	case r.Level >= slog.LevelWarn:
		write = h.shared.to.Warning
	case r.Level >= slog.LevelInfo:
		write = h.shared.to.Info
	}
	h.shared.spool.put(func() { _ = write(text) })
	return nil
}

func (h syslogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return syslogHandler{h.Handler.WithAttrs(attrs), h.shared}
}

func (h syslogHandler) WithGroup(name string) slog.Handler {
	return syslogHandler{h.Handler.WithGroup(name), h.shared}
}
