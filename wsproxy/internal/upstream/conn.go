package upstream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"sync/atomic"
	"time"
)

// A conn is a connection to a target. It belongs to one request at a time, or to the pool.
type conn struct {
	t         *Transport
	to        Address
	nc        net.Conn
	raw       rawConn
	close     func() // nc.Close, for context.AfterFunc
	idleSince time.Time
	age       time.Duration // the greatest age it may reach; 0 means no limit
	expires   time.Time     // no request may begin on it after that; zero means never
	reused    bool

	request  []byte        // the request that the first Read has to write; see ask
	onWait   Waiter        // see body.OnWait; may be nil
	br       *bufio.Reader // reads from this conn; nil while it is idle
	limit    int           // how many more bytes the header may have; negative while the body is read
	deadline time.Time     // the read deadline; zero without one
	progress time.Time     // the write deadline; zero without one
	sawEOF   bool
	broken   bool         // part of a request was written
	copied   []byte       // a copy of the header that is being read; nil when none is needed
	out      atomic.Int64 // bytes of the request that were written

	// Used by watch. ctx is nil while no request is watched. stop is nil until watch listens to
	// ctx.
	ctx   context.Context
	stop  func() bool
	round uint64
	place int
}

const readerSize = 4 << 10

func newConn(t *Transport, to Address, nc net.Conn) *conn {
	c := &conn{t: t, to: to, nc: nc, close: func() { nc.Close() }}
	if t.MaxAge != nil {
		if age := t.MaxAge(); age > 0 {
			c.age, c.expires = age, time.Now().Add(age)
		}
	}
	c.raw.open(nc)
	return c
}

// Read implements io.Reader for br.
func (c *conn) Read(p []byte) (int, error) {
	switch {
	case c.limit > 0:
		p = p[:min(len(p), c.limit)]
	case c.limit == 0:
		return 0, errHeaderTooLong
	case !c.deadline.IsZero():
		c.setDeadline(time.Time{})
	}
	n, err := c.read(p)
	if err == io.EOF {
		c.sawEOF = true
	}
	if c.limit > 0 {
		c.limit -= n
	}
	if c.copied != nil {
		c.copied = append(c.copied, p[:n]...)
	}
	return n, err
}

// read calls onWait before it waits.
func (c *conn) read(p []byte) (int, error) {
	if request := c.request; request != nil {
		c.request = nil
		return c.ask(request, p)
	}
	if c.onWait != nil {
		if n, err, waits := c.tryRead(p); !waits {
			return n, err
		}
		c.onWait.KeepsWaiting()
	}
	return c.nc.Read(p)
}

func (c *conn) setDeadline(d time.Time) {
	c.deadline = d
	c.nc.SetReadDeadline(d)
}

// expectHeader sets the deadline for the header. Setting one costs time in the runtime, so each is
// set a little later than necessary. Then the deadline of an earlier request is reused unless it is
// too early.
func (c *conn) expectHeader() {
	timeout := c.t.headerTimeout()
	if timeout == 0 {
		return
	}
	if now := time.Now(); c.deadline.Before(now.Add(timeout)) {
		c.setDeadline(now.Add(timeout + timeout/64))
	}
}

// begin binds the connection to the context of a request. When the context ends, the connection is
// closed.
func (c *conn) begin(ctx context.Context) {
	c.br, _ = c.t.readers.Get().(*bufio.Reader)
	if c.br == nil {
		c.br = bufio.NewReaderSize(c, readerSize)
	} else {
		c.br.Reset(c)
	}
	c.limit = c.t.maxHeaderBytes()
	c.out.Store(0)
	c.t.watch.begin(ctx, c)
}

// release ends what begin began. It returns what watch.end returns. Nobody may read from the
// connection any more.
func (c *conn) release() bool {
	if c.br != nil {
		c.br.Reset(nil)
		c.t.readers.Put(c.br)
		c.br = nil
	}
	c.request, c.onWait = nil, nil
	return c.t.watch.end(c)
}

// recycle ends a request whose response has been read. It keeps the connection if another request
// may use it.
func (c *conn) recycle(keep bool, s *sending, trace *httptrace.ClientTrace) {
	keep = keep && !c.sawEOF && !c.broken && c.br.Buffered() == 0 && (s == nil || s.finished())
	if !c.release() || !keep {
		c.nc.Close()
		return
	}
	c.reused = true
	err := c.t.idle.put(c)
	if err != nil {
		c.nc.Close()
	}
	if trace != nil && trace.PutIdleConn != nil {
		trace.PutIdleConn(err)
	}
}

const (
	// inlineHeader is the longest header that the caller's goroutine writes itself. A header of
	// this size fits into the sockets' buffers even if the target does not read.
	inlineHeader = 16 << 10
	// lastWords is how long to wait for a response when the request could not be written: the
	// target may have sent the reason before it closed the connection. If the socket cannot be
	// written to any more, the wait ends at once.
	lastWords = time.Second
)

// roundTrip sends the request and reads the header of its response. If it fails, it closes the
// connection.
func (c *conn) roundTrip(o *outgoing) (*http.Response, *failure) {
	c.begin(o.ctx)
	// Hooks of the trace were called since the connection was taken, so look at it only now.
	if c.reused && !c.asks(o) && !c.quiet(time.Now()) {
		f := c.failed(o, nil, &failure{err: &Error{StageHeader, errNotSilent}, stale: true})
		if !f.stale {
			closeBody(o.body)
		}
		return nil, f
	}
	s, n, err := c.send(o)
	if err != nil {
		closeBody(o.body)
		if n == 0 {
			return nil, c.failed(o, nil, &failure{err: &Error{StageWrite, err}})
		}
		c.broken = true
		c.setDeadline(time.Now().Add(lastWords))
	}
	res, heard, failed := c.receive(o, s)
	if failed == nil {
		return res, nil
	}
	f := &failure{err: &Error{StageHeader, failed}, written: true, silent: !heard && !IsTimeout(failed)}
	f.untaken = f.silent && failed == io.EOF && c.untaken()
	unsent, _ := failed.(*unsentError)
	switch {
	case failed == errNotSilent:
		f.written, f.stale = false, true
	case unsent != nil:
		f.err, f.written = &Error{StageWrite, unsent.error}, unsent.n > 0
	case err != nil:
		f.err = &Error{StageWrite, err}
	case IsTimeout(failed):
		f.err = &Error{StageHeaderTimeout, failed}
	}
	return nil, c.failed(o, s, f)
}

// failed closes the connection and decides what the error was. The reason may also be the end of
// the context or an error of the request's body.
func (c *conn) failed(o *outgoing, s *sending, f *failure) *failure {
	if s != nil {
		if err := s.failure(); err != nil { // ask before closing the connection, which would become the reason
			f.err = err
		}
	}
	c.nc.Close()
	c.release()
	if s != nil {
		f.written = s.abandon()
		f.final = s.callers() != nil
	}
	if o.ctx.Err() != nil {
		f.err, f.stale = context.Cause(o.ctx), false
	}
	return f
}

// asks reports whether ask is used: the check of the idle connection, the request and the wait for
// the answer are then one step.
func (c *conn) asks(o *outgoing) bool { return c.reused && c.canAsk() && o.plain() }

// send writes the header. If there is a body, it starts a goroutine that sends it. If the header
// cannot be written completely, send returns how many bytes were written, and starts no goroutine.
func (c *conn) send(o *outgoing) (s *sending, n int, err error) {
	inline := len(o.header) <= inlineHeader
	if c.asks(o) {
		c.expectHeader()
		c.request = o.header
		return nil, 0, nil
	}
	if inline {
		if n, err = c.write(o.header); err != nil {
			tellRequest(o.trace, err)
			return nil, n, err
		}
		o.tellFields()
		if o.body == nil {
			tellRequest(o.trace, nil)
			c.expectHeader()
			return nil, n, nil
		}
	}
	if !c.deadline.IsZero() { // the deadline is an earlier request's, and the body may take longer
		c.setDeadline(time.Time{})
	}
	s = &sending{c: c, body: o.body, length: o.length, trailer: o.req.Trailer, trace: o.trace, written: inline,
		done: make(chan struct{})}
	if o.expect {
		s.proceed = make(chan bool, 1)
	}
	if !inline {
		o.tellFields()
		s.header = bytes.Clone(o.header) // the goroutine may outlive o, and another attempt needs o.header
	}
	go s.run()
	return s, n, nil
}

// writeSteps is the number of steps in which a write waits for the target. Bytes that a step's
// Write has written before its deadline show as progress only at the end of the step.
const writeSteps = 8

// write writes all of p. It fails if the target takes nothing for too long.
func (c *conn) write(p []byte) (written int, err error) {
	step := orDefault(c.t.WriteTimeout, 60*time.Second) / writeSteps
	for idle := 0; ; {
		var deadline time.Time
		if step > 0 {
			deadline = c.expectProgress(step)
		}
		n, err := c.nc.Write(p[written:])
		written += n
		c.out.Add(int64(n))
		switch {
		case err == nil || !errors.Is(err, os.ErrDeadlineExceeded):
			return written, err
		case n > 0:
			idle = 0
		default:
			idle++
		}
		if idle == writeSteps || n == 0 && time.Now().Before(deadline) { // a hook has set a deadline of its own
			return written, err
		}
	}
}

// expectProgress returns the deadline of a Write, which is at least a step away. Like expectHeader,
// it reuses that of an earlier Write unless it is too early.
func (c *conn) expectProgress(step time.Duration) time.Time {
	if now := time.Now(); c.progress.Before(now.Add(step)) {
		c.progress = now.Add(step + step/64)
		c.nc.SetWriteDeadline(c.progress)
	}
	return c.progress
}

func tellRequest(trace *httptrace.ClientTrace, err error) {
	if trace != nil && trace.WroteRequest != nil {
		trace.WroteRequest(httptrace.WroteRequestInfo{Err: err})
	}
}

// receive reads the header of the final response and reports the 1xx responses before it to the
// trace. heard reports whether the target has answered at all.
func (c *conn) receive(o *outgoing, s *sending) (res *http.Response, heard bool, err error) {
	var b *body
	if _, err = c.br.Peek(1); err != nil {
		return nil, false, err
	}
	if o.trace != nil && o.trace.GotFirstResponseByte != nil {
		o.trace.GotFirstResponseByte()
	}
	for {
		if res, b, err = c.readHeader(o); err != nil {
			if c.limit == 0 {
				err = errHeaderTooLong
			}
			return nil, true, err
		}
		if res.StatusCode < 100 || res.StatusCode > 199 || res.StatusCode == http.StatusSwitchingProtocols {
			break
		}
		if err = c.inform(o, s, res); err != nil {
			return nil, true, err
		}
	}
	c.limit = -1
	if s != nil {
		s.answer()
	}
	if isSwitch(res) {
		return res, true, c.hand(res, s)
	}
	keep := !res.Close && !o.req.Close && res.StatusCode > 199 && !offersLogin(res)
	if res.Body == http.NoBody {
		c.recycle(keep, s, o.trace)
		return res, true, nil
	}
	b.c, b.s, b.ctx, b.trace, b.keep, b.left = c, s, o.ctx, o.trace, keep, res.ContentLength
	res.Body = b
	return res, true, nil
}

// readHeader reads the header of a response. The body is not connected yet.
func (c *conn) readHeader(o *outgoing) (*http.Response, *body, error) {
	if a := c.readPlain(o.req, o.into); a != nil {
		return &a.Response, &a.body, nil
	}
	if start, _ := c.br.Peek(c.br.Buffered()); mayClose(start) {
		c.copied = append(make([]byte, 0, 2*len(start)), start...)
	}
	res, err := http.ReadResponse(c.br, o.req)
	header := c.copied
	c.copied = nil
	if err != nil {
		return nil, nil, err
	}
	if res.Close && len(res.Header["Connection"]) == 0 && res.StatusCode != http.StatusSwitchingProtocols {
		restoreConnection(res.Header, header)
	}
	return res, &body{src: res.Body}, nil
}

// inform reports a 1xx response to the trace. A trace has to limit their number itself. Without a
// trace all of them count as one header.
func (c *conn) inform(o *outgoing, s *sending, res *http.Response) error {
	if s != nil && res.StatusCode == http.StatusContinue && s.goOn() && o.trace != nil && o.trace.Got100Continue != nil {
		o.trace.Got100Continue()
	}
	if o.trace == nil || o.trace.Got1xxResponse == nil {
		return nil
	}
	c.limit = c.t.maxHeaderBytes()
	return o.trace.Got1xxResponse(res.StatusCode, textproto.MIMEHeader(res.Header))
}
