package machine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
)

// QMPError is QEMU's refusal of a command.
type QMPError struct {
	Command string `json:"-"`
	Class   string `json:"class"`
	Desc    string `json:"desc"`
}

func (e *QMPError) Error() string { return fmt.Sprintf("qmp %s: %s", e.Command, e.Desc) }

// qmp speaks QEMU's machine protocol (QEMU docs/interop/qmp-spec.rst).
type qmp struct {
	conn net.Conn

	mu      sync.Mutex
	nextID  int
	waiting map[int]chan qmpReply
	deleted map[string][]chan struct{} // by device id, until DEVICE_DELETED
	err     error                      // set once, when the connection ended
	done    chan struct{}
}

type qmpReply struct {
	ret json.RawMessage
	err *QMPError
}

// newQMP takes over conn, from which QEMU's greeting has not been read yet.
func newQMP(conn net.Conn) (*qmp, error) {
	q := &qmp{
		conn:    conn,
		waiting: map[int]chan qmpReply{},
		deleted: map[string][]chan struct{}{},
		done:    make(chan struct{}),
	}
	go q.read()
	_, err := q.command(context.Background(), "qmp_capabilities", nil)
	return q, err
}

func (q *qmp) read() {
	sc := bufio.NewScanner(q.conn)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var m struct {
			ID     *int
			Return json.RawMessage
			Error  *QMPError
			Event  string
			Data   struct{ Device string }
		}
		if err := json.Unmarshal(sc.Bytes(), &m); err != nil {
			continue // no answer that a command waits for
		}
		q.mu.Lock()
		switch {
		case m.ID != nil && q.waiting[*m.ID] != nil:
			q.waiting[*m.ID] <- qmpReply{m.Return, m.Error}
			delete(q.waiting, *m.ID)
		case m.Event == "DEVICE_DELETED":
			for _, c := range q.deleted[m.Data.Device] {
				close(c)
			}
			delete(q.deleted, m.Data.Device)
		}
		q.mu.Unlock()
	}
	err := sc.Err()
	if err == nil {
		err = errors.New("QEMU has ended")
	}
	q.mu.Lock()
	q.err = err
	q.mu.Unlock()
	close(q.done)
}

// Execute runs a command. device_del returns when the device is out.
func (q *qmp) Execute(ctx context.Context, command string, args any) (json.RawMessage, error) {
	if command != "device_del" {
		return q.command(ctx, command, args)
	}
	b, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	var dev struct{ ID string }
	if err := json.Unmarshal(b, &dev); err != nil {
		return nil, err
	}
	out := make(chan struct{})
	q.mu.Lock()
	q.deleted[dev.ID] = append(q.deleted[dev.ID], out)
	q.mu.Unlock()
	ret, err := q.command(ctx, command, args)
	if err != nil {
		return nil, err
	}
	select {
	case <-out:
		return ret, nil
	case <-q.done:
		return nil, fmt.Errorf("qmp %s: %w", command, q.err)
	case <-ctx.Done():
		return nil, fmt.Errorf("qmp %s %s: device is still there: %w", command, dev.ID, ctx.Err())
	}
}

func (q *qmp) command(ctx context.Context, command string, args any) (json.RawMessage, error) {
	reply := make(chan qmpReply, 1)
	q.mu.Lock()
	q.nextID++
	id := q.nextID
	q.waiting[id] = reply
	q.mu.Unlock()
	m := map[string]any{"execute": command, "id": id}
	if args != nil {
		m["arguments"] = args
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if _, err := q.conn.Write(append(b, '\n')); err != nil {
		return nil, fmt.Errorf("qmp %s: %w", command, err)
	}
	select {
	case r := <-reply:
		if r.err != nil {
			r.err.Command = command
			return nil, r.err
		}
		return r.ret, nil
	case <-q.done:
		return nil, fmt.Errorf("qmp %s: %w", command, q.err)
	case <-ctx.Done():
		return nil, fmt.Errorf("qmp %s: %w", command, ctx.Err())
	}
}
