// Package upstream carries requests to plain HTTP/1.1 targets. Where http.Transport runs two
// goroutines for each connection and hands every request from one to the other, a [Transport]
// writes the request and reads the response on the caller's own goroutine; only a request with a
// body starts one, which ends with that body.
//
// It speaks neither TLS nor HTTP/2, knows no proxy and no cookies, adds no User-Agent and no
// Accept-Encoding, and does not support http.Request.Cancel, the method CONNECT, and transfer
// codings other than chunked.
//
// # Security
//
// The bytes of a target are read by http.ReadResponse, with a limit on the size of headers; only a
// header that is plain in every respect, and so could be read in no other way, is taken apart here.
// What is sent is stricter than http.Transport's: a request whose host, target or trailers could be
// read in two ways is refused, and the framing of the message is the transport's alone, however the
// header map spells its names.
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
// fields name. The fields must not be changed after the first request. Its methods are safe for
// concurrent use, and it must not be copied.
//
// It differs from http.Transport in what a caller can see only here: a failed RoundTrip does not
// wait for a Read of the request's body that is under way, so the body may be closed after it
// returned; of idle connections to one target that have gone stale at most one is tried; and the
// end of a context that comes while a request is under way may take 20 ms to be noticed.
type Transport struct {
	// DialContext makes connections; it has to honour its context. Nil means a net.Dialer with
	// DialTimeout and TCP keep-alive. Connections that are neither a *net.TCPConn nor a
	// *net.UnixConn are not looked at before they are used again.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// DialTimeout bounds the dial if DialContext is nil. Zero means 3 seconds, a negative value no
	// bound.
	DialTimeout time.Duration

	// HeaderTimeout bounds the time from the end of the request to the end of the final response's
	// header. Zero means 60 seconds, a negative value no bound. It may take a 64th longer.
	HeaderTimeout time.Duration

	// WriteTimeout bounds the time in which the target takes nothing of a request that is being
	// written. Zero means 60 seconds, a negative value no bound. A socket that was full takes more
	// only when a good part of its send buffer is free, which may be a megabyte.
	WriteTimeout time.Duration

	// ContinueTimeout is how long a body with "Expect: 100-continue" waits for an answer. Zero
	// means 1 second, a negative value not at all.
	ContinueTimeout time.Duration

	// IdleTimeout is how long a connection is kept without a request. Zero means 90 seconds, a
	// negative value for ever. It is closed at most a sixteenth later. That its target has closed
	// it meanwhile is noticed when it is needed, or at the end of that time.
	IdleTimeout time.Duration

	// MaxIdlePerTarget bounds the idle connections to one Address. Zero means 64, a negative value
	// keeps none.
	MaxIdlePerTarget int

	// MaxAge returns how long after it was made a new connection may get another request. Nil, and
	// a result of zero or less, means no limit. A connection that has reached its age is closed
	// when it is idle, at most a second later.
	MaxAge func() time.Duration

	// MaxHeaderBytes bounds the header of a response together with the 1xx ones before it; each 1xx
	// that a httptrace.ClientTrace is given starts anew. Zero means 1 MiB.
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

// An Address says where to dial, as net.Dialer has it. The zero value means TCP to the host and
// port of the request's URL. Connections are kept by their Address, whatever the URLs of their
// requests.
type Address struct{ Network, Addr string }

// orDefault is a limit in time: none is 0.
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

// RoundTrip implements http.RoundTripper. It fails with the cause of the request's context when
// that has ended, with the body's own error when the body could not be read, with an [*Error] when
// the target could not be asked or did not answer properly, and with a [*RequestError] when the
// request cannot be sent to anybody.
//
// A request on a connection that was kept, and turns out closed before a byte is answered, is sent
// once more, on a new connection, if there is no body or a GetBody; and if its method is idempotent
// or its header has an Idempotency-Key, or nothing was written, or (on Linux) the target's system
// had acknowledged nothing of it when it ended the connection.
//
// The body of a 101 is a [*Switched]. The body of any other response may be closed while another
// goroutine reads it; unless the rest is at hand, that closes the connection.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.RoundTripTo(req, Address{}, nil)
}

// RoundTripTo is RoundTrip to that address, with memory for the response, if that is of a plain
// kind; others have their own. Until into is reset, no other response may be read into it. Nil
// means that all have their own.
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

// CloseIdleConnections closes the connections that nobody uses, and those in use as soon as they
// are not needed any more, unless a request came in between.
func (t *Transport) CloseIdleConnections() { t.idle.closeAll() }

// CloseIdleTo closes the connections to one address that nobody uses. Those in use are kept when
// they are not needed any more.
func (t *Transport) CloseIdleTo(to Address) { t.idle.closeTo(to) }

// contextError is why a context has ended; nil when it has not. A net.Dialer has a timer of its own
// for the deadline, and so may know that it has passed before the context does.
func contextError(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// connect gives an idle connection, or a new one.
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
		c = t.kept(o, now)
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

// kept is an idle connection that is still open, and has nothing to read; nil when there is none.
// Where the request can ask it, that is found out only then.
func (t *Transport) kept(o *outgoing, now time.Time) *conn {
	for {
		c := t.idle.get(o.to, now)
		if c == nil || c.asks(o) || c.quiet(now) {
			return c
		}
		c.nc.Close()
	}
}
