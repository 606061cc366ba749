package stream_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// A bubble is a server in a synctest bubble: its connections are pairs of pipes.
type bubble struct {
	*stream.Server
	*pipeListener
	far     chan net.Conn // the ends that targets have
	records chan stream.Record
	served  chan error
}

// newBubble serves until the test ends. With a nil pool it makes one with one target.
func newBubble(t *testing.T, s *stream.Server) *bubble {
	t.Helper()
	b := &bubble{
		s, newPipeListener(), make(chan net.Conn, 10), make(chan stream.Record, 10), make(chan error, 1),
	}
	if s.Pool == nil {
		s.Pool = newPool(t, balancer.Config{}, target("a", "192.0.2.1:1"))
	}
	if s.Dial == nil {
		s.Dial = func(context.Context, *balancer.Member) (net.Conn, error) {
			near, far := newDuplex()
			b.far <- far
			return near, nil
		}
	}
	s.Logger, s.Trace = noLog, &stream.Trace{Done: func(rec stream.Record) { b.records <- rec }}
	go func() { b.served <- s.Serve(b.pipeListener) }()
	t.Cleanup(func() { s.Close() })
	return b
}

// open returns both ends of a connection.
func (b *bubble) open(t *testing.T) (client, far net.Conn) {
	t.Helper()
	client = b.dial()
	return client, <-b.far
}

// A pipeListener accepts the connections that dial makes.
type pipeListener struct {
	conns  chan net.Conn
	errs   chan error // for Accept to return
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), errs: make(chan error), closed: make(chan struct{})}
}

func (l *pipeListener) dial() net.Conn {
	client, near := newDuplex()
	l.conns <- near
	return client
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case err := <-l.errs:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return nil }

// A duplex is one end of two pipes, so that each direction can end by itself.
type duplex struct {
	net.Conn // its Read, its deadlines for reading
	out      net.Conn
}

func newDuplex() (one, other net.Conn) {
	a, b := net.Pipe()
	c, d := net.Pipe()
	return &duplex{a, c}, &duplex{d, b}
}

func (d *duplex) Write(p []byte) (int, error) { return d.out.Write(p) }

func (d *duplex) SetWriteDeadline(t time.Time) error { return d.out.SetWriteDeadline(t) }

func (d *duplex) SetDeadline(t time.Time) error {
	d.Conn.SetReadDeadline(t)
	return d.out.SetWriteDeadline(t)
}

func (d *duplex) CloseWrite() error { return d.out.Close() }

func (d *duplex) Close() error {
	d.out.Close()
	return d.Conn.Close()
}

func (d *duplex) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	if err == io.ErrClosedPipe {
		err = net.ErrClosed
	}
	return n, err
}
