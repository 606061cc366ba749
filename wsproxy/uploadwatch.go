package wsproxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"syscall"
	"time"
)

// An uploadWatch gives up an attempt with a body whose transport does not do so itself.
// http.Transport waits for the Read of the request's body that is under way, even when the target
// has hung up: a client that stalls would hide that. And its limit on the response's header begins
// after the body, while a target may take nothing of it, or a target of HTTP/2 open no window.
// Package upstream sees to both.
type uploadWatch struct {
	walk   *walk
	cancel context.CancelCauseFunc // of this attempt: the timer may fire when the next one has begun
	limit  time.Duration           // on a target that takes nothing; zero means none

	mu     sync.Mutex
	timer  *time.Timer
	over   bool
	due    time.Time    // when the limit may have passed
	conn   net.Conn     // nil until there is one, and when nobody can tell its state
	reader *attemptBody // sent over conn
	found  bool         // the last look has found that the target has hung up
}

// watchPause is the time between two looks. A target that has hung up is told by the second one
// that finds it so: a response may be about to be handed over at the first.
const watchPause = 50 * time.Millisecond

// watchUpload watches an attempt, whose request it returns, until stop is called.
func (k *walk) watchUpload(req *http.Request) (watched *http.Request, stop func()) {
	u := &uploadWatch{walk: k, cancel: k.last.under.cancel, limit: k.rt.uploadLimit, reader: k.attempts.reader}
	u.due = k.last.sent.Add(u.limit)
	u.mu.Lock()
	u.timer = time.AfterFunc(watchPause, u.look)
	u.mu.Unlock()
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: u.gotConn})
	return req.WithContext(ctx), u.stop
}

// gotConn is called before the request is sent, and once more when it is sent again.
func (u *uploadWatch) gotConn(info httptrace.GotConnInfo) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.over {
		u.conn, u.reader = info.Conn, u.walk.attempts.reader
	}
}

// stop waits for a look that has begun.
func (u *uploadWatch) stop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.timer.Stop()
	u.over = true
}

func (u *uploadWatch) look() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over {
		return
	}
	if now := time.Now(); u.limit > 0 && now.After(u.due) {
		left := u.reader.patience(u.limit, u.walk.rt.transports.limits.HeaderTimeout)
		if left <= 0 {
			u.cancel(errUploadStuck)
			return
		}
		u.due = now.Add(left)
	}
	gone := u.reader.source.awaitsClient() && (u.reader.closed.Load() || isClosed(u.conn))
	if gone && u.found {
		u.cancel(errHungUp)
		if !u.reader.closed.Load() { // HTTP/1.1: the transport waits for the Read
			u.walk.interruptRead()
		}
		return
	}
	u.found = gone
	u.timer.Reset(watchPause)
}

// interruptRead ends the Read of the request's body that is under way, so that the transport
// returns. The body is lost.
func (k *walk) interruptRead() {
	defer func() {
		if v := recover(); v != nil { // of middleware
			k.w.panicked.Store(&flushPanic{v})
		}
	}()
	k.attempts.body.cut.Store(true)
	if k.in.ProtoMajor >= 2 {
		k.attempts.body.interrupt()
	} else {
		http.NewResponseController(k.w.ResponseWriter).SetReadDeadline(longAgo)
	}
}

// isClosed reports whether a transport has closed a connection. It can tell for those of the
// system, and TLS over them.
func isClosed(c net.Conn) bool {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	s, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	return err != nil || raw.Control(func(uintptr) {}) != nil
}
