package proxyproto

import (
	"context"
	"fmt"
	"net"
	"time"
)

// dialTimeout is that of a Dialer without a function of its own.
const dialTimeout = 3 * time.Second

// A Dialer opens connections that begin with a PROXY header. Each is for one client: do not pool them. The zero value
// speaks for itself, as health checks do (LOCAL).
type Dialer struct {
	// Dial opens the connection. Nil means a net.Dialer that waits for 3 s.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Header tells what to write on a connection that is open. Nil, or a nil header, means one of version 2 that is
	// LOCAL. An error closes the connection.
	Header func(ctx context.Context, c net.Conn) (*Header, error)
}

// DialContext opens a connection and writes the header on it. TLS comes after that. The context ends nothing once
// DialContext has returned.
func (d *Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	dial := d.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	c, err := dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if err := d.greet(ctx, c); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// greet writes the header, until the context ends.
func (d *Dialer) greet(ctx context.Context, c net.Conn) error {
	h := &Header{Local: true}
	if d.Header != nil {
		told, err := d.Header(ctx, c)
		if err != nil {
			return err
		}
		if told != nil {
			h = told
		}
	}
	b, err := h.AppendBinary(nil)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { c.SetWriteDeadline(time.Unix(1, 0)) })
	_, err = c.Write(b)
	if !stop() {
		return fmt.Errorf("proxyproto: write a PROXY header: %w", context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("proxyproto: write a PROXY header: %w", err)
	}
	return nil
}
