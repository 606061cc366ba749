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

// A body is that of a response. When it is at its end it gives the connection back.
type body struct {
	src   io.Reader // takes the framing off; nil when there is none but the length, and it is known
	c     *conn
	s     *sending // nil when the request had no body
	ctx   context.Context
	trace *httptrace.ClientTrace
	keep  bool  // the connection may be used again
	left  int64 // bytes that are still to come; negative when unknown

	mu      sync.Mutex
	reading bool
	closed  bool
	err     error // that ended it
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

// read is src's, or does what it would do.
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

// A Waiter is told by the goroutine that reads a response's body, before it has to wait for the target.
type Waiter interface{ KeepsWaiting() }

// OnWait has w told whenever a Read is about to wait. Where the system cannot tell, that is before each Read of the
// connection. OnWait must be called before the first Read.
func (b *body) OnWait(w Waiter) { b.c.onWait = w }

// give ends the use of a connection that is of no use any more.
func (b *body) give() {
	b.c.nc.Close()
	b.c.release()
}

// reason is why the body broke off, if we know better than the connection.
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
		if errors.Is(err, syscall.ECONNRESET) { // as a close does while parts of the request are unread
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
		b.c.nc.Close() // the Read does the rest
	case b.left > 0 && b.left <= int64(b.c.br.Buffered()):
		b.c.br.Discard(int(b.left))
		b.c.recycle(b.keep, b.s, b.trace)
	default:
		b.give()
	}
	return nil
}

// isSwitch reports whether a response hands the connection over (RFC 9110 section 7.8).
func isSwitch(res *http.Response) bool {
	return res.StatusCode == http.StatusSwitchingProtocols && res.Header.Get("Upgrade") != "" &&
		httpguts.HeaderValuesContainsToken(res.Header["Connection"], "upgrade")
}

// A Switched is the body of a 101: the connection itself, which the request's context governs no more. It has to be
// closed, or taken. Reads must not be concurrent with each other or with Take.
type Switched struct {
	conn  net.Conn
	early []byte // came with the response
}

var _ io.ReadWriteCloser = (*Switched)(nil)

// hand lets go of the connection, for the caller of RoundTrip to have it.
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

// CloseWrite tells the target that nothing more is written, if the connection can do so.
func (s *Switched) CloseWrite() error {
	if c, ok := s.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return fmt.Errorf("upstream: CloseWrite: %w", errors.ErrUnsupported)
}

// Take gives the connection as it was dialled, and what has been read from it and not from s. From then on nothing must be
// done with s, but that Close still closes the connection.
func (s *Switched) Take() (conn net.Conn, early []byte) { return s.conn, s.early }
