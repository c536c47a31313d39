package fused

import (
	"io"
	"log/slog"
	"regexp"
)

// LogWriter carries go-fuse's lines to log, without the bytes that a program wrote or got.
// What go-fuse says of itself it writes to package log.
func LogWriter(log *slog.Logger) io.Writer { return logWriter{log} }

type logWriter struct{ log *slog.Logger }

// quoted matches the form in which go-fuse shows the first bytes that a program wrote or reads,
// which may be a PIN. Names have the same form; those that are looked up are worth keeping.
var (
	quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"?`)
	lookup = regexp.MustCompile(`^rx \d+: LOOKUP `)
)

func (w logWriter) Write(p []byte) (int, error) {
	line := p
	if !lookup.Match(line) {
		line = quoted.ReplaceAll(line, []byte("[masked]"))
	}
	w.log.Debug("fuse", "line", string(line))
	return len(p), nil
}
