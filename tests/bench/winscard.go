package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cardfs/cardfs/tests/internal/ports"
	"github.com/cardfs/cardfs/tests/libcacard"
)

// The subjects of PC/SC without pcscd: the same programs on cardfs's libpcsclite, and on
// Debian's with pcscd.
const (
	scOwn          = "SCardTransmit, own"
	connectOwn     = "establish to release, own"
	connectNull    = "establish to release, null"
	transactOwn    = "begin, transmit, end, own"
	transactNull   = "begin, transmit, end, null"
	seenOwn        = "insertion seen, own"
	processesOwn   = "clients, processes, own"
	processesPcscd = "clients, processes, null"
	threadsOwn     = "clients, threads, own"
	threadsPcscd   = "clients, threads, null"
	certificates   = "certificates, own"
	certificatesSC = "certificates, libifdvpcd"
	beside         = "beside cardfs, own"
)

// sharers is how many clients use as many readers at once: the most that pcscd 1.9 accepts.
const sharers = 16

// client makes a command that runs as a PC/SC client.
type client func(ctx context.Context, name string, args ...string) *exec.Cmd

// own makes clients of cardfs's libpcsclite.
func (e *env) own(mount string) client {
	return func(ctx context.Context, name string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Dir(e.pcsc), "CARDFS_MOUNT="+e.path(mount))
		return cmd
	}
}

func (e *env) scbench(c client, args ...string) func(context.Context) ([]float64, error) {
	return func(ctx context.Context) ([]float64, error) {
		return samples(c(ctx, e.path("scbench"), args...))
	}
}

// winscard adds the subjects that use cardfs's libpcsclite, if it was built.
func (e *env) winscard(ctx context.Context) error {
	if _, err := os.Stat(e.pcsc); err != nil {
		e.leftOut(e.pcsc)
		return nil
	}
	null, one := e.null.Command, e.own("one")
	e.add(scOwn, nanoseconds, e.scbench(one, "transmit", "", "500", apdu))
	e.add(transactOwn, nanoseconds, e.scbench(one, "transaction", "", "250", apdu))
	e.add(transactNull, nanoseconds, e.scbench(null, "transaction", "", "250", apdu))
	e.add(connectOwn, nanoseconds, e.scbench(one, "connect", "", "100"))
	e.add(connectNull, nanoseconds, e.scbench(null, "connect", "", "100"))
	e.once = append(e.once, subject{beside, plain, func(ctx context.Context) ([]float64, error) {
		return e.besideCardfs(ctx, one)
	}})
	for _, f := range []func(context.Context) error{e.manyClients, e.insertionsOwn, e.certificates} {
		if err := f(ctx); err != nil {
			return err
		}
	}
	return nil
}

// manyClients adds as many clients as there are readers, in one process and in one each.
func (e *env) manyClients(ctx context.Context) error {
	var sims []string
	var entries strings.Builder
	for i := range sharers {
		sims = append(sims, "--sim", "apdu")
		entries.WriteString(conf(fmt.Sprintf("Null %02d", i), e.path("nullifd.so"), fmt.Sprintf("DEVICENAME null:%d", i)))
	}
	if _, err := e.mount(ctx, "shared", sims...); err != nil {
		return err
	}
	srv, err := e.pcscd(ctx, "shared", entries.String())
	if err != nil {
		return err
	}
	for _, x := range []struct {
		name, how string
		by        client
	}{
		{processesOwn, "processes", e.own("shared")}, {processesPcscd, "processes", srv.Command},
		{threadsOwn, "threads", e.own("shared")}, {threadsPcscd, "threads", srv.Command},
	} {
		e.add(x.name, perSecond, e.scbench(x.by, x.how, strconv.Itoa(sharers), "250", apdu))
	}
	return nil
}

func (e *env) insertionsOwn(ctx context.Context) error {
	port, err := ports.Free(2)
	if err != nil {
		return err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	if _, err := e.mount(ctx, "seen", "--attach", "vpcd "+address); err != nil {
		return err
	}
	return e.insertions(ctx, seenOwn, e.own("seen"), "", address)
}

// certificates has pkcs15-tool read the certificates of libcacard's card, each by a run of its
// own. A run through pcscd takes a minute or so, so there are few, in turns.
func (e *env) certificates(ctx context.Context) error {
	card, err := libcacard.New(ctx, e.path("cacard"))
	if err != nil {
		return err
	}
	insert := func(address string) error {
		in, err := card.Insert(ctx, address)
		if err == nil {
			e.closers = append(e.closers, in.Remove)
		}
		return err
	}
	socket := "unix:" + e.path("cacard.socket")
	if _, err := e.mount(ctx, "cacard-mount", "--attach", "vpcd "+socket); err != nil {
		return err
	}
	if err := insert(socket); err != nil {
		return err
	}
	port, err := ports.Free(2)
	if err != nil {
		return err
	}
	srv, err := e.pcscd(ctx, "cacard", conf("Virtual PCD", libifdvpcd, fmt.Sprintf("CHANNELID 0x%X", port)))
	if err != nil {
		return err
	}
	if err := insert(fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
		return err
	}
	if err := waitCard(ctx, e.path("cacard-mount/0")); err != nil {
		return err
	}
	var through []float64
	e.once = append(e.once, subject{certificates, nanoseconds, func(ctx context.Context) (own []float64, err error) {
		for range 3 {
			a, err := readCertificates(ctx, e.own("cacard-mount"))
			if err != nil {
				return nil, err
			}
			b, err := readCertificates(ctx, srv.Command)
			if err != nil {
				return nil, err
			}
			own, through = append(own, a), append(through, b)
		}
		return own, nil
	}}, subject{certificatesSC, nanoseconds, func(context.Context) ([]float64, error) { return through, nil }})
	return nil
}

func readCertificates(ctx context.Context, c client) (float64, error) {
	began := time.Now()
	for i := range libcacard.Certificates {
		cmd := c(ctx, "pkcs15-tool", "--read-certificate", fmt.Sprintf("%04d", i+1))
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "-----END CERTIFICATE-----") {
			return 0, fmt.Errorf("pkcs15-tool --read-certificate: %v\n%s", err, out)
		}
	}
	return float64(time.Since(began)), nil
}

// besideCardfs counts what a client in the middle of a transaction has besides its own thread
// and the files of the mount: threads, children, sockets, shared memory.
func (e *env) besideCardfs(ctx context.Context, c client) ([]float64, error) {
	cmd := c(ctx, e.path("scbench"), "hold", "", apdu)
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
	defer func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	}()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "held\n" {
		return nil, fmt.Errorf("scbench hold: %q, %w", line, err)
	}
	n, err := helpersOf(cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	kib, err := residentOf(e.null.Pid())
	e.notes[beside] = "pcscd: a process of " + kibibytes(kib)
	return []float64{float64(n)}, err
}

func helpersOf(pid int) (n int, err error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	threads, err := os.ReadDir(dir + "/task")
	if err != nil {
		return 0, err
	}
	n += len(threads) - 1
	children, err := os.ReadFile(fmt.Sprintf("%s/task/%d/children", dir, pid))
	if err != nil {
		return 0, err
	}
	n += len(strings.Fields(string(children)))
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		return 0, err
	}
	for _, fd := range fds {
		if to, _ := os.Readlink(dir + "/fd/" + fd.Name()); strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	maps, err := os.ReadFile(dir + "/maps")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasSuffix(f[1], "s") {
			n++
		}
	}
	return n, nil
}
