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

// An uploadWatch ends an attempt with a body when the target has hung up, or takes nothing of the
// body for too long. Package upstream does so itself, but http.Transport does not. After the target
// has hung up, http.Transport still waits for a Read of the request's body, and so for a client
// that stalls. Its limit on the response's header begins only after the body.
type uploadWatch struct {
	walk   *walk
	cancel context.CancelCauseFunc // of this attempt; the next one may have begun when the timer fires
	limit  time.Duration           // for a target that takes nothing; zero means none

	mu     sync.Mutex
	timer  *time.Timer
	over   bool
	due    time.Time    // when to check the limit next
	conn   net.Conn     // the attempt's; nil before there is one
	reader *attemptBody // sent over conn
	found  bool         // the last look found that the target has hung up
}

// watchPause is the time between two looks. The attempt ends when two looks in a row find that the
// target has hung up. At the first one, the transport may be about to return a response.
const watchPause = 50 * time.Millisecond

// watchUpload watches an attempt until stop is called. It returns the request to send.
func (k *walk) watchUpload(req *http.Request) (watched *http.Request, stop func()) {
	u := &uploadWatch{walk: k, cancel: k.last.under.cancel, limit: k.rt.uploadLimit, reader: k.attempts.reader}
	u.due = k.last.sent.Add(u.limit)
	u.mu.Lock()
	u.timer = time.AfterFunc(watchPause, u.look)
	u.mu.Unlock()
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: u.gotConn})
	return req.WithContext(ctx), u.stop
}

// gotConn is called by the transport before it sends the request, and once more when it sends the
// request again.
func (u *uploadWatch) gotConn(info httptrace.GotConnInfo) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.over {
		u.conn, u.reader = info.Conn, u.walk.attempts.reader
	}
}

// stop ends the watch. If look runs meanwhile, stop waits for it.
func (u *uploadWatch) stop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.timer.Stop()
	u.over = true
}

// look is the function of the timer.
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

// interruptRead ends a Read of the request's body that waits for the client, so that the transport
// returns. The rest of the body cannot be read after that.
func (k *walk) interruptRead() {
	defer func() {
		if v := recover(); v != nil { // of middleware
			k.w.panicked.Store(&flushPanic{v})
		}
	}()
	k.attempts.body.noteCut()
	if k.in.ProtoMajor >= 2 {
		k.attempts.body.interrupt()
	} else {
		http.NewResponseController(k.w.ResponseWriter).SetReadDeadline(longAgo)
	}
}

// isClosed reports whether a transport has closed a connection. It always reports false for one
// that has no file descriptor, also below TLS.
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
