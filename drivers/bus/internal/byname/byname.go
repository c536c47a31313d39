// Package byname attaches devices that the user names by their file: serial ports and
// character devices. Such a device may come later than its attachment, leave, and come
// back.
package byname

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cardfs/cardfs/reader"
)

// Link is one announcement of an attached device: until it leaves. Then the device is
// announced anew, with another Link, and so has its numbers again.
//
//	waiting --the file is there, and opened--> in use --it left--> gone, and announced anew
//	                                              | closed by its driver
//	                                              +--> waiting
//	any --Detached--> over
type Link struct {
	a    *attachment
	log  *slog.Logger
	name string
	gone chan struct{}
	host atomic.Pointer[reader.Host] // who announces the next
	path atomic.Pointer[string]      // of the open file
}

// attachment is what the Links of a device share. Its lock comes before the core's.
type attachment struct {
	dev  reader.Device           // as it was attached, without its link
	link func(*Link) reader.Link // makes a Link the bus's
	mu   sync.Mutex
	now  *Link // the one that is announced
	over bool
}

var (
	_ reader.Link      = (*Link)(nil)
	_ reader.Detacher  = (*Link)(nil)
	_ reader.Describer = (*Link)(nil)
)

// Attach completes the announcement of a device whose address is the name of a file. wrap
// makes a Link the one of the bus, which can open the device. log may be nil.
func Attach(dev reader.Device, bus string, wrap func(*Link) reader.Link, log *slog.Logger) (reader.Device, error) {
	if !filepath.IsAbs(dev.Address) {
		return dev, fmt.Errorf("%q is no name of a device file such as /dev/…: %w", dev.Address, reader.ErrInvalid)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	dev.Address, dev.Bus = filepath.Clean(dev.Address), bus
	dev.Port = strings.TrimPrefix(strings.TrimPrefix(dev.Address[1:], "dev/"), "serial/by-id/")
	a := &attachment{dev: dev, link: wrap}
	a.now = a.next(log)
	dev.Link = wrap(a.now)
	return dev, nil
}

func (a *attachment) next(log *slog.Logger) *Link {
	return &Link{a: a, log: log, name: a.dev.Address, gone: make(chan struct{})}
}

// Gone is closed when the device has left, or was detached.
func (l *Link) Gone() <-chan struct{} { return l.gone }

// Log is the log of the attachment.
func (l *Link) Log() *slog.Logger { return l.log }

// Detached ends the attachment.
func (l *Link) Detached() {
	l.a.mu.Lock()
	defer l.a.mu.Unlock()
	if !l.a.over {
		l.a.over = true
		close(l.a.now.gone)
	}
}

// Describe says which file is open.
func (l *Link) Describe() map[string]string {
	if path := l.path.Load(); path != nil {
		return map[string]string{"port": *path}
	}
	return map[string]string{"port": "not there"}
}

// SetHost says who announces the device when it comes back.
func (l *Link) SetHost(h reader.Host) {
	if h != nil {
		l.host.Store(&h)
	}
}

// errLink is the error of a link that somebody else may have made.
var errLink = errors.New("another user may have made this link")

// left ends l, as its device has left, and announces the next.
func (l *Link) left() {
	a := l.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over || a.now != l {
		return
	}
	close(l.gone)
	a.now = a.next(l.log)
	host := l.host.Load()
	if host == nil {
		return
	}
	dev := a.dev
	dev.Link = a.link(a.now)
	if err := (*host).Announce(dev); err != nil && !errors.Is(err, reader.ErrGone) {
		l.log.Warn("a reader that may come back is not announced again", "reader", dev.Name(), "error", err)
	}
}

const (
	// udevTime is how long after a file came a lack of permission is not final: udevd may
	// still be running its rules.
	udevTime = 3 * time.Second
	// lookTime is the interval of looking for a file where nothing can be watched.
	lookTime = time.Second
)

// Open calls open with the link's name, and with the file that it leads to, until the
// device is there: while there is an ErrGone, and for a short while an ErrNoPermission,
// Open waits for a change.
func Open[T any](ctx context.Context, l *Link, open func(ctx context.Context, name, path string) (T, error)) (T, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-l.gone:
			cancel(reader.ErrGone)
		case <-ctx.Done():
		}
	}()
	var since time.Time // the file was seen first
	for {
		news, err := watchFor(l.name)
		if err != nil {
			l.log.Debug("the file cannot be watched", "name", l.name, "error", err)
		}
		var opened T
		path, err := Resolve(l.name)
		if err == nil {
			opened, err = open(ctx, l.name, path)
		}
		wait := time.Duration(0) // negative: until a change
		switch {
		case err == nil:
			l.path.Store(&path)
		case ctx.Err() != nil:
			err = fmt.Errorf("%s: open: %w", l.name, context.Cause(ctx))
		case errors.Is(err, reader.ErrGone):
			since, wait = time.Time{}, -1
		case errors.Is(err, reader.ErrNoPermission) && !errors.Is(err, errLink):
			if since.IsZero() {
				since = time.Now()
			}
			wait = max(0, udevTime-time.Since(since))
		}
		if wait != 0 {
			news.wait(ctx, wait)
		}
		news.close()
		if wait == 0 {
			return opened, err
		}
	}
}

// Use is one opening of the device.
type Use struct {
	device <-chan struct{}
	gone   chan struct{}
	closed atomic.Bool
}

// Use begins a use of the device, which ends when gone is closed. If the driver has not
// closed it by then it has left. The link counts as gone before the use does, so that the
// core sees a departure, not a reader that died.
func (l *Link) Use(gone <-chan struct{}) *Use {
	u := &Use{device: gone, gone: make(chan struct{})}
	go func() {
		defer close(u.gone)
		<-gone
		l.path.Store(nil)
		if !u.closed.Load() {
			_ = reader.Guard(l.log, l.name, l.left)
		}
	}()
	return u
}

// Gone is closed when the use has ended.
func (u *Use) Gone() <-chan struct{} { return u.gone }

// Close ends the use for the driver, by close.
func (u *Use) Close(close func() error) error {
	select {
	case <-u.device: // it left before
	default:
		u.closed.Store(true)
	}
	err := close()
	<-u.gone
	return err
}
