package hotplug

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/drivers/bus/usb"
	"github.com/cardfs/cardfs/reader"
)

// tree is a made-up /sys and /dev, laid out as the kernel does it. It has a netlink socket
// whose messages, senders and errors the test makes up too.
type tree struct {
	*testing.T
	root string
	w    *Watcher
	log  *logText
	news chan reader.Device

	mu      sync.Mutex
	all     []reader.Device
	fail    error       // of Announce
	places  []usb.Place // that the transport was asked to open
	refuses error       // what it returns
	// netlink
	queue  []*message
	served *message
	poke   int // our end of the socket pair
	opened int // how often the uevents were opened
	refuse error
}

type message struct {
	text  []byte
	from  unix.Sockaddr
	cred  *unix.Ucred
	flags int
	err   error
	done  chan struct{} // closed when the message was handled
}

type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), what)
}

// newTree is a tree without devices, and a watcher that was not started.
func newTree(t *testing.T) *tree {
	f := &tree{T: t, root: t.TempDir(), log: new(logText), news: make(chan reader.Device, 1000), poke: -1}
	for _, d := range []string{"sys/bus/usb/devices", "sys/dev/char", "sys/devices", "dev/001", "dev/003"} {
		f.must(os.MkdirAll(filepath.Join(f.root, d), 0o755))
	}
	f.w = newWatcher(f.open, slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		filepath.Join(f.root, "sys/bus/usb/devices"), filepath.Join(f.root, "dev"))
	f.w.host, f.w.serves = f, newTable([]reader.Driver{byPair, byClass})
	f.w.every = time.Millisecond
	f.w.openUevents = f.openUevents
	t.Cleanup(func() {
		f.must(f.w.Close())
		f.quiet()
		if t.Failed() {
			t.Log(f.log.b.String())
		}
	})
	return f
}

// open stands in for the transport.
func (f *tree) open(at usb.Place, _ uint8) (usb.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.places = append(f.places, at)
	if f.refuses != nil {
		return nil, f.refuses
	}
	return openConn{at: at}, nil
}

// openConn is a connection that does nothing.
type openConn struct {
	usb.Conn
	at usb.Place
}

func (openConn) Close() error { return nil }

// refuseOpen makes the transport return err.
func (f *tree) refuseOpen(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuses = err
}

// start starts the watcher with the named sources.
func (f *tree) start(sources ...string) *tree {
	f.Helper()
	f.w.deaf = !slices.Contains(sources, "uevents")
	if !slices.Contains(sources, "inotify") {
		f.w.openInotify = func() (source, error) { return nil, os.ErrNotExist }
	}
	if len(sources) > 0 {
		f.must(f.w.start(f.Context()))
	}
	return f
}

func (f *tree) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *tree) Announce(d reader.Device) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, d)
	f.news <- d
	return f.fail
}

// next waits for an announcement.
func (f *tree) next() reader.Device {
	f.Helper()
	select {
	case d := <-f.news:
		return d
	case <-time.After(time.Minute):
		f.Fatalf("nothing is announced; the log says\n%s", f.log.b.String())
		panic("unreachable")
	}
}

// none checks that nothing is announced once everything has been looked at.
func (f *tree) none(why string) {
	f.Helper()
	f.quiet()
	select {
	case d := <-f.news:
		f.Errorf("%s: %s is announced", why, d.Address)
	default:
	}
}

// gone waits until a device has left.
func (f *tree) gone(d reader.Device) {
	f.Helper()
	await(f.T, d.Link.(*node).gone, "departure of "+d.Address)
}

func (f *tree) stays(d reader.Device, why string) {
	f.Helper()
	f.quiet()
	select {
	case <-d.Link.(*node).gone:
		f.Errorf("%s: %s leaves", why, d.Address)
	default:
	}
}

func await[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(time.Minute):
		t.Fatalf("no %s", what)
	}
	return v
}

// heard waits until all messages were handled.
func (f *tree) heard() {
	f.Helper()
	f.mu.Lock()
	queue := slices.Clone(f.queue)
	if f.served != nil {
		queue = append(queue, f.served)
	}
	f.mu.Unlock()
	if f.w.ctx != nil && f.w.ctx.Err() == nil {
		for _, m := range queue {
			await(f.T, m.done, "end of a message")
		}
	}
}

// quiet waits until all messages were handled and no look is under way.
func (f *tree) quiet() {
	f.Helper()
	f.heard()
	for {
		f.w.mu.Lock()
		var l *look
		for _, l = range f.w.looks {
			break
		}
		f.w.mu.Unlock()
		if l == nil {
			return
		}
		await(f.T, l.done, "end of a look")
	}
}

// file writes an attribute.
func (f *tree) file(device, attr, text string) {
	f.Helper()
	f.must(os.WriteFile(filepath.Join(f.root, "sys/devices", device, attr), []byte(text), 0o644))
}

// device is a device that the tree shows.
type device struct {
	name     string // "3-1"
	bus, dev int
	desc     []byte
	attrs    map[string]string
}

// plug shows a device, configured unless attrs say otherwise, and its device file.
func (f *tree) plug(d device) {
	f.Helper()
	dir := filepath.Join(f.root, "sys/devices", d.name)
	f.must(os.MkdirAll(dir, 0o755))
	if d.desc == nil {
		d.desc = madeup(0x1209, 1, 0xFF)
	}
	attrs := map[string]string{
		"busnum": fmt.Sprintln(d.bus), "devnum": fmt.Sprintln(d.dev), "descriptors": string(d.desc),
		"bConfigurationValue": "1\n", "authorized": "1\n",
	}
	for k, v := range d.attrs {
		attrs[k] = v
	}
	for k, v := range attrs {
		f.file(d.name, k, v)
	}
	_ = os.Symlink("../../devices/"+d.name, filepath.Join(f.root, "sys/dev/char", charDevice(d.bus, d.dev)))
	_ = os.Symlink("../../../devices/"+d.name, filepath.Join(f.w.sys, d.name))
	f.must(os.WriteFile(f.devfile(d.bus, d.dev), nil, 0o600))
}

func (f *tree) devfile(bus, dev int) string {
	return filepath.Join(f.w.dev, fmt.Sprintf("%03d", bus), fmt.Sprintf("%03d", dev))
}

// unplug removes a device from the tree.
func (f *tree) unplug(d device) {
	f.Helper()
	_ = os.Remove(f.devfile(d.bus, d.dev))
	f.hide(d)
}

// hide removes it from sysfs alone.
func (f *tree) hide(d device) {
	f.Helper()
	f.must(os.Remove(filepath.Join(f.w.sys, d.name)))
	f.must(os.Remove(filepath.Join(f.root, "sys/dev/char", charDevice(d.bus, d.dev))))
	// Renamed, not removed: the file system might give its inode to the next one, which sysfs
	// never does.
	f.must(os.Rename(filepath.Join(f.root, "sys/devices", d.name), filepath.Join(f.TempDir(), "was")))
}

// stick makes an attribute whose readers block, as they do while the kernel holds the
// device's lock. The returned function lets them go on.
func (f *tree) stick(d device, attr string) (loose func(value string)) {
	f.Helper()
	name := filepath.Join(f.root, "sys/devices", d.name, attr)
	_ = os.Remove(name)
	f.must(unix.Mkfifo(name, 0o600))
	// Opened for reading too: then a reader blocks in read(2), and open does not block the
	// writer.
	hold, err := os.OpenFile(name, os.O_RDWR, 0)
	f.must(err)
	once := sync.OnceFunc(func() { hold.Close() })
	f.Cleanup(func() {
		_ = os.Remove(name) // nobody may come later and wait for a writer
		once()
	})
	return func(value string) {
		f.must(os.WriteFile(name+"-", []byte(value), 0o600))
		f.must(os.Rename(name+"-", name)) // for later readers
		_, err := hold.WriteString(value)
		f.must(err)
		once()
	}
}

var (
	kernelAddr = &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groupKernel}
	udevAddr   = &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groupUdev, Pid: 77}
	root       = &unix.Ucred{}
)

// event is the kernel's message on a device.
func (d device) event(action string) []byte {
	return fmt.Appendf(nil, "%s@/devices/usb/%s\x00ACTION=%[1]s\x00DEVPATH=/devices/usb/%[2]s\x00SUBSYSTEM=usb\x00DEVTYPE=usb_device\x00BUSNUM=%03[3]d\x00DEVNUM=%03[4]d\x00", action, d.name, d.bus, d.dev)
}

// ifEvent is the kernel's message on the device's interface.
func (d device) ifEvent(action string) []byte {
	return fmt.Appendf(nil, "%s@/devices/usb/%s/%[2]s:1.0\x00ACTION=%[1]s\x00DEVPATH=/devices/usb/%[2]s/%[2]s:1.0\x00SUBSYSTEM=usb\x00DEVTYPE=usb_interface\x00", action, d.name)
}

// say sends messages from the kernel.
func (f *tree) say(texts ...[]byte) {
	for _, text := range texts {
		f.send(&message{text: text, from: kernelAddr, cred: root})
	}
}

func (f *tree) send(m *message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m.done = make(chan struct{})
	f.queue = append(f.queue, m)
	if f.poke >= 0 {
		_, _ = unix.Write(f.poke, []byte{0})
	}
}

func (f *tree) openUevents() (source, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened++
	if f.refuse != nil {
		return nil, f.refuse
	}
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	u, err := newUevents(p[0])
	if err != nil {
		return nil, err
	}
	f.poke = p[1]
	u.recv = f.recv
	return closing{u, func() { unix.Close(p[1]) }}, nil
}

type closing struct {
	*uevents
	more func()
}

func (c closing) Close() error {
	err := c.uevents.Close()
	if err == nil {
		c.more()
	}
	return err
}

func (f *tree) recv(fd int, buf, oob []byte) (n, oobn, flags int, from unix.Sockaddr, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.served != nil {
		close(f.served.done)
		f.served = nil
	}
	if len(f.queue) == 0 {
		for err == nil { // the pokes of what was taken
			_, err = unix.Read(fd, make([]byte, 1))
		}
		return 0, 0, 0, nil, err
	}
	m := f.queue[0]
	f.queue, f.served = f.queue[1:], m
	if m.cred != nil {
		oobn = copy(oob, unix.UnixCredentials(m.cred))
	}
	return copy(buf, m.text), oobn, m.flags, m.from, m.err
}
