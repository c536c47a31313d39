package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cardfs/cardfs/tests/internal/ports"
)

// idleReaders is the most that pcscd 1.9 accepts.
const idleReaders = 16

// insertionsATurn is small, as each comes at any moment of a poll; but one alone says little
// where the machine does something else as well.
const insertionsATurn = 4

// throughLibrary measures pcscd with libifdcardfs.
func (e *env) throughLibrary(ctx context.Context) error {
	port, err := ports.Free(2)
	if err != nil {
		return err
	}
	card, empty := fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("127.0.0.1:%d", port+1)
	if _, err := e.mount(ctx, "ifd", "--sim", "apdu", "--attach", "vpcd "+card, "--attach", "vpcd "+empty); err != nil {
		return err
	}
	if _, err := e.run(ctx, "", e.path("instantcard"), card); err != nil {
		return err
	}
	if err := waitCard(ctx, e.path("ifd/1")); err != nil {
		return err
	}
	var entries string
	for i, name := range []string{"Cardfs sim", "Cardfs vpcd", "Cardfs empty"} {
		entries += conf(name, e.ifd, fmt.Sprintf("DEVICENAME cardfs:%s/%d", e.path("ifd"), i))
	}
	srv, err := e.pcscd(ctx, "cardfs", entries)
	if err != nil {
		return err
	}
	e.add(scCardfs, nanoseconds, e.scbench(srv.Command, "transmit", "Cardfs sim", "500", apdu))
	e.add(scCardfsV, nanoseconds, e.scbench(srv.Command, "transmit", "Cardfs vpcd", "250", apdu))

	if err := e.insertions(ctx, seenCardfs, srv.Command, "Cardfs empty", empty); err != nil {
		return err
	}
	vport, err := ports.Free(2)
	if err != nil {
		return err
	}
	vsrv, err := e.pcscd(ctx, "empty", conf("Virtual PCD", libifdvpcd, fmt.Sprintf("CHANNELID 0x%X", vport)))
	if err != nil {
		return err
	}
	if err := e.insertions(ctx, seenVpcd, vsrv.Command, "Virtual PCD", fmt.Sprintf("127.0.0.1:%d", vport)); err != nil {
		return err
	}
	return e.idleCPU(ctx)
}

// insertions measures from a virtual card's connect(2) to the return of
// SCardGetStatusChange in a client that waits.
func (e *env) insertions(ctx context.Context, name string, by client, reader, address string) error {
	cmd := by(ctx, e.path("scbench"), "watch", reader)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	e.closers = append(e.closers, func() error {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil
	})
	lines := bufio.NewScanner(out)
	seen := func(want int) (at int64, err error) {
		for lines.Scan() {
			var is int
			if _, err := fmt.Sscan(lines.Text(), &is, &at); err != nil {
				return 0, err
			}
			if is == want {
				return at, nil
			}
		}
		return 0, fmt.Errorf("scbench watch of %q ended", reader)
	}
	if _, err := seen(0); err != nil {
		return err
	}
	once := func() (float64, error) {
		// At any moment of a 400 ms poll.
		time.Sleep(rand.N(400 * time.Millisecond))
		from := monotonic()
		nc, err := net.Dial("tcp", address)
		if err != nil {
			return 0, err
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			playCard(nc)
		}()
		to, err := seen(1)
		_ = nc.Close()
		<-ended
		if err != nil {
			return 0, err
		}
		_, err = seen(0)
		return float64(to - from), err
	}
	e.add(name, nanoseconds, func(context.Context) (samples []float64, err error) {
		for range insertionsATurn {
			s, err := once()
			if err != nil {
				return nil, err
			}
			samples = append(samples, s)
		}
		return samples, nil
	})
	return nil
}

func monotonic() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return t.Nano()
}

// playCard does what instantcard.c does, in this process.
func playCard(nc net.Conn) {
	in := bufio.NewReader(nc)
	for {
		var head [2]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		msg := make([]byte, binary.BigEndian.Uint16(head[:]))
		if _, err := io.ReadFull(in, msg); err != nil {
			return
		}
		answer := "\x00\x02\x90\x00"
		switch {
		case len(msg) == 1 && msg[0] == 4:
			answer = "\x00\x05\x3B\x80\x80\x01\x01"
		case len(msg) == 1:
			continue
		}
		if _, err := io.WriteString(nc, answer); err != nil {
			return
		}
	}
}

// idleCPU watches two pcscds that nobody uses.
func (e *env) idleCPU(ctx context.Context) error {
	var sims []string
	var entries strings.Builder
	for i := range idleReaders {
		sims = append(sims, "--sim", "apdu")
		entries.WriteString(conf(fmt.Sprintf("Idle %02d", i), e.ifd, fmt.Sprintf("DEVICENAME cardfs:%s/%d", e.path("idle"), i)))
	}
	if _, err := e.mount(ctx, "idle", sims...); err != nil {
		return err
	}
	many, err := e.pcscd(ctx, "idle", entries.String())
	if err != nil {
		return err
	}
	null, err := e.pcscd(ctx, "idle-null", conf("Null", e.path("nullifd.so"), "DEVICENAME null:0"))
	if err != nil {
		return err
	}
	var nulls float64
	both := func() (a, b float64, err error) {
		if a, err = onCPU(many.Pid()); err == nil {
			b, err = onCPU(null.Pid())
		}
		return a, b, err
	}
	e.once = append(e.once, subject{idleCardfs, share, func(ctx context.Context) ([]float64, error) {
		a0, b0, err := both()
		if err != nil {
			return nil, err
		}
		select {
		case <-time.After(e.idle):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		a1, b1, err := both()
		nulls = (b1 - b0) / float64(e.idle)
		return []float64{(a1 - a0) / float64(e.idle)}, err
	}}, subject{idleNull, share, func(context.Context) ([]float64, error) { return []float64{nulls}, nil }})
	return nil
}
