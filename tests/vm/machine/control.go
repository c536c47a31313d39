package machine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// What a job finds in its environment.
const (
	envInside = "CARDFS_VM"       // "1" in the guest
	envCards  = "CARDFS_VM_CARDS" // the host's path of the card database
)

// Inside reports whether this process runs in a machine.
func Inside() bool { return os.Getenv(envInside) == "1" }

// request and response are one line each on the control port.
type request struct {
	ID      int64           `json:"id"`
	Execute string          `json:"execute"`
	Args    json.RawMessage `json:"arguments,omitempty"`
}

type response struct {
	ID     int64           `json:"id"`
	Return json.RawMessage `json:"return,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// serveControl answers the guest's requests until conn or ctx ends.
func serveControl(ctx context.Context, conn net.Conn, x Executor) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	sc := bufio.NewScanner(conn)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var req request
		var resp response
		if err := json.Unmarshal(sc.Bytes(), &req); err != nil {
			resp.Error = fmt.Sprintf("control request: %v", err)
		} else {
			resp.ID = req.ID
			var args any
			if len(req.Args) > 0 {
				args = req.Args
			}
			c, cancel := context.WithTimeout(ctx, 10*time.Second)
			ret, err := x.Execute(c, req.Execute, args)
			cancel()
			resp.Return = ret
			if err != nil {
				resp.Error = err.Error()
			}
		}
		b, err := json.Marshal(resp)
		if err != nil {
			return
		}
		if _, err := conn.Write(append(b, '\n')); err != nil {
			return
		}
	}
}

// Guest is the machine as its guest sees it.
type Guest struct {
	port   string
	lastID atomic.Int64
}

// ErrOutside: the process does not run in a machine.
var ErrOutside = errors.New("this runs only in the virtual machine: go run ./tests/vm exec -- COMMAND")

// Dial connects to the host. Outside a machine it fails with ErrOutside.
func Dial() (*Guest, error) {
	names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, n := range names {
		if b, err := os.ReadFile(n); err == nil && strings.TrimSpace(string(b)) == "cardfs.ctl" {
			g := &Guest{port: "/dev/" + filepath.Base(filepath.Dir(n))}
			g.lastID.Store(time.Now().UnixNano())
			return g, nil
		}
	}
	return nil, ErrOutside
}

// Execute asks the host to run a QMP command. Only one process at a time has the port;
// others wait for their turn.
func (g *Guest) Execute(ctx context.Context, command string, args any) (json.RawMessage, error) {
	req := request{ID: g.lastID.Add(1), Execute: command}
	if args != nil {
		b, err := json.Marshal(args)
		if err != nil {
			return nil, err
		}
		req.Args = b
	}
	line, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	f, err := g.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("control port: %w", err)
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := f.Write(append(line, '\n')); err != nil {
		return nil, fmt.Errorf("control port: %w", err)
	}
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var resp response
		if err := json.Unmarshal(sc.Bytes(), &resp); err != nil || resp.ID != req.ID {
			continue // the answer to a process that no longer waits for it
		}
		if resp.Error != "" {
			return nil, errors.New(resp.Error)
		}
		return resp.Return, nil
	}
	return nil, fmt.Errorf("control port: no answer to %s: %w", command, errors.Join(sc.Err(), ctx.Err()))
}

func (g *Guest) open(ctx context.Context) (*os.File, error) {
	for {
		f, err := os.OpenFile(g.port, os.O_RDWR, 0)
		if !errors.Is(err, syscall.EBUSY) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}
