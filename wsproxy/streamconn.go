package wsproxy

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

// A streamConn is a tunnel's client side over a stream of HTTP/2 or HTTP/3. It reads the request's
// body and writes to the ResponseWriter.
//
// Only the handler's goroutine, on which serve runs, uses the ResponseWriter: net/http panics when
// it is written to after the handler has returned. Write gives serve a copy, so that Close need not
// wait for a peer that does not read. There is no CloseWrite, because net/http ends both directions
// of a stream together, when the handler returns.
type streamConn struct {
	ctx     context.Context // of the request
	w       http.ResponseWriter
	stream  *http.ResponseController
	body    io.ReadCloser
	buffers *bufferPool

	writes  chan []byte   // from Write to serve
	written chan error    // from serve to Write; buffered, because Write may not wait for it after Close
	closed  chan struct{} // closed by Close
	once    sync.Once
	aborted atomic.Bool // by reset

	mu      sync.Mutex
	writing bool // serve writes
}

func newStreamConn(ctx context.Context, w http.ResponseWriter, body io.ReadCloser, buffers *bufferPool) *streamConn {
	return &streamConn{ctx: ctx, w: w, stream: http.NewResponseController(w), body: body, buffers: buffers,
		writes: make(chan []byte), written: make(chan error, 1), closed: make(chan struct{})}
}

// Read implements io.Reader. It returns io.EOF at the end of the stream, and an error after a
// reset.
func (c *streamConn) Read(p []byte) (int, error) { return c.body.Read(p) }

// AwaitRead implements tunnel.Awaiter. A Read of no bytes waits in net/http's streams, although
// io.Reader does not require that. The next Read returns the error.
func (c *streamConn) AwaitRead() { c.body.Read(nil) }

// Write implements io.Writer. It flushes what it writes. It must not be called concurrently.
func (c *streamConn) Write(p []byte) (n int, err error) {
	for n < len(p) {
		buffer := c.buffers.Get()
		chunk := buffer[:copy(buffer, p[n:])]
		select {
		case c.writes <- chunk:
		case <-c.closed:
			c.buffers.Put(buffer)
			return n, net.ErrClosed
		}
		select {
		case err := <-c.written:
			c.buffers.Put(buffer)
			if err != nil {
				return n, err
			}
			n += len(chunk)
		case <-c.closed:
			return n, net.ErrClosed // serve may still have the buffer
		}
	}
	return n, nil
}

// serve writes what Write gets, and returns when the tunnel has ended. It resets the stream if
// bytes of the target are missing.
func (c *streamConn) serve(ended <-chan tunnel.Reason) {
	for {
		select {
		case p := <-c.writes:
			c.written <- c.write(p)
		case by := <-ended:
			if by == tunnel.BackendReadFailed {
				c.reset()
			}
			return
		}
	}
}

// write writes p to the ResponseWriter.
func (c *streamConn) write(p []byte) error {
	c.note(true)
	defer c.note(false)
	select {
	case <-c.closed: // by a Close that did not see this write
		c.reset()
		return net.ErrClosed
	default:
	}
	if _, err := c.w.Write(p); err != nil {
		return err
	}
	return c.stream.Flush()
}

// note sets writing.
func (c *streamConn) note(writing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = writing
}

// PeerReset reports whether the client has reset the stream, or its connection is gone. The tunnel
// cannot notice that itself while it does not read. A deadline of middleware does not count.
func (c *streamConn) PeerReset() bool { return c.ctx.Err() == context.Canceled }

// Close implements io.Closer. It makes Read and Write return. It resets the stream if the peer
// holds up a write. Otherwise the stream ends when the handler returns.
func (c *streamConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.stream.SetReadDeadline(longAgo)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.writing {
			c.reset()
		}
	})
	return nil
}

// reset ends the stream at once with RST_STREAM. In HTTP/3 it only ends a write, and bridge resets
// the stream.
func (c *streamConn) reset() {
	c.aborted.Store(true)
	c.stream.SetWriteDeadline(longAgo)
}

// longAgo is a deadline that has passed. net/http acts on it at once.
var longAgo = time.Unix(1, 0)
