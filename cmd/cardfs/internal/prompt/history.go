package prompt

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"
)

// limit is how many lines a session begins with; a file of more than twice as many is cut.
const limit = 1000

// HistoryFile is where the history is, by the XDG Base Directory Specification; "" where
// there is no home.
func HistoryFile() string {
	state := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(state) { // "All paths must be absolute. … consider the path invalid and ignore it."
		home, err := os.UserHomeDir()
		if err != nil || !filepath.IsAbs(home) {
			return ""
		}
		state = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(state, "cardfs", "history")
}

// loadHistory reads the last lines of a history. The file is its owner's alone.
func loadHistory(path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	var lines []string
	for line := range bytes.Lines(text) {
		// Nothing in a file may steer the terminal.
		s := strings.TrimRight(string(line), "\r\n")
		if s != "" && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl) {
			lines = append(lines, s)
		}
	}
	if len(lines) > 2*limit {
		kept := strings.Join(lines[len(lines)-limit:], "\n") + "\n"
		if err := replace(path, kept); err != nil {
			return nil, err
		}
	}
	return lines[max(0, len(lines)-limit):], nil
}

// replace writes a file beside and moves it into its place.
func replace(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".history") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// appendHistory adds a line. Several sessions may do so at the same time.
func appendHistory(path, line string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}
