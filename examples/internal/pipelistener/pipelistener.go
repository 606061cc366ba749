// Package pipelistener has a listener in memory, for tests in a synctest bubble.
package pipelistener

import (
	"context"
	"net"
)

// A Listener accepts the connections that Connect makes. Its methods may be called concurrently.
type Listener struct {
	conns  chan net.Conn
	closed context.Context
	close  context.CancelFunc
}

// New returns a listener.
func New() *Listener {
	l := &Listener{conns: make(chan net.Conn)}
	l.closed, l.close = context.WithCancel(context.Background())
	return l
}

// Connect returns the client's end of a new connection when the other end is accepted. It returns
// net.ErrClosed if the listener is closed.
func (l *Listener) Connect() (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.closed.Done():
		return nil, net.ErrClosed
	}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed.Done():
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener. The address means nothing.
func (l *Listener) Addr() net.Addr { return &net.TCPAddr{} }

// Close implements net.Listener. Connections that were accepted stay open.
func (l *Listener) Close() error {
	l.close()
	return nil
}
