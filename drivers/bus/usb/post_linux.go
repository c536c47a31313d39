package usb

import (
	"context"
	"fmt"
	"time"
)

// posted is a read that was submitted but is not yet waited for.
type posted struct {
	conn *conn
	urb  *urb
	ep   uint8
}

var _ Poster = (*conn)(nil)

// OutPost implements Poster. The read is submitted after the write: host controllers
// process their endpoints in that order.
func (c *conn) OutPost(ctx context.Context, out uint8, p []byte, in uint8, n int, timeout time.Duration) (int, Posted, error) {
	outKind, ok := c.types[out]
	if !ok || out&0x80 != 0 {
		return 0, nil, c.noEndpoint("OUT", out)
	}
	inKind, ok := c.types[in]
	if !ok || in&0x80 == 0 {
		return 0, nil, c.noEndpoint("IN", in)
	}
	u, err := c.take(len(p))
	if err != nil {
		return 0, nil, fmt.Errorf("%s: endpoint %02X: %w", c.name, out, err)
	}
	defer c.give(u)
	copy(u.buf, p)
	if err := ctx.Err(); err != nil {
		return 0, nil, fmt.Errorf("%s: endpoint %02X: %w", c.name, out, err)
	}
	if err := c.submit(u, outKind, out, len(p), 0); err != nil {
		return 0, nil, fmt.Errorf("%s: endpoint %02X: %w", c.name, out, c.refused(ctx, err))
	}
	r := c.post(inKind, in, n)
	moved, err := c.wait(ctx, u, out, timeout)
	if err == nil {
		if r == nil {
			return moved, nil, nil
		}
		return moved, r, nil
	}
	if r != nil {
		r.Cancel()
	}
	return moved, nil, fmt.Errorf("%s: endpoint %02X: %w", c.name, out, err)
}

// post submits a read. It returns nil if that fails.
func (c *conn) post(kind, ep uint8, n int) *posted {
	u, err := c.take(n)
	if err != nil {
		return nil
	}
	if err := c.submit(u, kind, ep, n, 0); err != nil {
		c.give(u)
		return nil
	}
	return &posted{c, u, ep}
}

// Wait implements Posted.
func (r *posted) Wait(ctx context.Context, p []byte, timeout time.Duration) (int, error) {
	defer r.conn.give(r.urb)
	n, err := r.conn.wait(ctx, r.urb, r.ep, timeout)
	n = copy(p, r.urb.buf[:n])
	if err != nil {
		return n, fmt.Errorf("%s: endpoint %02X: %w", r.conn.name, r.ep, err)
	}
	return n, nil
}

// Cancel implements Posted.
func (r *posted) Cancel() {
	r.conn.discard(r.urb)
	r.conn.give(r.urb)
}
