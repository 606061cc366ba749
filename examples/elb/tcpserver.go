package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/wsproxy/stream"
)

// A tcpServer serves a front for TCP or SSL. Each of its turns is a stream.Server, which gets the
// connections of its time.
type tcpServer struct {
	front *front
	now   atomic.Pointer[tcpTurn]

	ending context.Context // ends when the connections of all turns have to
	cut    context.CancelFunc
	turns  sync.WaitGroup
}

type tcpTurn struct {
	server *stream.Server
	feed   *feed
}

func newTCPServer(f *front) *tcpServer {
	s := &tcpServer{front: f}
	s.ending, s.cut = context.WithCancel(context.Background())
	return s
}

func (s *tcpServer) turn(set turnSettings, backend *tls.Config) {
	t := &tcpTurn{
		server: &stream.Server{
			Pool: s.front.pool, TLS: s.front.clientTLS(), BackendTLS: backend, SendProxy: set.sendProxy, Logger: s.front.log,
			Limits: stream.Limits{Idle: set.idle},
		},
		feed: newFeed(s.front.listener.Addr()),
	}
	s.turns.Go(func() { t.server.Serve(t.feed) })
	if before := s.now.Swap(t); before != nil {
		s.turns.Go(func() { before.server.Shutdown(s.ending) })
	}
}

// serve accepts connections until the listener is closed. It waits a little when accepting fails,
// for lack of descriptors for example.
func (s *tcpServer) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(10 * time.Millisecond)
		default:
			s.pass(conn)
		}
	}
}

// pass gives a connection to the turn that is on. It closes the connection if that was the last
// one.
func (s *tcpServer) pass(conn net.Conn) {
	for {
		t := s.now.Load()
		if t.feed.push(conn) {
			return
		}
		if t == s.now.Load() { // turn would have replaced it first
			conn.Close()
			return
		}
	}
}

func (s *tcpServer) shutdown(ctx context.Context) {
	defer context.AfterFunc(ctx, s.cut)()
	s.now.Load().server.Shutdown(ctx)
	s.turns.Wait()
	s.cut()
}
