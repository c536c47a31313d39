// Package machine runs commands in a small virtual machine that has what most
// build machines lack: a kernel with USB, and USB devices that can be plugged
// and unplugged at will.
//
// The machine is QEMU by software emulation, also where there is a KVM: one inside
// another virtual machine was seen to abort QEMU and to stop the guest, and what is
// measured under one does not compare with what is measured under the other. Its kernel
// is Debian's own, taken out of its package; its root is the host's, read-only,
// with fresh /tmp, /run and /var, so that any program of the host runs in it. It
// is there two seconds after the call and runs one command:
//
//	m, err := machine.Start(ctx, machine.Config{Command: []string{"lsusb"}, Stdout: os.Stdout})
//	err = machine.PlugReader(ctx, m, "r1")
//	code, err := m.Wait()
//
// The same functions plug devices from the inside, with Dial in place of Start.
package machine

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:embed init.sh
var initScript []byte

// Config says which machine to start and what to run in it.
type Config struct {
	// Command runs as root in the directory Dir with the environment Env.
	Command []string
	Dir     string   // "": the host's current directory
	Env     []string // nil: the host's
	Stdout  io.Writer
	Stderr  io.Writer
	// TTY connects the command to this process's terminal instead.
	TTY bool
	// Devices to plug in before the kernel starts, by kind (see Kinds).
	Devices []string
	Memory  int           // MiB; 0 means 512
	NoUdev  bool          // without udevd: uevents come from the kernel only
	XHCI    bool          // an xHCI controller too
	Modules []string      // to load beside the usual ones: some of moreModules
	Timeout time.Duration // of RunSelf; 0 means 5 minutes
	// Console gets what the kernel prints. Nil: it is kept and shown with the
	// error when the machine fails.
	Console io.Writer
	Log     *slog.Logger
}

// Machine is a running machine.
type Machine struct {
	cmd   *exec.Cmd
	dir   string
	qmp   *qmp
	ports portMap
	exit  chan string // what the guest wrote to its exit port

	console lockedBuffer
	drained sync.WaitGroup // copies of the guest's output
	stop    context.CancelFunc
	ended   chan struct{} // closed when QEMU has ended
	closers []io.Closer
	once    sync.Once
}

// ErrNoQEMU says what to install.
var ErrNoQEMU = errors.New("qemu-system-x86_64 is not installed: apt-get install --no-install-recommends qemu-system-x86")

// Start boots a machine. It returns when the machine runs, some two seconds before its
// command does. The machine ends with ctx.
func Start(ctx context.Context, c Config) (*Machine, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return nil, ErrNoQEMU
	}
	img, err := Fetch(ctx, false, c.Log)
	if err != nil {
		return nil, err
	}
	// A socket's path has room for 107 bytes, too few for the test's own temporary directory.
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	m := &Machine{dir: dir, exit: make(chan string, 1), stop: stop, ended: make(chan struct{})}
	if err := m.start(ctx, qemu, img, c); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (m *Machine) start(ctx context.Context, qemu string, img *Image, c Config) error {
	job := filepath.Join(m.dir, "job")
	if err := os.Mkdir(job, 0o755); err != nil {
		return err
	}
	cards, err := CardDB(ctx)
	if err != nil {
		return err
	}
	script, err := jobScript(c, cards)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(job, "job"), script, 0o644); err != nil {
		return err
	}
	initrd := filepath.Join(m.dir, "initrd")
	if err := writeInitrd(initrd, img); err != nil {
		return err
	}
	memory := c.Memory
	if memory == 0 {
		memory = 512
	}
	// Not tsc=reliable: on a busy host one boot in some finds a rate of the TSC that is several times
	// too low, and time goes as much too fast, until the kernel's watchdog compares it with the HPET.
	kargs := "console=ttyS0 panic=-1 quiet no_timer_check random.trust_cpu=on mitigations=off rdinit=/init"
	if c.NoUdev {
		kargs += " noudev=1"
	}
	if len(c.Modules) > 0 {
		kargs += " modules=" + strings.Join(c.Modules, ",")
	}
	if c.TTY {
		kargs += " tty=1"
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-M", "q35", "-cpu", "max", "-accel", "tcg", "-smp", "1", "-m", strconv.Itoa(memory),
		"-kernel", img.Kernel, "-initrd", initrd, "-append", kargs,
		"-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
		"-virtfs", "local,path=" + job + ",mount_tag=job,security_model=none",
		"-device", "virtio-serial-pci",
	}
	for i := range uhciCount {
		args = append(args, "-device", fmt.Sprintf("piix3-usb-uhci,id=uhci%d", i))
	}
	if c.XHCI {
		args = append(args, "-device", "qemu-xhci,id=xhci0")
	}

	// QEMU connects to these sockets as it starts.
	qmpSock, err := m.listen("qmp")
	if err != nil {
		return err
	}
	args = append(args, "-qmp", "unix:"+qmpSock.Addr().String())
	consoleSock, err := m.listen("con")
	if err != nil {
		return err
	}
	args = append(args, "-chardev", "socket,id=con,path="+consoleSock.Addr().String(), "-serial", "chardev:con")
	ports := map[string]net.Listener{}
	for _, name := range []string{"out", "err", "exit", "ctl"} {
		l, err := m.listen(name)
		if err != nil {
			return err
		}
		ports[name] = l
		args = append(args,
			"-chardev", "socket,id="+name+",path="+l.Addr().String(),
			"-device", "virtserialport,chardev="+name+",name=cardfs."+name)
	}
	if c.TTY {
		args = append(args, "-chardev", "stdio,id=tty,signal=off", "-device", "virtconsole,chardev=tty")
	}
	for i, kind := range c.Devices {
		k, ok := Kinds[kind]
		if !ok {
			return fmt.Errorf("no device kind %q; there are: %s", kind, strings.Join(KindNames(), " "))
		}
		for _, d := range k(fmt.Sprintf("%s%d", kind, i), cards) {
			if _, err := m.ports.place(d); err != nil {
				return err
			}
			b, err := json.Marshal(d)
			if err != nil {
				return err
			}
			args = append(args, "-device", string(b))
		}
	}

	m.cmd = exec.CommandContext(ctx, qemu, args...)
	var stderr lockedBuffer
	m.cmd.Stderr = &stderr
	if c.TTY {
		m.cmd.Stdin, m.cmd.Stdout = os.Stdin, os.Stdout
	}
	c.Log.Debug("starting", "command", qemu, "args", args)
	if err := m.cmd.Start(); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	go func() {
		m.cmd.Wait()
		close(m.ended)
		for _, c := range m.closers {
			c.Close() // release whoever still waits for QEMU to connect
		}
	}()
	fail := func(err error) error {
		m.stop()
		<-m.ended
		if s := strings.TrimSpace(stderr.String()); s != "" {
			return fmt.Errorf("QEMU: %s", s)
		}
		return err
	}

	conn := func(l net.Listener) (net.Conn, error) {
		c, err := l.Accept()
		if err != nil {
			return nil, fail(fmt.Errorf("QEMU did not connect to %s: %w", l.Addr(), err))
		}
		return c, nil
	}
	var conns [5]net.Conn
	for i, l := range []net.Listener{consoleSock, ports["out"], ports["err"], ports["exit"], ports["ctl"]} {
		if conns[i], err = conn(l); err != nil {
			return err
		}
	}
	m.copy(orDiscard(c.Console, &m.console), conns[0])
	m.copy(orDiscard(c.Stdout, io.Discard), conns[1])
	m.copy(orDiscard(c.Stderr, io.Discard), conns[2])
	go m.readExit(conns[3])
	qc, err := conn(qmpSock)
	if err != nil {
		return err
	}
	if m.qmp, err = newQMP(qc); err != nil {
		return fail(err)
	}
	go serveControl(ctx, conns[4], m)
	return nil
}

// writeInitrd adds /init to the image's initramfs: the kernel unpacks one cpio
// archive after the other.
func writeInitrd(name string, img *Image) error {
	base, err := os.ReadFile(img.Initrd)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	cp := newCPIO(&b)
	cp.file("init", 0o755, initScript)
	cp.close()
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range [][]byte{base, b.Bytes()} {
		if _, err := f.Write(p); err != nil {
			return err
		}
	}
	return f.Close()
}

func orDiscard(w, other io.Writer) io.Writer {
	if w == nil {
		return other
	}
	return w
}

func (m *Machine) listen(name string) (net.Listener, error) {
	l, err := net.Listen("unix", filepath.Join(m.dir, name))
	if err != nil {
		return nil, err
	}
	m.closers = append(m.closers, l)
	return l, nil
}

func (m *Machine) copy(w io.Writer, c net.Conn) {
	m.drained.Go(func() {
		defer c.Close()
		io.Copy(w, c)
	})
}

func (m *Machine) readExit(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 256)
	n, _ := c.Read(buf)
	if n > 0 {
		m.exit <- strings.TrimSpace(string(buf[:n]))
	}
}

// Execute runs a QMP command. device_add finds a port for a USB device that
// names no bus, and device_del returns when the device is out.
func (m *Machine) Execute(ctx context.Context, command string, args any) (json.RawMessage, error) {
	if command != "device_add" && command != "device_del" {
		return m.qmp.Execute(ctx, command, args)
	}
	b, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	var p Props
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	if command == "device_del" {
		ret, err := m.qmp.Execute(ctx, command, p)
		if err == nil {
			m.ports.free(p["id"])
		}
		return ret, err
	}
	placed, err := m.ports.place(p)
	if err != nil {
		return nil, err
	}
	ret, err := m.qmp.Execute(ctx, command, p)
	if err != nil && placed {
		m.ports.free(p["id"])
	}
	return ret, err
}

// Wait waits for the command to end, switches the machine off and returns the command's exit
// code. By then all its output has been written.
func (m *Machine) Wait() (int, error) {
	defer m.Close()
	var word string
	select {
	case word = <-m.exit:
	case <-m.ended:
		select {
		case word = <-m.exit:
		default:
			m.drained.Wait()
			return -1, fmt.Errorf("the machine ended before its command did; its console's last lines:\n%s", m.console.tail(20))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if _, err := m.qmp.Execute(ctx, "quit", nil); err != nil {
		m.stop()
	}
	<-m.ended
	m.drained.Wait()
	code, err := strconv.Atoi(word)
	if err != nil {
		return -1, fmt.Errorf("%s; the machine's console:\n%s", word, m.console.tail(20))
	}
	return code, nil
}

// Console returns what the kernel and the machine's set-up have printed so far.
func (m *Machine) Console() string { return m.console.String() }

// Close ends the machine at once.
func (m *Machine) Close() error {
	m.once.Do(func() {
		m.stop()
		if m.cmd != nil && m.cmd.Process != nil {
			<-m.ended
		}
		for _, c := range m.closers {
			c.Close()
		}
		m.drained.Wait()
		os.RemoveAll(m.dir)
	})
	return nil
}

// lockedBuffer is a bytes.Buffer for one writer and other readers.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lockedBuffer) tail(n int) string {
	lines := strings.Split(strings.TrimSpace(l.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
