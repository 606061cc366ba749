// Package h2test is a client of HTTP/2 that opens extended CONNECTs (RFC 8441), for tests. The
// clients of net/http and of golang.org/x/net cannot be relied on: since Go 1.27 they refuse the
// header :protocol.
package h2test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
)

// ErrNotOffered reports that a server's settings do not offer extended CONNECT.
var ErrNotOffered = errors.New("h2test: the server does not offer extended CONNECT")

// A Client opens streams on one connection. It opens a further connection when the server allows no
// more streams. It is safe for concurrent use.
type Client struct {
	// Dial connects to the server and agrees on HTTP/2. It is required.
	Dial func(context.Context) (net.Conn, error)

	mu    sync.Mutex
	conns []*conn
}

// A Request is an extended CONNECT.
type Request struct {
	Protocol, Authority, Path string
	Header                    http.Header
}

// Connect opens a stream, and returns when the response's header has come. The caller closes the
// stream. The end of ctx resets the stream.
func (c *Client) Connect(ctx context.Context, r Request) (*Stream, error) {
	s, err := c.open(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := s.Await(); err != nil {
		s.Reset()
		return nil, err
	}
	return s, nil
}

// Open is like Connect, but returns when the request is sent. Call Await to wait for the response.
func (c *Client) Open(ctx context.Context, r Request) (*Stream, error) { return c.open(ctx, r) }

func (c *Client) open(ctx context.Context, r Request) (*Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		if s, err := conn.open(ctx, r); !errors.Is(err, errNoRoom) {
			return s, err
		}
	}
	under, err := c.Dial(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := newConn(under)
	if err != nil {
		under.Close()
		return nil, err
	}
	c.conns = append(c.conns, conn)
	return conn.open(ctx, r)
}

// Close closes the connections, and waits for the goroutines that read them.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.under.Close()
		<-conn.done
	}
	c.conns = nil
}

// fields returns the header of a request in the order in which it is sent.
func (r Request) fields() [][2]string {
	fields := [][2]string{{":method", http.MethodConnect}, {":protocol", r.Protocol}, {":scheme", "https"},
		{":path", r.Path}, {":authority", r.Authority}}
	for name, values := range r.Header {
		for _, value := range values {
			fields = append(fields, [2]string{strings.ToLower(name), value})
		}
	}
	return fields
}

// response returns the response whose header is a block of fields, or nil if it is an interim
// response.
func response(fields [][2]string, body *Stream) (*http.Response, error) {
	res := &http.Response{Proto: "HTTP/2.0", ProtoMajor: 2, Header: make(http.Header), Body: body, ContentLength: -1}
	for _, f := range fields {
		if f[0] != ":status" {
			res.Header.Add(f[0], f[1])
		} else if _, err := fmt.Sscan(f[1], &res.StatusCode); err != nil {
			return nil, fmt.Errorf("h2test: status %q: %w", f[1], err)
		}
	}
	if res.StatusCode < 200 {
		return nil, nil
	}
	res.Status = fmt.Sprint(res.StatusCode, " ", http.StatusText(res.StatusCode))
	return res, nil
}
