package hotplug

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/reader"
)

// Messages are accepted from the kernel, which alone has port 0, and from root in udevd's
// group. Messages of other users, or without credentials, are ignored.
func TestTrusted(t *testing.T) {
	nl := func(groups, pid uint32) unix.Sockaddr { return &unix.SockaddrNetlink{Groups: groups, Pid: pid} }
	cred := func(pid int32, uid uint32) []byte { return unix.UnixCredentials(&unix.Ucred{Pid: pid, Uid: uid}) }
	for _, tt := range []struct {
		what string
		from unix.Sockaddr
		oob  []byte
		want bool
	}{
		{"the kernel", nl(groupKernel, 0), cred(0, 0), true},
		{"udevd", nl(groupUdev, 300), cred(300, 0), true},
		{"udevd as pid 1's child", nl(groupUdev, 1), cred(1, 0), true},
		{"root in the kernel's group", nl(groupKernel, 300), cred(300, 0), false},
		{"a user in udevd's group", nl(groupUdev, 300), cred(300, 1000), false},
		{"a user in the kernel's group", nl(groupKernel, 300), cred(300, 1000), false},
		{"a user with port 0", nl(groupKernel, 0), cred(300, 1000), false},
		{"nobody with port 0", nl(groupKernel, 0), cred(300, 65534), false},
		{"root to us alone", nl(0, 300), cred(300, 0), false},
		{"the kernel to us alone", nl(0, 0), cred(0, 0), false},
		{"both groups", nl(groupKernel|groupUdev, 0), cred(0, 0), false},
		{"no credentials", nl(groupKernel, 0), nil, false},
		{"cut credentials", nl(groupKernel, 0), cred(0, 0)[:20], false},
		{"descriptors instead", nl(groupKernel, 0), unix.UnixRights(0), false},
		{"two", nl(groupKernel, 0), append(cred(0, 0), cred(0, 0)...), false},
		{"no netlink", &unix.SockaddrUnix{}, cred(0, 0), false},
		{"no sender", nil, cred(0, 0), false},
	} {
		if got := trusted(tt.from, tt.oob); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.what, got, tt.want)
		}
	}
}

// The same on a real socket, in a network namespace of its own. Only the kernel has port 0
// there, so the messages are sent in udevd's group.
func TestTrustedSocket(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can send uevents, and with credentials of others")
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespace: %v", err)
	}
	f := newTree(t)
	real := func() (source, error) { return openUevents() }
	src, err := real()
	if err != nil {
		t.Fatal(err)
	}
	f.w.openUevents = func() (source, error) { return src, nil }
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	f.must(err)
	defer unix.Close(s)
	f.plug(d1)
	f.start()
	f.w.deaf = false
	send := func(uid, group uint32, msg []byte) {
		t.Helper()
		f.must(unix.Sendmsg(s, msg, unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid()), Uid: uid}),
			&unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: group}, 0))
	}
	f.must(f.w.start(t.Context()))
	r := f.next()
	send(1000, groupUdev, udevMessage(string(d1.event("remove"))))
	send(65534, groupUdev, udevMessage(string(d1.event("remove"))))
	send(0, groupKernel, d1.event("remove")) // not port 0
	f.plug(d2)
	send(0, groupUdev, udevMessage(string(d2.event("add"))))
	f.next() // all earlier messages were handled
	f.stays(r, "the departure was told by somebody else")
	send(0, groupUdev, udevMessage(string(d1.event("remove"))))
	f.gone(r)
}

// None of these is a kernel message about a USB device, and none does harm.
func TestForeignMessages(t *testing.T) {
	f := newTree(t)
	f.plug(d1)
	f.start("uevents")
	r := f.next()
	remove := string(d1.event("remove"))
	for _, m := range []message{
		{from: kernelAddr, cred: &unix.Ucred{Uid: 1000}, text: []byte(remove)},
		{from: udevAddr, cred: &unix.Ucred{Uid: 1000}, text: []byte(remove)},
		{from: kernelAddr, text: []byte(remove)},
		{from: &unix.SockaddrNetlink{Groups: groupKernel, Pid: 9}, cred: root, text: []byte(remove)},
		{from: kernelAddr, cred: root, text: []byte(strings.Replace(remove, "SUBSYSTEM=usb", "SUBSYSTEM=tty", 1))},
		{from: kernelAddr, cred: root, text: []byte(strings.Replace(remove, "usb_device", "disk", 1))},
		{from: kernelAddr, cred: root, text: []byte(strings.Replace(remove, "DEVNUM=005", "DEVNUM=006", 1))},
		{from: kernelAddr, cred: root, text: []byte(strings.Replace(remove, "BUSNUM=003", "BUSNUM=001", 1))},
		{from: kernelAddr, cred: root, text: []byte("remove")},
		{from: kernelAddr, cred: root},
		{from: kernelAddr, cred: root, text: []byte("\x00\x00\x00")},
		{from: kernelAddr, cred: root, text: []byte("libudev\x00\xFE\xED\xCA\xFE")},
		{from: kernelAddr, cred: root, text: []byte(strings.ReplaceAll(remove, "usb/3-1", "usb/.."))},
		{from: kernelAddr, cred: root, text: []byte(strings.ReplaceAll(remove, "usb/3-1", ""))},
		{from: kernelAddr, cred: root, text: []byte(strings.ReplaceAll(string(d1.event("add")), "usb/3-1", "usb/.."))},
		{from: kernelAddr, cred: root, text: []byte(strings.ReplaceAll(string(d1.ifEvent("add")), "3-1", ":"))},
		{from: kernelAddr, cred: root, text: []byte(remove), flags: unix.MSG_TRUNC},
		{err: unix.EINTR},
	} {
		f.send(&m)
	}
	f.stays(r, "a message that does not count")
	f.none("a message that does not count")
	f.say([]byte(strings.Replace(remove, "BUSNUM=003\x00DEVNUM=005\x00", "", 1)))
	f.gone(r) // udevd's may lack the numbers
}

// "After lost messages": sysfs is read at once, and again when it no longer shows a device
// that was leaving at that time.
func TestMessagesLost(t *testing.T) {
	for name, lost := range map[string]message{
		"ENOBUFS": {err: unix.ENOBUFS},
		"cut":     {from: kernelAddr, cred: root, text: []byte("add@/"), flags: unix.MSG_TRUNC},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTree(t)
			tick := make(chan time.Time)
			f.w.after = func(time.Duration) <-chan time.Time { return tick }
			f.plug(d1)
			f.start("uevents")
			r := f.next()
			f.unplug(d1)
			f.plug(d2)
			f.send(&lost)
			f.gone(r)
			r = f.next()
			// The departure was reported, but not the arrival of the next device with the same
			// number. Sysfs shows no difference, and might still show the leaving device.
			f.say(d2.event("remove"))
			f.gone(r)
			f.send(&message{err: unix.ENOBUFS})
			f.none("it may be leaving still")
			for range 2 {
				tick <- time.Time{}
			}
			r = f.next()
			// Its departure is lost, and sysfs still shows it once.
			f.send(&message{err: unix.ENOBUFS})
			f.stays(r, "it is there")
			f.unplug(d2)
			tick <- time.Time{}
			f.gone(r)
		})
	}
}

// A scan that makes up for lost messages does not wait for a device that the kernel holds
// busy. Refused devices are not tried again.
func TestMessagesLostWhileStuck(t *testing.T) {
	f := newTree(t)
	f.w.after = func(time.Duration) <-chan time.Time { return nil }
	f.plug(d2)
	f.start("uevents")
	r := f.next()
	r.Link.(*node).failure = reader.ErrClaimed
	f.w.most = time.Hour
	f.plug(d1)
	f.stick(d1, "bConfigurationValue")
	f.send(&message{err: unix.ENOBUFS})
	d3 := device{name: "3-3", bus: 3, dev: 7}
	f.plug(d3)
	f.say(d3.event("add"))
	if r := f.next(); r.Address != "usb:3-3" {
		t.Errorf("announced %s", r.Address)
	}
	select {
	case <-r.Link.(*node).gone:
		t.Error("a refused device is tried again")
	default:
	}
	f.w.mu.Lock()
	f.w.forget(d1.name)
	f.w.mu.Unlock()
}

// A source that fails is opened again, and sysfs is polled meanwhile. The failure is logged
// once.
func TestUeventsEnd(t *testing.T) {
	f := newTree(t)
	f.start("uevents", "inotify")
	for i := range 3 {
		f.mu.Lock()
		f.refuse = errors.New("no more sockets")
		f.mu.Unlock()
		f.send(&message{err: unix.EBADF})
		d := device{name: fmt.Sprintf("1-%d", i+1), bus: 1, dev: i + 2}
		_ = os.RemoveAll(f.w.dev) // inotify does not report it either
		f.must(os.MkdirAll(filepath.Dir(f.devfile(1, 1)), 0o755))
		f.plug(d)
		r := f.next()
		f.mu.Lock()
		f.refuse = nil
		n := f.opened
		f.mu.Unlock()
		for now := n; now == n; time.Sleep(time.Millisecond) {
			f.mu.Lock()
			now = f.opened
			f.mu.Unlock()
		}
		f.say(d.event("remove"))
		f.gone(r)
	}
	if got := f.log.count("no more uevents"); got != 1 {
		t.Errorf("said %d times", got)
	}
}

// Without any source sysfs is polled.
func TestPolled(t *testing.T) {
	f := newTree(t)
	f.w.openUevents = func() (source, error) { return nil, unix.EPROTONOSUPPORT }
	f.w.openInotify = func() (source, error) { return nil, os.ErrNotExist }
	f.must(f.w.start(t.Context()))
	for range 2 {
		f.plug(d1)
		r := f.next()
		f.unplug(d1)
		f.gone(r)
	}
	if f.log.count("looked for every second") != 1 {
		t.Error("the log does not say so")
	}
}
