// Package probe finds out which reader is on a serial port, for `cardfs probe`: it has the
// drivers that are a reader.Prober ask, one after the other. What they may ask is in the
// documentation of package drivers.
//
// # Between two questions
//
// The port is opened once. Each driver finds it in its own mode, with DTR and RTS on, and
// quiet: nothing has come for quietTime, and nothing was sent for pause. That is longer than
// any reader waits for the rest of what it took for the begin of a command. What has come by
// then is dropped.
//
// # What ends it early
//
// Before the first question the port is listened to. An answer to reset means that there is
// a card and no reader: the lines of the port are a card's contacts (smartmouse, Phoenix).
// Such an interface repeats all that is sent, and the card behind it hears all. So nothing
// more is sent to a port that repeats a question, and the first one is shorter than what a
// card takes for a command. A port that sends without end has no reader.
package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/bits"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cardfs/cardfs/drivers/bus/internal/byname"
	"github.com/cardfs/cardfs/drivers/bus/serial"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/iso7816"
)

// The drivers in the order in which they ask. A new one has a line here.
var (
	// early change nothing but the mode of the line. Their questions have a sum, or, where
	// it says so, a begin that no other frame has.
	early = []string{
		"towitoko", // two characters: a card takes five or four, or none without a NAD and a length
		"gempc",
		"acr30", // STX, digits, ETX
		"ccid",  // before kaan, which asks at 115200 bit/s too: a GemPC Twin repeats what it is asked
		"kaan",
	}
	// late switch DTR and RTS, or send a break, or have no sum.
	late = []string{"b1", "smartboard"}
	// bare are for a card without a reader: they ask when the line repeats what is sent, or
	// sent an answer to reset.
	bare = []string{"smph"}
)

const (
	// listenTime is how long a reader may take to start when DTR goes on (Towitoko: 1 s, B1:
	// 0.8 s).
	listenTime = 1100 * time.Millisecond
	// pause is longer than the time that any reader waits for the next character: 1 s, by
	// CT-BCS terminals (T=1: CWT 0.9 s at 9600 bit/s).
	pause = 1200 * time.Millisecond
	// quietTime is how long nothing comes from a line that is quiet.
	quietTime = 300 * time.Millisecond
	// noiseTime is how long a line may take to become quiet.
	noiseTime = 4 * time.Second
	// noiseMost is how much may come behind one question.
	noiseMost = 8 << 10
	// driverTime is how long a driver may take.
	driverTime = 15 * time.Second
)

// first is the mode in which the port is listened to: that of a card at its lines.
var first = serial.Mode{Baud: 9600, Frame: serial.Frame8E1}

var (
	// ErrNothing: no driver knows what is there.
	ErrNothing = errors.New("nothing answers that a driver knows; is it connected, does it have power?")
	// ErrEcho: the port repeats what is sent.
	ErrEcho = errors.New("the port repeats what is sent, as one does whose lines go to a card (smartmouse, Phoenix), or to each other")
	// ErrCard: the answer to reset of a card came.
	ErrCard = errors.New("a card answers to reset, without a reader (smartmouse, Phoenix)")
	// ErrNoise: it sends without end.
	ErrNoise = errors.New("it sends without end, which no reader does")
)

// Found is the reader on a port.
type Found struct {
	Driver string
	Port   string // by the name for `attach`
	reader.Found
}

// Attach is the line for `ctl` that attaches it.
func (f Found) Attach() string {
	line := fmt.Sprintf("attach %s %s", f.Driver, f.Port)
	for _, key := range slices.Sorted(maps.Keys(f.Params)) {
		line += " " + key + "=" + f.Params[key]
	}
	return line
}

// At finds what is on the port with that name. It leaves the port set as it was. told, if
// not nil, is called for each driver that asked in vain.
func At(ctx context.Context, name string, drivers []reader.Driver, log *slog.Logger, told func(driver string, err error)) (Found, error) {
	name, err := filepath.Abs(name)
	if err != nil {
		return Found{}, err
	}
	port, err := serial.Borrow(ctx, name, first, log)
	if errors.Is(err, reader.ErrGone) {
		return Found{}, fmt.Errorf("%s: there is no such port", name)
	}
	if err != nil {
		return Found{}, err
	}
	f, err := Ask(ctx, port, name, drivers, told)
	f.Port = lasting(byID, name)
	if e := port.Close(); err == nil {
		err = e
	}
	return f, err
}

const byID = "/dev/serial/by-id"

// lasting is the name in dir that leads to the same port, if there is one.
func lasting(dir, name string) string {
	if filepath.Dir(name) == dir {
		return name
	}
	path, err := byname.Resolve(name)
	if err != nil {
		return name
	}
	all, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, link := range all {
		if to, err := byname.Resolve(link); err == nil && to == path && len(strings.Fields(link)) == 1 {
			return link
		}
	}
	return name
}

// Ask finds what is on a port that was just opened. name is for errors.
func Ask(ctx context.Context, port serial.Port, name string, drivers []reader.Driver, told func(driver string, err error)) (Found, error) {
	if told == nil {
		told = func(string, error) {}
	}
	s := &shared{Port: port, since: time.Now()}
	if err := s.listen(ctx); err != nil {
		return Found{}, fmt.Errorf("%s: %w", name, err)
	}
	if isATR(s.came) {
		return s.ask(ctx, name, drivers, bare, ErrCard, told)
	}
	f, err := s.ask(ctx, name, drivers, slices.Concat(early, late), ErrNothing, told)
	if errors.Is(err, ErrEcho) {
		f, err = s.ask(ctx, name, drivers, bare, ErrEcho, told)
	}
	return f, err
}

// ask has the drivers with those names ask. none is the error if all do so in vain.
func (s *shared) ask(ctx context.Context, name string, drivers []reader.Driver, order []string, none error, told func(string, error)) (Found, error) {
	for _, d := range order {
		at := slices.IndexFunc(drivers, func(x reader.Driver) bool { return x.Name() == d })
		if at < 0 {
			continue
		}
		p, ok := drivers[at].(reader.Prober)
		if !ok {
			continue
		}
		within, cancel := context.WithTimeout(ctx, driverTime)
		found, err := p.Probe(within, reader.Device{Driver: d, Address: name, Bus: "serial", Port: name, Link: s})
		cancel()
		if err == nil {
			return Found{d, name, found}, nil
		}
		told(d, err)
		switch {
		case ctx.Err() != nil:
			return Found{}, ctx.Err()
		case errors.Is(err, reader.ErrGone), errors.Is(err, ErrNoise):
			return Found{}, err
		}
		if err := s.quiet(ctx); err != nil {
			return Found{}, fmt.Errorf("%s: %w", name, err)
		}
		if s.echoes && none != ErrEcho {
			return Found{}, fmt.Errorf("%s: %w", name, ErrEcho)
		}
	}
	return Found{}, fmt.Errorf("%s: %w", name, none)
}

// isATR reports whether an answer to reset came, in direct or inverse convention.
func isATR(came []byte) bool {
	if len(came) > 0 && came[0] == 0x03 {
		came = slices.Clone(came)
		for i, c := range came {
			came[i] = ^bits.Reverse8(c)
		}
	}
	return len(came) > 0 && (came[0] == 0x3B || came[0] == 0x3F) && iso7816.ATRLength(came) == len(came)
}

// shared is a port that one driver has after the other, and their link to it.
type shared struct {
	serial.Port
	since time.Time // something was sent, or the port was opened
	sent  []byte    // the begin of what was sent, and of what came, since the line was quiet
	came  []byte
	n     int // characters that came
	// echoes: what was sent came, and perhaps more behind it
	echoes bool
}

var _ serial.Opener = (*shared)(nil)

// kept is how much of what was sent and of what came is looked at.
const kept = 64

// listen takes what comes until the line has been quiet for a while.
func (s *shared) listen(ctx context.Context) error {
	return s.hush(ctx, listenTime)
}

// quiet ends what a driver did, and waits until the line is as the next expects it.
func (s *shared) quiet(ctx context.Context) error {
	if err := s.hush(ctx, pause); err != nil {
		return err
	}
	s.echoes = s.echoes || len(s.sent) > 0 && bytes.HasPrefix(s.came, s.sent)
	clear(s.sent)
	clear(s.came)
	s.sent, s.came, s.n = s.sent[:0], s.came[:0], 0
	return s.Flush()
}

// hush reads until nothing has come for quietTime, and nothing was sent for still.
func (s *shared) hush(ctx context.Context, still time.Duration) error {
	var noise [256]byte
	for began := time.Now(); ; {
		wait := max(quietTime, still-time.Since(s.since))
		_, err := s.Read(ctx, noise[:], wait)
		switch {
		case errors.Is(err, serial.ErrTimeout):
			return nil
		case errors.Is(err, serial.ErrParity):
		case err != nil:
			return err
		}
		if time.Since(began) > noiseTime {
			return ErrNoise
		}
	}
}

// OpenSerial is serial.Opener.
func (s *shared) OpenSerial(ctx context.Context, m serial.Mode) (serial.Port, error) {
	if len(s.sent) > 0 { // by the same driver, in another mode
		if err := s.quiet(ctx); err != nil {
			return nil, err
		}
		if s.echoes {
			return nil, ErrEcho
		}
	}
	if err := s.Port.SetMode(ctx, m); err != nil {
		return nil, err
	}
	if err := s.SetLines(ctx, serial.DTR|serial.RTS, 0); err != nil && !errors.Is(err, serial.ErrNoLines) {
		return nil, err
	}
	if err := s.Flush(); err != nil {
		return nil, err
	}
	return s, nil
}

// Close leaves the port open for the next driver.
func (s *shared) Close() error { return nil }

// Read is serial.Port.
func (s *shared) Read(ctx context.Context, p []byte, wait time.Duration) (int, error) {
	n, err := s.Port.Read(ctx, p, wait)
	s.came = append(s.came, p[:min(n, kept-len(s.came))]...)
	if s.n += n; s.n > noiseMost {
		return n, ErrNoise
	}
	return n, err
}

// Write is serial.Port.
func (s *shared) Write(ctx context.Context, p []byte) error {
	s.sent = append(s.sent, p[:min(len(p), kept-len(s.sent))]...)
	err := s.Port.Write(ctx, p)
	s.since = time.Now()
	return err
}

// Break is serial.Port.
func (s *shared) Break(ctx context.Context, d time.Duration) error {
	err := s.Port.Break(ctx, d)
	s.since = time.Now()
	return err
}
