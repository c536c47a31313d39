// Package remote serves the readers of another machine, whose cardfs is mounted here by a
// network file system such as sshfs.
//
// A cardfs there and a cardfs here need nothing between them that carries files. Each reader
// there becomes a reader here: what a program writes to its `apdu` here, the driver writes to
// `apdu` there. The card, its power and its protocol are the other side's: T=0's 61xx and 6Cxx
// are followed there and nowhere else, and so is --idle-off.
//
//	here: cardfs ── remote ──▶ files of sshfs ── network ──▶ there: sftp-server ──▶ cardfs
//
// # The way
//
// A machine is a hub: it has no slot, and announces its readers. One read of its `event` waits
// for what happens there, and nothing is polled; an event here follows each event there, in the
// order of the slot's. `apdu` there is opened when a program here needs the card, and only if
// there is one, because an open without a card waits.
//
// An sshfs serves ten calls at once, and any card may have one that waits. For ssh:// further
// ones are started as long as cards need them, see lanes.
//
// A network file system may hang, and a thread that waits for it cannot be ended. All its files
// are used by a process of their own, see package files.
//
// The way may be lost in the middle of everything. A command that was written by then is in
// doubt (reader.ErrInDoubt), and never written again. The readers start again, or leave, as
// attach said, and come back with the way under the same numbers and names. A name is made of
// the machine's and of the reader's below by-id there.
//
// SFTP has no errno, no flock(2) and no O_NONBLOCK. The lines errors, lock and unlock in `apdu`
// are in their place. What comes from there is not trusted: see parse.go.
//
// # Lock order
//
// machine.mu, slot.mu. Neither is held while a file is used, or another package is called.
package remote

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/cardfs/cardfs/drivers/remote/files"
	"github.com/cardfs/cardfs/drivers/remote/sshfs"
	"github.com/cardfs/cardfs/reader"
	"github.com/cardfs/cardfs/reader/limitlog"
)

// Driver serves the readers of other machines.
//
//	attach remote /mnt/lab                a cardfs of another machine, all its readers
//	attach remote /mnt/lab/3 lost=leave   one slot of it
//	attach remote ssh://alice@lab         the same machine, without a mount made before
//
// Keys, beside those of package sshfs:
//
//	host=NAME         what by-id calls the machine; else the source of the mount, or DIR
//	lost=wait|leave   what its readers do while the way is lost; wait: they are starting
type Driver struct {
	// Log, if not nil, receives messages of the driver beside its errors.
	Log *slog.Logger

	mu      sync.Mutex
	process *files.Process // nil until it is needed
	users   int            // machines that are attached
}

var (
	_ reader.Driver   = (*Driver)(nil)
	_ reader.Attacher = (*Driver)(nil)
)

// Name is "remote".
func (*Driver) Name() string { return "remote" }

// IDs is empty: machines are attached by hand.
func (*Driver) IDs() []reader.ID { return nil }

var hostName = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.\-_@:+]{0,99}$`)

// Attach checks the words of attach. It looks at no file.
func (d *Driver) Attach(dev reader.Device) (reader.Device, error) {
	m := &machine{driver: d, gone: make(chan struct{}), readers: make(map[string]*far), shunned: make(map[string]bool)}
	keys := []string{"host", "lost"}
	switch {
	case sshfs.IsURL(dev.Address):
		m.url = true
		keys = append(keys, sshfs.Params()...)
	case !filepath.IsAbs(dev.Address):
		return dev, fmt.Errorf("remote: %q is neither an absolute path of a directory nor ssh://…: %w", dev.Address, reader.ErrInvalid)
	}
	if err := dev.OnlyParams(keys...); err != nil {
		return dev, err
	}
	if dev.T0Plain {
		return dev, fmt.Errorf("remote: t0=plain is for the machine that has the reader: %w", reader.ErrInvalid)
	}
	if host, given := dev.Params["host"]; given {
		if !hostName.MatchString(host) {
			return dev, fmt.Errorf("remote: host=%s: give a name of letters, digits and .-_@:+, as in host=lab: %w", host, reader.ErrInvalid)
		}
		m.host = host
	}
	switch lost := dev.Params["lost"]; lost {
	case "", "wait":
	case "leave":
		m.leaves = true
	default:
		return dev, fmt.Errorf("remote: lost=%s: say wait or leave: %w", lost, reader.ErrInvalid)
	}
	if m.url {
		if err := m.parseURL(dev); err != nil {
			dev.Address = "ssh://…" // it may have a password
			return dev, err
		}
	} else {
		dev.Address = filepath.Clean(dev.Address)
	}
	dev.Bus, dev.Port, dev.Slots, dev.Link = "remote", strings.TrimPrefix(dev.Address, "/"), reader.NoSlots, m
	m.address = dev.Address
	m.log = limitlog.New(d.Log).With("reader", dev.Name())
	m.ssh.Log = m.log
	return dev, nil
}

// parseURL reads what attach says of a machine that is reached by ssh://.
func (m *machine) parseURL(dev reader.Device) (err error) {
	params := maps.Clone(dev.Params)
	delete(params, "host")
	delete(params, "lost")
	if m.ssh, err = sshfs.ParseOptions(params); err != nil {
		return err
	}
	name, err := sshfs.Check(dev.Address, m.ssh)
	if m.host == "" {
		m.host = name
	}
	return err
}

// Open opens a machine, once its files are there, or a reader of one, once it is ready there.
func (d *Driver) Open(ctx context.Context, dev reader.Device) (reader.Reader, error) {
	switch link := dev.Link.(type) {
	case *machine:
		return link.open(ctx, dev.Host)
	case *far:
		return link.open(ctx)
	}
	return nil, fmt.Errorf("remote: %s was not attached: %w", dev.Address, reader.ErrInvalid)
}

// acquire returns the process that uses files, for one machine more. It is started by the
// first, and again if it has died.
func (d *Driver) acquire() (*files.Process, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.process != nil {
		select {
		case <-d.process.Gone():
			d.process = nil
		default:
		}
	}
	if d.process == nil {
		p, err := files.Start()
		if err != nil {
			return nil, err
		}
		d.process = p
	}
	d.users++
	return d.process, nil
}

// release is called once after acquire. The last ends the process.
func (d *Driver) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users--; d.users == 0 {
		d.process.Close()
		d.process = nil
	}
}
