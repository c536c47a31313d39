package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cardfs/cardfs/tests/cc"
	"github.com/cardfs/cardfs/tests/internal/ports"
	"github.com/cardfs/cardfs/tests/internal/proc"
	"github.com/cardfs/cardfs/tests/pcscd"
)

// apdu is SELECT of the MF without an answer: all cards here say 90 00.
const apdu = "00A4000C023F00"

// subject is one thing to measure.
type subject struct {
	name string
	show func(float64) string
	take func(context.Context) ([]float64, error)
}

// env is everything that runs during the measurements.
type env struct {
	options
	dir      string
	subjects []subject         // in every round
	once     []subject         // after the rounds
	missing  []string          // why rows are left out
	notes    map[string]string // what else a subject has to say
	closers  []func() error
	logs     []func() string
	null     *pcscd.Server // with an instant IFD handler
}

func (e *env) path(name string) string { return filepath.Join(e.dir, name) }

func (e *env) close() error {
	var errs []error
	for i := len(e.closers) - 1; i >= 0; i-- {
		errs = append(errs, e.closers[i]())
	}
	if e.verbose {
		for _, l := range e.logs {
			fmt.Fprintln(os.Stderr, l())
		}
	}
	return errors.Join(errs...)
}

func newEnv(ctx context.Context, o options) (*env, error) {
	e := &env{options: o, notes: map[string]string{}}
	for _, f := range []func(context.Context) error{e.build, e.mounts, e.pcscds, e.library, e.winscard, e.serialIdle, e.serialAgainst, e.serialMemory, e.remote} {
		if err := f(ctx); err != nil {
			return e, err
		}
	}
	return e, nil
}

func (e *env) build(ctx context.Context) (err error) {
	if _, err := os.Stat(e.cardfs); err != nil {
		return fmt.Errorf("%w (make build)", err)
	}
	if e.dir, err = os.MkdirTemp("", "cardfs-bench-"); err != nil {
		return err
	}
	e.closers = append(e.closers, func() error { return os.RemoveAll(e.dir) })
	for _, t := range []struct {
		name   string
		target cc.Target
	}{
		{"filebench", cc.Target{Sources: []string{"tests/bench/c/filebench.c"}, Include: []string{"ctapi/clib/common"}}},
		{"instantcard", cc.Target{Sources: []string{"tests/bench/c/instantcard.c"}}},
		{"scbench", cc.Target{Sources: []string{"tests/bench/c/scbench.c"}, Packages: []string{"libpcsclite"}}},
		{"nullifd.so", cc.Target{Sources: []string{"tests/bench/c/nullifd.c"}, Packages: []string{"libpcsclite"}, Shared: true}},
	} {
		if err := cc.Build(ctx, e.path(t.name), t.target); err != nil {
			return err
		}
	}
	return nil
}

// run starts a server that ends with the environment.
func (e *env) run(ctx context.Context, ready, name string, args ...string) (*proc.Process, error) {
	p, err := start(ctx, ready, name, args...)
	if err != nil {
		return nil, err
	}
	e.closers = append(e.closers, func() error { return stop(p) })
	e.logs = append(e.logs, p.Log.String)
	return p, nil
}

func (e *env) mount(ctx context.Context, name string, args ...string) (*proc.Process, error) {
	dir := e.path(name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	return e.run(ctx, "mounted at", e.cardfs, append(append([]string{"mount"}, args...), dir)...)
}

func (e *env) add(name string, show func(float64) string, take func(context.Context) ([]float64, error)) {
	e.subjects = append(e.subjects, subject{name, show, take})
}

func (e *env) filebench(mode string, count int, more ...string) func(context.Context) ([]float64, error) {
	args := append([]string{mode, strconv.Itoa(count), apdu}, more...)
	return func(ctx context.Context) ([]float64, error) {
		return samples(exec.CommandContext(ctx, e.path("filebench"), args...))
	}
}

// mounts starts three cardfs and the echo server. One cardfs has one reader, one has many,
// and one has a port for a virtual card: then no measurement profits from another's set-up.
func (e *env) mounts(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.Mkdir(e.path("echo"), 0o755); err != nil {
		return err
	}
	if _, err := e.run(ctx, "mounted at", self, "echo", e.path("echo")); err != nil {
		return err
	}
	one, err := e.mount(ctx, "one", "--sim", "apdu")
	if err != nil {
		return err
	}
	var sims []string
	for range e.readers {
		sims = append(sims, "--sim", "apdu")
	}
	many, err := e.mount(ctx, "many", sims...)
	if err != nil {
		return err
	}
	port, err := ports.Free(1)
	if err != nil {
		return err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	if _, err := e.mount(ctx, "vpcd", "--attach", "vpcd "+address); err != nil {
		return err
	}
	if _, err := e.run(ctx, "", e.path("instantcard"), address); err != nil {
		return err
	}
	if err := waitCard(ctx, e.path("vpcd/0")); err != nil {
		return err
	}

	e.add(ioctlSim, nanoseconds, e.filebench("ioctl", 500, e.path("one/0/apdu")))
	e.add(textSim, nanoseconds, e.filebench("text", 500, e.path("one/0/apdu")))
	e.add(textEcho, nanoseconds, e.filebench("text", 500, e.path("echo/echo")))
	e.add(ioctlVpcd, nanoseconds, e.filebench("ioctl", 250, e.path("vpcd/0/apdu")))
	e.add(openOne, nanoseconds, e.filebench("open", 50, e.path("one/0")))
	e.add(openMany, nanoseconds, e.filebench("open", 50, e.path("many/0")))
	n := strconv.Itoa(e.readers)
	e.add(rateOne, perSecond, e.filebench("many", 250, e.path("many"), "1"))
	e.add(rateMany, perSecond, e.filebench("many", 250, e.path("many"), n))

	// Every card is powered once before memory is measured. It is measured before and after
	// the rounds, and the larger value counts.
	for i := range e.readers {
		if _, err := os.ReadFile(e.path(fmt.Sprintf("many/%d/atr", i))); err != nil {
			return err
		}
	}
	if _, err := os.ReadFile(e.path("one/0/atr")); err != nil {
		return err
	}
	e.once = append(e.once, subject{followers, share, func(ctx context.Context) ([]float64, error) {
		return e.followers(ctx, many)
	}})
	perReader := func() (float64, error) {
		a, err := resident(many)
		if err != nil {
			return 0, err
		}
		b, err := resident(one)
		return (a - b) / float64(e.readers-1), err
	}
	fresh, err := perReader()
	if err != nil {
		return err
	}
	e.once = append(e.once, subject{memory, kibibytes, func(context.Context) ([]float64, error) {
		used, err := perReader()
		return []float64{max(fresh, used)}, err
	}})
	return nil
}

// followers returns the share of a processor's time that serves a client which follows the
// events of many idle slots.
func (e *env) followers(ctx context.Context, daemon *proc.Process) ([]float64, error) {
	cmd := exec.CommandContext(ctx, e.path("filebench"), "follow", strconv.Itoa(e.readers), e.path("many"))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	said := bufio.NewScanner(stdout)
	if !said.Scan() || said.Text() != "at rest" {
		return nil, fmt.Errorf("filebench follow: %q, %v", said.Text(), cmd.Wait())
	}
	onBoth := func() (float64, error) {
		a, err := onCPU(daemon.Pid())
		if err != nil {
			return 0, err
		}
		b, err := onCPU(cmd.Process.Pid)
		return a + b, err
	}
	before, err := onBoth()
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(e.idle):
	case <-ctx.Done():
	}
	after, err := onBoth()
	if err != nil {
		return nil, err
	}
	_ = stdin.Close()
	said.Scan()
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("filebench follow: %w", err)
	}
	if said.Text() != "0" {
		return nil, fmt.Errorf("the followers woke %s times while nothing happened", said.Text())
	}
	return []float64{(after - before) / float64(e.idle)}, nil
}

// pcscd starts a private pcscd with these readers.
func (e *env) pcscd(ctx context.Context, name string, conf string) (*pcscd.Server, error) {
	dir := e.path("pcscd-" + name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	s, err := pcscd.Start(ctx, dir, conf)
	if err != nil {
		return nil, err
	}
	e.closers = append(e.closers, s.Close)
	e.logs = append(e.logs, s.Log)
	return s, nil
}

func conf(name, library, device string) string {
	return fmt.Sprintf("%s\nLIBPATH %s\nFRIENDLYNAME %q\n", device, library, name)
}

const libifdvpcd = "/usr/lib/pcsc/drivers/serial/libifdvpcd.so"

// pcscds starts the pcscds that cardfs is compared with.
func (e *env) pcscds(ctx context.Context) error {
	var err error
	e.null, err = e.pcscd(ctx, "null", conf("Null", e.path("nullifd.so"), "DEVICENAME null:0"))
	if err != nil {
		return err
	}
	port, err := ports.Free(2)
	if err != nil {
		return err
	}
	vpcd, err := e.pcscd(ctx, "vpcd", conf("Virtual PCD", libifdvpcd, fmt.Sprintf("CHANNELID 0x%X", port)))
	if err != nil {
		return err
	}
	if _, err := e.run(ctx, "", e.path("instantcard"), fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
		return err
	}
	e.add(scNull, nanoseconds, e.scbench(e.null.Command, "transmit", "Null", "500", apdu))
	e.add(scVpcd, nanoseconds, e.scbench(vpcd.Command, "transmit", "Virtual PCD", "5", apdu))
	return nil
}

// library adds the subjects that use libifdcardfs, if it was built.
func (e *env) library(ctx context.Context) error {
	if _, err := os.Stat(e.ifd); err != nil {
		e.leftOut(e.ifd)
		return nil
	}
	return e.throughLibrary(ctx)
}

// leftOut notes that a library was not built.
func (e *env) leftOut(library string) {
	e.missing = append(e.missing, "no "+filepath.Base(library))
}

// waitCard follows a slot's events until a card is inserted.
func waitCard(ctx context.Context, slot string) error {
	f, err := os.Open(filepath.Join(slot, "event"))
	if err != nil {
		return err
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { _ = f.Close() })()
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name(), errors.Join(err, ctx.Err()))
		}
		for line := range strings.Lines(string(buf[:n])) {
			if w := strings.Fields(line); len(w) > 2 && (w[2] == "inserted" || w[2] == "powered") {
				return nil
			}
		}
	}
}
