package tunnel_test

import (
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

// duplex is a connection in memory, for synctest bubbles: it knows half-close and has no
// buffer, so a Write ends when the peer has read it.
type duplex struct {
	r *io.PipeReader
	w *io.PipeWriter
}

// newDuplex returns the two ends of a connection.
func newDuplex() (a, b *duplex) {
	ar, bw := io.Pipe()
	br, aw := io.Pipe()
	return &duplex{ar, aw}, &duplex{br, bw}
}

func (d *duplex) Read(p []byte) (int, error)  { return d.r.Read(p) }
func (d *duplex) Write(p []byte) (int, error) { return d.w.Write(p) }
func (d *duplex) CloseWrite() error           { return d.w.Close() }

func (d *duplex) Close() error {
	d.r.Close()
	return d.w.Close()
}

// fail makes the peer's reads end with err, and its writes too.
func (d *duplex) fail(err error) {
	d.r.CloseWithError(err)
	d.w.CloseWithError(err)
}

// counted is a connection in the tunnel's hands. It counts Closes and lets a test break it.
type counted struct {
	io.ReadWriteCloser
	mu       sync.Mutex
	closes   int
	ends     int // CloseWrites
	writeErr error
}

func (c *counted) Close() error {
	c.mu.Lock()
	c.closes++
	c.mu.Unlock()
	return c.ReadWriteCloser.Close()
}

func (c *counted) Write(p []byte) (int, error) {
	c.mu.Lock()
	err := c.writeErr
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return c.ReadWriteCloser.Write(p)
}

func (c *counted) breakWrites(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeErr = err
}

// countedHalf is a counted connection that has CloseWrite.
type countedHalf struct{ *counted }

func (c countedHalf) CloseWrite() error {
	c.mu.Lock()
	c.ends++
	c.mu.Unlock()
	return c.ReadWriteCloser.(interface{ CloseWrite() error }).CloseWrite()
}

// bubble is a tunnel in a synctest bubble over connections in memory.
type bubble struct {
	*opened
	client, backend         *duplex  // the outer ends
	clientConn, backendConn *counted // what the tunnel has
}

// inBubble runs f with a tunnel. Half says whether its connections have CloseWrite. When f has
// returned the tunnel must have ended; it is checked that both connections were closed once and
// that Done was called once.
func inBubble(t *testing.T, half bool, o tunnel.Options, f func(t *testing.T, b *bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := new(bubble)
		var near, far *duplex
		b.client, near = newDuplex()
		b.backend, far = newDuplex()
		b.clientConn, b.backendConn = &counted{ReadWriteCloser: near}, &counted{ReadWriteCloser: far}
		client, backend := tunnel.Side{Conn: b.clientConn}, tunnel.Side{Conn: b.backendConn}
		if half {
			client.Conn, backend.Conn = countedHalf{b.clientConn}, countedHalf{b.backendConn}
		}
		b.opened = start(t, client, backend, o)
		f(t, b)
		synctest.Wait()
		require.True(t, isOver(b.Tunnel))
		require.Equal(t, 1, b.clientConn.closes)
		require.Equal(t, 1, b.backendConn.closes)
		b.client.Close()
		b.backend.Close()
		time.Sleep(time.Minute) // what f left behind sees that
		require.Empty(t, b.ended, "Done was called twice, or its report was not looked at")
	})
}

// end waits for the tunnel's end; a bubble that waits for ever panics.
func (b *bubble) end() tunnel.End { return <-b.ended }

// write sends s and expects that it is taken.
func write(t testing.TB, w io.Writer, s string) {
	t.Helper()
	_, err := io.WriteString(w, s)
	require.NoError(t, err)
}

// expect reads exactly s.
func expect(t testing.TB, r io.Reader, s string) {
	t.Helper()
	got := make([]byte, len(s))
	_, err := io.ReadFull(r, got)
	require.NoError(t, err)
	require.Equal(t, s, string(got))
}

// expectEOF reads end of stream.
func expectEOF(t testing.TB, r io.Reader) {
	t.Helper()
	n, err := r.Read(make([]byte, 1))
	require.Zero(t, n)
	require.ErrorIs(t, err, io.EOF)
}

var errBroken = errors.New("broken")
