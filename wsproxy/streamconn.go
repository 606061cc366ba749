package wsproxy

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

// A streamConn is a tunnel's client side over a stream of HTTP/2: the request's body and the ResponseWriter.
//
// The ResponseWriter is the handler's goroutine's alone, which serve runs on: net/http panics when it is written to after
// that has returned. Write hands it a copy, so that Close need not wait for a peer that does not read. There is no
// CloseWrite: net/http ends a stream towards the client only together with the other direction, when the handler
// returns.
type streamConn struct {
	ctx     context.Context // of the request
	w       http.ResponseWriter
	stream  *http.ResponseController
	body    io.ReadCloser
	buffers *bufferPool

	writes  chan []byte   // to serve
	written chan error    // from serve; has room for the answer that nobody waits for
	closed  chan struct{} // by Close
	once    sync.Once

	mu      sync.Mutex
	writing bool // a Write has given serve something, and has no answer yet
}

func newStreamConn(ctx context.Context, w http.ResponseWriter, body io.ReadCloser, buffers *bufferPool) *streamConn {
	return &streamConn{ctx: ctx, w: w, stream: http.NewResponseController(w), body: body, buffers: buffers,
		writes: make(chan []byte), written: make(chan error, 1), closed: make(chan struct{})}
}

// Read implements io.Reader. The end of the stream is io.EOF, its reset an error.
func (c *streamConn) Read(p []byte) (int, error) { return c.body.Read(p) }

// Write implements io.Writer. What it has written is flushed. It must not be called concurrently.
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

// serve writes what Write is given, until the tunnel has ended. It returns when the stream may end, or has been reset:
// because something that it should have carried is lost.
func (c *streamConn) serve(ended <-chan tunnel.End) {
	for {
		select {
		case p := <-c.writes:
			c.written <- c.write(p)
		case end := <-ended:
			if end.By == tunnel.BackendReadFailed {
				c.reset()
			}
			return
		}
	}
}

func (c *streamConn) write(p []byte) error {
	c.note(true)
	defer c.note(false)
	select {
	case <-c.closed: // before it could see that there is something to write
		c.reset()
		return net.ErrClosed
	default:
	}
	if _, err := c.w.Write(p); err != nil {
		return err
	}
	return c.stream.Flush()
}

func (c *streamConn) note(writing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = writing
}

// PeerReset reports whether the client has reset the stream, or its connection is gone: what the tunnel cannot see while it
// does not read. A deadline of middleware's is not the client's doing.
func (c *streamConn) PeerReset() bool { return c.ctx.Err() == context.Canceled }

// Close implements io.Closer: a Read and a Write that are under way return. One that the peer holds up resets the
// stream. Otherwise the stream's end is left to the handler's.
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

// reset ends the stream at once with RST_STREAM.
func (c *streamConn) reset() { c.stream.SetWriteDeadline(longAgo) }

// longAgo is a deadline that has passed: net/http acts on it at once.
var longAgo = time.Unix(1, 0)
