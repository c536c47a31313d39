package applet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	format    = "cardfs simulated card"
	version   = 1
	warning   = "Keys lie here in clear, protected by the mode of this file alone. This is no place for keys that matter."
	maxStored = 16 << 20
)

// ErrStore: a state file cannot be used as it is.
var ErrStore = errors.New("the state file cannot be used")

// file is the content of a state file.
type file struct {
	Format       string                     `json:"format"`
	Version      int                        `json:"version"`
	Warning      string                     `json:"warning"`
	Applications map[string]json.RawMessage `json:"applications"`
}

// Store keeps the state of a card's applications, in memory or in a file. The file is
// locked: a second card, of this daemon or of another, is refused. Each Flush replaces it by
// a new one, which has the lock before it has the name.
type Store struct {
	path   string
	locked *os.File // the file under path, with the lock; nil: in memory
	kept   map[string]json.RawMessage
	bound  map[string]any
	dirty  bool
}

// OpenStore opens or makes the state file. Without a path the state is in memory alone.
func OpenStore(path string) (*Store, error) {
	s := &Store{path: path, bound: map[string]any{}}
	if path == "" {
		return s, nil
	}
	for {
		again, err := s.open()
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("state file %s: %w", path, err)
		}
		if !again {
			return s, nil
		}
		s.locked.Close()
		s.locked = nil
	}
}

// open opens, locks and reads the file. It asks for another attempt when the file was
// replaced between opening and locking.
func (s *Store) open() (again bool, err error) {
	// O_NONBLOCK: a FIFO must not make the daemon wait.
	fd, err := unix.Open(s.path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	switch {
	case errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EMLINK): // FreeBSD says EMLINK
		return false, fmt.Errorf("is a symbolic link: %w", ErrStore)
	case err != nil:
		return false, err
	}
	s.locked = os.NewFile(uintptr(fd), s.path)
	info, err := s.locked.Stat()
	switch {
	case err != nil:
		return false, err
	case !info.Mode().IsRegular():
		return false, fmt.Errorf("is no regular file: %w", ErrStore)
	case info.Mode().Perm()&0o077 != 0:
		return false, fmt.Errorf("others may open it; chmod 600 first: %w", ErrStore)
	}
	if err := lock(s.locked); err != nil {
		return false, err
	}
	named, err := os.Lstat(s.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(info, named) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, s.read()
}

func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("another card has it open: %w", ErrStore)
	}
	return err
}

func (s *Store) read() error {
	b, err := io.ReadAll(io.LimitReader(s.locked, maxStored+1))
	switch {
	case err != nil:
		return err
	case len(b) == 0: // new
		return nil
	case len(b) > maxStored:
		return fmt.Errorf("is longer than %d bytes: %w", maxStored, ErrStore)
	}
	var f file
	// The error of the decoder could quote what is in the file.
	if json.Unmarshal(b, &f) != nil || f.Format != format {
		return fmt.Errorf("is not of a simulated card: %w", ErrStore)
	}
	if f.Version != version {
		return fmt.Errorf("has version %d, not %d: %w", f.Version, version, ErrStore)
	}
	s.kept = f.Applications
	return nil
}

// Bind ties the state of the application of that name to the Store. It fills state from
// the file if that has one, and reports so. state must be a pointer.
func (s *Store) Bind(name string, state any) (found bool, err error) {
	if kept, ok := s.kept[name]; ok {
		d := json.NewDecoder(bytes.NewReader(kept))
		d.DisallowUnknownFields()
		if d.Decode(state) != nil {
			return false, fmt.Errorf("state file %s: the part of %s is damaged: %w", s.path, name, ErrStore)
		}
		found = true
	}
	s.bound[name] = state
	s.dirty = s.dirty || !found
	return found, nil
}

// Changed has the next Flush write.
func (s *Store) Changed() { s.dirty = true }

// Flush writes what changed. When it returns without an error, the file holds the state even
// if power is lost.
func (s *Store) Flush() error {
	if s.locked == nil || !s.dirty {
		return nil
	}
	if err := s.write(); err != nil {
		return fmt.Errorf("state file %s: %w", s.path, err)
	}
	s.dirty = false
	return nil
}

func (s *Store) write() (err error) {
	f := file{format, version, warning, maps.Clone(s.kept)}
	if f.Applications == nil {
		f.Applications = map[string]json.RawMessage{}
	}
	for name, state := range s.bound {
		if f.Applications[name], err = json.Marshal(state); err != nil {
			return err
		}
	}
	b, err := json.MarshalIndent(f, "", "\t")
	if err != nil {
		return err
	}
	dir := filepath.Dir(s.path)
	fresh, err := os.CreateTemp(dir, filepath.Base(s.path)+".*") // mode 0600
	if err != nil {
		return err
	}
	if err := s.replace(fresh, append(b, '\n')); err != nil {
		os.Remove(fresh.Name())
		fresh.Close()
		return err
	}
	s.locked.Close()
	s.locked = fresh
	return syncDir(dir)
}

// replace fills the new file and gives it the name.
func (s *Store) replace(fresh *os.File, b []byte) error {
	if err := lock(fresh); err != nil {
		return err
	}
	if _, err := fresh.Write(b); err != nil {
		return err
	}
	if err := fresh.Sync(); err != nil {
		return err
	}
	return os.Rename(fresh.Name(), s.path)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Close gives the lock free.
func (s *Store) Close() error {
	if s.locked == nil {
		return nil
	}
	f := s.locked
	s.locked = nil
	return f.Close()
}
