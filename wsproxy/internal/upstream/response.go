package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http/httpguts"
)

// A body is the body of a response. At its end it gives the connection back.
type body struct {
	src   io.Reader // removes the framing; nil if the length is known
	c     *conn
	s     *sending // the body of the request; nil without one
	ctx   context.Context
	trace *httptrace.ClientTrace
	keep  bool  // the connection may be reused
	left  int64 // bytes still to come; negative if unknown

	mu      sync.Mutex
	reading bool
	closed  bool
	err     error // the error that ended the body
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	if b.closed || b.err != nil {
		defer b.mu.Unlock()
		if b.closed {
			return 0, errClosedBody
		}
		return 0, b.err
	}
	b.reading = true
	b.mu.Unlock()

	n, err := b.read(p)

	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
	if b.left > 0 {
		b.left -= int64(n)
	}
	switch {
	case err == io.EOF && !b.closed:
		b.c.recycle(b.keep, b.s, b.trace)
	case err != nil || b.closed:
		b.give()
	}
	if err != nil && err != io.EOF {
		err = b.reason(err)
	}
	b.err = err
	return n, err
}

// read calls src.Read, or does its work if src is nil.
func (b *body) read(p []byte) (int, error) {
	if b.src != nil {
		return b.src.Read(p)
	}
	p = p[:min(int64(len(p)), b.left)]
	n, err := b.c.br.Read(p)
	switch {
	case int64(n) == b.left:
		return n, io.EOF
	case err == io.EOF:
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

// A Waiter has a method that is called before a Read of a response's body waits for the target, on
// the goroutine of that Read.
type Waiter interface{ KeepsWaiting() }

// OnWait makes w's method be called whenever a Read is about to wait. Where the system cannot tell,
// it is called before each Read of the connection. Call OnWait before the first Read.
func (b *body) OnWait(w Waiter) { b.c.onWait = w }

// give gives up a connection that cannot be reused.
func (b *body) give() {
	b.c.nc.Close()
	b.c.release()
}

// reason returns the cause for which the body broke off. It is err unless a better one is known.
func (b *body) reason(err error) error {
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	if b.closed {
		return errClosedBody
	}
	if b.s != nil {
		if e := b.s.callers(); e != nil {
			return e
		}
		if errors.Is(err, syscall.ECONNRESET) { // the target may have closed with parts of the request unread
			return &Error{StageWrite, err}
		}
	}
	return err
}

// Close implements io.Closer.
func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	switch {
	case b.err != nil:
	case b.reading:
		b.c.nc.Close() // the Read in progress does the rest
	case b.left > 0 && b.left <= int64(b.c.br.Buffered()):
		b.c.br.Discard(int(b.left))
		b.c.recycle(b.keep, b.s, b.trace)
	default:
		b.give()
	}
	return nil
}

// isSwitch reports whether a response hands over the connection (RFC 9110 section 7.8).
func isSwitch(res *http.Response) bool {
	return res.StatusCode == http.StatusSwitchingProtocols && res.Header.Get("Upgrade") != "" &&
		httpguts.HeaderValuesContainsToken(res.Header["Connection"], "upgrade")
}

// A Switched is the body of a 101: the connection itself. The request's context no longer closes
// it. The caller has to close it or take it. Reads must not be concurrent with each other or with
// Take.
type Switched struct {
	conn  net.Conn
	early []byte // bytes that were read together with the response
}

var _ io.ReadWriteCloser = (*Switched)(nil)

// hand hands the connection to the caller of RoundTrip.
func (c *conn) hand(res *http.Response, s *sending) error {
	if s != nil && !s.finished() {
		return errEarlySwitch
	}
	early := early(c.br)
	if !c.release() {
		return net.ErrClosed
	}
	if err := c.nc.SetDeadline(time.Time{}); err != nil {
		return err
	}
	res.Body = &Switched{conn: c.nc, early: early}
	return nil
}

func early(br *bufio.Reader) []byte {
	waiting, _ := br.Peek(br.Buffered())
	return slices.Clone(waiting)
}

// Read implements io.Reader.
func (s *Switched) Read(p []byte) (int, error) {
	if len(s.early) > 0 {
		n := copy(p, s.early)
		s.early = s.early[n:]
		return n, nil
	}
	return s.conn.Read(p)
}

// Write implements io.Writer.
func (s *Switched) Write(p []byte) (int, error) { return s.conn.Write(p) }

// Close implements io.Closer.
func (s *Switched) Close() error { return s.conn.Close() }

// CloseWrite sends the end of stream if the connection can.
func (s *Switched) CloseWrite() error {
	if c, ok := s.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return fmt.Errorf("upstream: CloseWrite: %w", errors.ErrUnsupported)
}

// Take returns the connection as it was dialed, and the bytes that were read from it but not yet
// from s. After Take, s may only be closed; that still closes the connection.
func (s *Switched) Take() (conn net.Conn, early []byte) { return s.conn, s.early }
