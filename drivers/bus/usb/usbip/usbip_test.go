package usbip

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cardfs/cardfs/drivers/bus/usb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// toy answers as its functions say.
type toy struct {
	control func(ctx context.Context, s usb.Setup, data []byte) (int, error)
	in      func(ctx context.Context, p []byte) (int, error)
	gone    chan struct{}
	mu      sync.Mutex
	outs    [][]byte
	zlps    []bool
}

func (d *toy) Control(ctx context.Context, s usb.Setup, data []byte, _ time.Duration) (int, error) {
	return d.control(ctx, s, data)
}
func (d *toy) In(ctx context.Context, _ uint8, p []byte, _ time.Duration) (int, error) {
	return d.in(ctx, p)
}
func (d *toy) Out(_ context.Context, _ uint8, p []byte, zlp bool, _ time.Duration) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.outs, d.zlps = append(d.outs, p), append(d.zlps, zlp)
	return len(p), nil
}
func (d *toy) Gone() <-chan struct{} { return d.gone }

// kernel is vhci_hcd's end of the connection.
type kernel struct {
	t    *testing.T
	conn net.Conn
	end  chan error
}

func serve(t *testing.T, d *toy) *kernel {
	if d.gone == nil {
		d.gone = make(chan struct{})
	}
	return serveDevice(t, d)
}

func serveDevice(t *testing.T, d Device) *kernel {
	ours, theirs := net.Pipe()
	k := &kernel{t: t, conn: ours, end: make(chan error, 1)}
	go func() { k.end <- Serve(context.Background(), theirs, d) }()
	t.Cleanup(func() {
		ours.Close()
		if err := <-k.end; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return k
}

func (k *kernel) submit(seq uint32, in bool, ep uint32, flags uint32, setup string, n int, data []byte) {
	m := make([]byte, headerLen)
	be := binary.BigEndian
	be.PutUint32(m[0:], cmdSubmit)
	be.PutUint32(m[4:], seq)
	if in {
		be.PutUint32(m[12:], 1)
	}
	be.PutUint32(m[16:], ep)
	be.PutUint32(m[20:], flags)
	be.PutUint32(m[24:], uint32(n))
	be.PutUint32(m[32:], 0xFFFFFFFF) // not isochronous
	copy(m[40:], setup)
	if _, err := k.conn.Write(append(m, data...)); err != nil {
		k.t.Error(err)
	}
}

func (k *kernel) unlink(seq, victim uint32) {
	m := make([]byte, headerLen)
	binary.BigEndian.PutUint32(m[0:], cmdUnlink)
	binary.BigEndian.PutUint32(m[4:], seq)
	binary.BigEndian.PutUint32(m[20:], victim)
	if _, err := k.conn.Write(m); err != nil {
		k.t.Error(err)
	}
}

// expect reads an answer; in means that data follows it.
func (k *kernel) expect(cmd, seq uint32, status syscall.Errno, n int, data []byte) {
	k.t.Helper()
	m := make([]byte, headerLen)
	if _, err := io.ReadFull(k.conn, m); err != nil {
		k.t.Fatal(err)
	}
	be := binary.BigEndian
	got := make([]byte, len(data))
	if _, err := io.ReadFull(k.conn, got); err != nil {
		k.t.Fatal(err)
	}
	if be.Uint32(m) != cmd || be.Uint32(m[4:]) != seq || int32(be.Uint32(m[20:])) != -int32(status) ||
		cmd == retSubmit && int(be.Uint32(m[24:])) != n || !bytes.Equal(got, data) {
		k.t.Fatalf("got % X with data % X, want command %d sequence %d status %v length %d data % X", m, got, cmd, seq, status, n, data)
	}
}

func TestOut(t *testing.T) {
	d := &toy{}
	k := serve(t, d)
	k.submit(1, false, 2, flagZeroPacket, "", 3, []byte("abc"))
	k.expect(retSubmit, 1, 0, 3, nil)
	k.submit(2, false, 2, 0, "", 0, nil)
	k.expect(retSubmit, 2, 0, 0, nil)
	if len(d.outs) != 2 || string(d.outs[0]) != "abc" || !d.zlps[0] || len(d.outs[1]) != 0 || d.zlps[1] {
		t.Errorf("%q %v", d.outs, d.zlps)
	}
}

// Linux Documentation/usb/usbip_protocol.rst: the only answer to an unlinked transfer is the
// unlink's, with ECONNRESET. If the transfer was answered before, the unlink's status is 0.
func TestUnlink(t *testing.T) {
	data := make(chan string)
	d := &toy{in: func(ctx context.Context, p []byte) (int, error) {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case s := <-data:
			return copy(p, s), nil
		}
	}}
	k := serve(t, d)
	k.submit(1, true, 1, 0, "", 64, nil)
	k.submit(2, true, 1, 0, "", 64, nil)
	k.submit(3, true, 1, 0, "", 64, nil)
	// One that waits behind another ends without reaching the device.
	k.unlink(4, 2)
	k.expect(retUnlink, 4, syscall.ECONNRESET, 0, nil)
	// Under way.
	k.unlink(5, 1)
	k.expect(retUnlink, 5, syscall.ECONNRESET, 0, nil)
	// The transfer behind it continues.
	data <- "hello"
	k.expect(retSubmit, 3, 0, 5, []byte("hello"))
	k.unlink(6, 3)
	k.expect(retUnlink, 6, 0, 0, nil)
}

// Data that the device gave up at an unlink is delivered, not lost.
func TestUnlinkTooLate(t *testing.T) {
	d := &toy{in: func(ctx context.Context, p []byte) (int, error) {
		<-ctx.Done()
		return copy(p, "moved"), ctx.Err()
	}}
	k := serve(t, d)
	k.submit(1, true, 1, 0, "", 64, nil)
	k.unlink(2, 1)
	for {
		m := make([]byte, headerLen)
		if _, err := io.ReadFull(k.conn, m); err != nil {
			t.Fatal(err)
		}
		switch binary.BigEndian.Uint32(m) {
		case retSubmit:
			p := make([]byte, binary.BigEndian.Uint32(m[24:]))
			if _, err := io.ReadFull(k.conn, p); err != nil || string(p) != "moved" {
				t.Fatalf("%q, %v", p, err)
			}
			k.expect(retUnlink, 2, 0, 0, nil)
			return
		case retUnlink: // it had not begun
			return
		}
	}
}

func TestErrorsOfDevices(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want syscall.Errno
	}{
		{usb.ErrStall, syscall.EPIPE}, {usb.ErrOverflow, syscall.EOVERFLOW}, {errors.New("broken"), syscall.EPROTO},
	} {
		k := serve(t, &toy{in: func(context.Context, []byte) (int, error) { return 0, tt.err }})
		k.submit(1, true, 1, 0, "", 64, nil)
		k.expect(retSubmit, 1, tt.want, 0, nil)
	}
}

// A device that leaves ends the connection; the kernel sees an unplugging.
func TestGone(t *testing.T) {
	d := &toy{gone: make(chan struct{}), in: func(ctx context.Context, _ []byte) (int, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	}}
	k := serve(t, d)
	k.submit(1, true, 1, 0, "", 64, nil)
	close(d.gone)
	if n, err := k.conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes, want the end", n)
	}
}

// The kernel may send anything; memory stays bounded and nothing panics.
func FuzzServe(f *testing.F) {
	head := func(cmd uint32, n uint32) []byte {
		m := make([]byte, headerLen)
		binary.BigEndian.PutUint32(m, cmd)
		binary.BigEndian.PutUint32(m[24:], n)
		return m
	}
	f.Add(head(cmdSubmit, 0))
	f.Add(append(head(cmdSubmit, 4), "data"...))
	f.Add(append(head(cmdSubmit, 0), head(cmdUnlink, 0)...))
	f.Add(head(cmdSubmit, 1<<31))
	f.Add(head(77, 0))
	f.Fuzz(func(t *testing.T, in []byte) {
		ours, theirs := net.Pipe()
		d := &toy{
			control: func(_ context.Context, _ usb.Setup, p []byte) (int, error) { return len(p), nil },
			in:      func(_ context.Context, p []byte) (int, error) { return len(p) / 2, nil },
			gone:    make(chan struct{}),
		}
		end := make(chan struct{})
		go func() { defer close(end); Serve(context.Background(), theirs, d) }()
		go io.Copy(io.Discard, ours)
		ours.Write(in)
		ours.Close()
		<-end
	})
}

// resettable is a toy that counts its resets.
type resettable struct {
	*toy
	resets int
}

func (r *resettable) Reset() { r.resets++ }

// The kernel resets a port without a word to the device. It then asks for the device
// descriptor as it asks a new device, which is how the device knows. Others who read the
// descriptor reset nothing, nor does a new device's enumeration.
func TestReset(t *testing.T) {
	const (
		descriptor = "\x80\x06\x00\x01\x00\x00\x40\x00"
		whole      = "\x80\x06\x00\x01\x00\x00\x12\x00"
		strings    = "\x80\x06\x01\x03\x09\x04\x40\x00"
		vendor     = "\xC0\x06\x00\x01\x00\x00\x40\x00"
		configure  = "\x00\x09\x01\x00\x00\x00\x00\x00"
		unset      = "\x00\x09\x00\x00\x00\x00\x00\x00"
	)
	for _, tt := range []struct {
		name     string
		requests []string
		resets   int
	}{
		{"enumeration", []string{descriptor, descriptor, whole, configure, whole, strings, vendor}, 0},
		{"reset", []string{descriptor, configure, descriptor}, 1},
		{"reset, tried again", []string{configure, descriptor, descriptor}, 1},
		{"reset twice", []string{configure, descriptor, whole, configure, descriptor}, 2},
		{"not configured any more", []string{configure, unset, descriptor}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &resettable{toy: &toy{control: func(context.Context, usb.Setup, []byte) (int, error) { return 0, nil }}}
			k := serveDevice(t, d)
			for i, r := range tt.requests {
				k.submit(uint32(i), r[0]&0x80 != 0, 0, 0, r, int(r[6]), nil)
				k.expect(retSubmit, uint32(i), 0, 0, nil)
			}
			if d.resets != tt.resets {
				t.Errorf("%d resets, want %d", d.resets, tt.resets)
			}
		})
	}
}
