package proxyproto

import (
	"context"
	"fmt"
	"net"
	"time"
)

// dialTimeout is the timeout of a Dialer without a Dial function.
const dialTimeout = 3 * time.Second

// A Dialer opens connections that begin with a PROXY header. Each connection is for one client: do
// not pool them. The zero value sends LOCAL headers, as health checks do.
type Dialer struct {
	// Dial opens the connection. Nil means a net.Dialer with a timeout of 3 s.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Header returns the header for an open connection. A nil Header, or a nil result, means a
	// LOCAL header of version 2. An error closes the connection.
	Header func(ctx context.Context, c net.Conn) (*Header, error)
}

// DialContext opens a connection and writes its header. TLS comes after that. The context has no
// effect after DialContext has returned.
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

// greet writes the header. It fails when the context ends.
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
