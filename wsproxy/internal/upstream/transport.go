// Package upstream sends requests to plain HTTP/1.1 targets. http.Transport runs two goroutines for
// each connection and hands every request from one to the other. A [Transport] writes the request
// and reads the response on the caller's goroutine. Only a request with a body starts a goroutine,
// which ends with that body.
//
// It speaks neither TLS nor HTTP/2. It uses no proxy and no cookies, and adds neither User-Agent
// nor Accept-Encoding. It does not support http.Request.Cancel, the method CONNECT, and transfer
// codings other than chunked.
//
// # Security
//
// http.ReadResponse parses the bytes of a target, with a limit on the size of the header. Only a
// plain header, which has one reading, is parsed here.
//
// Requests are checked more strictly than by http.Transport: a request whose host, target or
// trailers could be read in two ways is refused. Only the transport writes the fields that frame
// the message, however the header map spells their names.
package upstream

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// A Transport is an http.RoundTripper for http targets. The zero value has the defaults that its
// fields name. A negative value means no bound, unless the field says otherwise. Do not change the
// fields after the first request. The methods are safe for concurrent use. A Transport must not be
// copied.
//
// It differs from http.Transport in three ways that a caller can see. A failed RoundTrip does not
// wait for a Read of the request's body in progress, so the body may be closed after RoundTrip has
// returned. If idle connections to a target have gone stale, at most one of them is tried. The end
// of a context during a request may take 20 ms to be noticed.
type Transport struct {
	// DialContext makes connections. It has to honour its context. Nil means a net.Dialer with
	// DialTimeout and TCP keep-alive. Connections that are neither a *net.TCPConn nor a
	// *net.UnixConn are reused without being checked first.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// DialTimeout bounds the dial if DialContext is nil. Zero means 3 seconds, a negative value no
	// bound.
	DialTimeout time.Duration

	// HeaderTimeout bounds the time from the end of the request to the end of the final response's
	// header. Zero means 60 seconds, a negative value no bound. It may take a 64th longer.
	HeaderTimeout time.Duration

	// WriteTimeout bounds the time in which the target takes no byte of a request that is being
	// written. Zero means 60 seconds, a negative value no bound. It may take a 64th longer. A
	// socket with a full send buffer takes more only when a good part of the buffer is free, which
	// may be a megabyte.
	WriteTimeout time.Duration

	// ContinueTimeout is how long a body with "Expect: 100-continue" waits for an answer. Zero
	// means 1 second, a negative value not at all.
	ContinueTimeout time.Duration

	// IdleTimeout is how long a connection is kept without a request. Zero means 90 seconds, a
	// negative value no bound. The connection is closed at most a sixteenth later. If the target
	// closes it earlier, that is noticed when the connection is needed or at the end of that time.
	IdleTimeout time.Duration

	// MaxIdlePerTarget bounds the idle connections to one Address. Zero means 64, a negative value
	// keeps none.
	MaxIdlePerTarget int

	// MaxAge returns the age up to which a new connection may get requests. Nil, or a result of
	// zero or less, means no bound. A connection that has reached its age is closed when it is
	// idle, at most a second later.
	MaxAge func() time.Duration

	// MaxHeaderBytes bounds the header of a response together with the 1xx responses before it.
	// With an httptrace.ClientTrace, each 1xx response has the whole bound. Zero means 1 MiB.
	MaxHeaderBytes int

	once     sync.Once
	dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	idle     pool
	watch    watch
	readers  sync.Pool // of *bufio.Reader
	outgoing sync.Pool // of *outgoing
	buffers  sync.Pool // of *[bufferSize]byte
}

const keepAlive = 30 * time.Second

// An Address says where to dial, in the terms of net.Dialer. The zero value means TCP to the host
// and port of the request's URL. Idle connections are reused for the same Address, whatever the
// URLs.
type Address struct{ Network, Addr string }

// orDefault returns the limit that a field stands for. No limit is 0.
func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return max(d, 0)
}

func (t *Transport) headerTimeout() time.Duration { return orDefault(t.HeaderTimeout, 60*time.Second) }

func (t *Transport) maxHeaderBytes() int {
	if t.MaxHeaderBytes <= 0 {
		return 1 << 20
	}
	return t.MaxHeaderBytes
}

func (t *Transport) setup() {
	t.idle.timeout = orDefault(t.IdleTimeout, 90*time.Second)
	if t.idle.perTarget = t.MaxIdlePerTarget; t.idle.perTarget == 0 {
		t.idle.perTarget = 64
	}
	if t.dial = t.DialContext; t.dial == nil {
		dialer := net.Dialer{Timeout: orDefault(t.DialTimeout, 3*time.Second), KeepAlive: keepAlive}
		t.dial = dialer.DialContext
	}
}

// RoundTrip implements http.RoundTripper. If the request's context has ended, it returns the
// context's cause. If the body could not be read, it returns the body's error. If the target could
// not be reached or did not answer properly, it returns an [*Error]. If the request cannot be sent
// to any target, it returns a [*RequestError].
//
// A request may meet a reused connection that the target has closed before it answered a byte. The
// request is then sent once more, on a new connection, if two conditions hold. First, it has no
// body, or it has a GetBody. Second, one of these is true: its method is idempotent; its header has
// an Idempotency-Key; nothing was written; or, on Linux, the target's system had acknowledged
// nothing of it when it ended the connection.
//
// The body of a 101 is a [*Switched]. The body of any other response may be closed while another
// goroutine reads it. That closes the connection unless the rest of the body is buffered.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.RoundTripTo(req, Address{}, nil)
}

// RoundTripTo is RoundTrip to that address. A plain response uses the memory of into; other
// responses allocate their own. Reset into before it is used again. Nil means that all responses
// allocate their own memory.
func (t *Transport) RoundTripTo(req *http.Request, to Address, into *Scratch) (*http.Response, error) {
	t.once.Do(t.setup)
	o, err := t.prepare(req, to)
	if err != nil {
		closeBody(req.Body)
		return nil, &RequestError{err}
	}
	defer o.free()
	o.into = into
	c, err := t.connect(o, false)
	if err != nil {
		closeBody(o.body)
		return nil, err
	}
	res, failed := c.roundTrip(o)
	for failed != nil && failed.stale {
		if c, err = t.connect(o, false); err != nil {
			closeBody(o.body)
			return nil, err
		}
		res, failed = c.roundTrip(o)
	}
	if failed != nil && c.reused && failed.repeatable(o) && o.rewind() {
		if c, err = t.connect(o, true); err != nil {
			closeBody(o.body)
			return nil, err
		}
		res, failed = c.roundTrip(o)
	}
	if failed != nil {
		return nil, failed.err
	}
	return res, nil
}

// CloseIdleConnections closes the idle connections. Connections in use are closed when they become
// idle, unless another request was made in between.
func (t *Transport) CloseIdleConnections() { t.idle.closeAll() }

// CloseIdleTo closes the idle connections to one address. Connections in use are kept when they
// become idle.
func (t *Transport) CloseIdleTo(to Address) { t.idle.closeTo(to) }

// contextError returns why a context has ended, or nil if it has not. A net.Dialer uses its own
// timer for the deadline, so it may notice the deadline before the context does.
func contextError(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// connect returns an idle connection or a new one.
func (t *Transport) connect(o *outgoing, fresh bool) (*conn, error) {
	if err := o.ctx.Err(); err != nil {
		return nil, context.Cause(o.ctx)
	}
	if o.trace != nil && o.trace.GetConn != nil {
		o.trace.GetConn(o.to.Addr)
	}
	var info httptrace.GotConnInfo
	now := time.Now()
	var c *conn
	if !fresh {
		c = t.idle.get(o.to, now)
	}
	if c != nil {
		info.Reused, info.WasIdle, info.IdleTime = true, true, now.Sub(c.idleSince)
	} else {
		nc, err := t.dial(o.ctx, o.to.Network, o.to.Addr)
		if err != nil {
			if ended := contextError(o.ctx); ended != nil {
				return nil, ended
			}
			return nil, &Error{StageDial, err}
		}
		if nc == nil {
			return nil, &Error{StageDial, errors.New("DialContext gave no connection")}
		}
		c = newConn(t, o.to, nc)
	}
	if o.trace != nil && o.trace.GotConn != nil {
		info.Conn = c.nc
		o.trace.GotConn(info)
	}
	return c, nil
}
