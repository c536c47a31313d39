// Package replay is the driver of readers that answer from a recorded session. They serve
// bug reports, and tests of programs without their card.
//
//	attach replay /home/u/session.txt [level=short|extended] [unknown=6F00|error]
//
// `cardfs record` writes sessions; they can be written by hand as well.
//
// # The file
//
// A session is a text file. The first line is "cardfs-session 1", where 1 is the version
// of the format. Empty lines and lines that begin with # are ignored. Any other line may
// begin with a time, in seconds since the beginning of the session, followed by a word and
// its arguments:
//
//	reader MODEL       the model of the reader
//	reset cold|warm    the card was reset
//	atr HEX            its ATR
//	> HEX [XX]         a C-APDU
//	< [XX] HEX         its R-APDU
//	! WORD WORDS       or why there was none: timeout, protocol, unsupported, invalid or
//	                   failed, and the error in words
//	lost N             N lines of the trace were lost here
//
// A byte is two hexadecimal digits, with or without blanks between bytes. XX stands for
// any number of bytes that the trace of the recorded slot masked, such as PINs and keys.
// It is at the end of a command, or before SW1 SW2 of an answer. An answer of XX alone had
// no status word that could be shown.
//
// # The replay
//
// The reader has one slot with a card that cannot be removed. The replay keeps a position
// in the session, which is first at the beginning. Commands and resets look for their
// answers from there:
//
//   - A command is answered by the next pair with the same command. At the end of the
//     session the search wraps around to the beginning. The new position is behind the
//     pair. So a command that was recorded several times gets its answers in order, and
//     then again from the first.
//   - XX in a command matches one or more bytes. XX in an answer is left out: SW1 SW2
//     comes alone.
//   - A recorded error becomes an error again: ETIMEDOUT, EPROTO, EOPNOTSUPP, EINVAL or
//     EIO. Errors and answers come at once: times are not replayed.
//   - A command that the session does not have, or has without an answer, is answered with
//     6F00, or with SW of unknown=SW; with unknown=error the error is EPROTO. The position
//     does not change.
//   - A reset is answered by the next ATR, with wrap-around. The new position is behind
//     it.
//
// Recorded answers are complete: in T=0 nothing is fetched with GET RESPONSE, and Le is
// not corrected. With level=short, extended commands are refused, as by a reader that
// cannot carry them.
package replay

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// Driver makes readers of recorded sessions. The zero value is ready.
type Driver struct{}

var (
	_ reader.Driver   = Driver{}
	_ reader.Attacher = Driver{}
)

// Name is "replay".
func (Driver) Name() string { return "replay" }

// IDs is empty: sessions are attached by hand.
func (Driver) IDs() []reader.ID { return nil }

// recording is a session as read from its file, with the arguments of attach. It is the
// reader.Device.Link.
type recording struct {
	path    string
	model   string
	level   reader.Level
	unknown []byte // SW1 SW2; nil: an error
	steps   []step
}

// Gone is never closed: a session in memory cannot leave.
func (*recording) Gone() <-chan struct{} { return nil }

// Attach reads the session, so that errors in it are reported to the user at once.
func (Driver) Attach(dev reader.Device) (reader.Device, error) {
	rec, err := load(dev)
	if err != nil {
		return dev, err
	}
	dev.Address, dev.Port, dev.Bus, dev.Slots = rec.path, rec.path, "replay", 1
	dev.ID.Model = rec.model
	dev.T0Plain = true
	dev.Link = rec
	return dev, nil
}

// Open makes the reader. If the device did not come through Attach, Open reads the file.
func (Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("replay %s: open: %w", dev.Address, err)
	}
	rec, ok := dev.Link.(*recording)
	if !ok {
		var err error
		if rec, err = load(dev); err != nil {
			return nil, fmt.Errorf("replay %s: %w", dev.Address, err)
		}
	}
	return newPlayer(rec), nil
}

// load checks the arguments of attach and reads the session.
func load(dev reader.Device) (*recording, error) {
	rec := &recording{path: filepath.Clean(dev.Address), level: reader.ExtendedAPDU, unknown: []byte{0x6F, 0x00}}
	for _, key := range slices.Sorted(maps.Keys(dev.Params)) {
		value := dev.Params[key]
		switch {
		case key == "level" && value == "extended":
		case key == "level" && value == "short":
			rec.level = reader.ShortAPDU
		case key == "level":
			return nil, fmt.Errorf("level=%s: there are short and extended: %w", value, reader.ErrInvalid)
		case key == "unknown" && value == "error":
			rec.unknown = nil
		case key == "unknown":
			sw, err := hex.DecodeString(value)
			if err != nil || len(sw) != 2 || sw[0]>>4 != 6 && sw[0]>>4 != 9 {
				return nil, fmt.Errorf("unknown=%s: say error, or SW1 SW2 such as 6F00: %w", value, reader.ErrInvalid)
			}
			rec.unknown = sw
		default:
			return nil, fmt.Errorf("no key %q; there are level and unknown: %w", key, reader.ErrInvalid)
		}
	}
	if !filepath.IsAbs(dev.Address) {
		return nil, fmt.Errorf("the path of the session must begin with /, for cardfs reads it in a directory of its own: %w", reader.ErrInvalid)
	}
	lines, err := read(rec.path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, reader.ErrInvalid)
	}
	if err := rec.take(lines); err != nil {
		return nil, fmt.Errorf("%w: %w", err, reader.ErrInvalid)
	}
	return rec, nil
}

// read reads a session from a file. It accepts only regular files, as others could block.
func read(path string) ([]Line, error) {
	// Not an os.File: for a file in a mount of cardfs, Go would poll after an EAGAIN.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("stat: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("is no file with a session in it")
	}
	return Parse(descriptor(fd), filepath.Base(path))
}

// descriptor reads from a file descriptor.
type descriptor int

func (d descriptor) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(int(d), p)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, err
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// step is a command with its answer, or an ATR.
type step struct {
	atr     []byte // not nil: it is an ATR
	command []byte
	more    bool // one or more bytes follow command
	answer  []byte
	err     error // in place of the answer
	line    int   // of err
}

// take converts the lines to steps. It skips commands without an answer that can be
// replayed.
func (rec *recording) take(lines []Line) error {
	rec.model = "Recorded reader"
	var command *Line
	atrs := 0
	for i := range lines {
		l := &lines[i]
		pair := command
		if l.Kind != Reader {
			command = nil
		}
		switch l.Kind {
		case Reader:
			rec.model = l.Text
		case ATR:
			rec.steps = append(rec.steps, step{atr: l.Bytes})
			atrs++
		case Command:
			command = l
		case Answer:
			if pair == nil {
				return fmt.Errorf("%s:%d: an answer without a command before it", filepath.Base(rec.path), l.Number)
			}
			if len(l.Bytes) > 0 {
				rec.steps = append(rec.steps, step{command: pair.Bytes, more: pair.Masked, answer: l.Bytes})
			}
		case Error:
			if pair != nil { // else of a reset
				rec.steps = append(rec.steps, step{command: pair.Bytes, more: pair.Masked, err: fault(l.Text), line: l.Number})
			}
		}
	}
	if atrs == 0 {
		return fmt.Errorf("the session has no line %q, so it cannot be replayed", ATR)
	}
	return nil
}
