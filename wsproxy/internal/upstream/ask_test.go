package upstream_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// dialling is a transport that shows its connections when they have been made ready.
func dialling(t *testing.T, ready func(*net.TCPConn)) *upstream.Transport {
	rt := &upstream.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			ready(c.(*net.TCPConn))
		}
		return c, err
	}}
	t.Cleanup(rt.CloseIdleConnections)
	return rt
}

// A header that a kept connection does not take at once is written to its end, whatever the target
// has read before.
func TestTransport_AsksInPieces(t *testing.T) {
	b := newBackendOn(t, smallReceiveBuffer(t), func(p *peer) {
		if p.request() == nil || p.say(ok) != nil {
			return
		}
		arrived := 0
		leaktest.Polled(func() bool { // until nothing more comes
			before := arrived
			arrived = atHand(t, p.Conn)
			return arrived > 0 && arrived == before
		})
		if req := p.request(); req != nil {
			p.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + req.Header.Get("X-Long")[:5])
		}
		p.gone()
	})
	rt := dialling(t, func(c *net.TCPConn) { c.SetWriteBuffer(1 << 10) })
	require.Equal(t, "ok", get(t, rt, b.url))
	req := newRequest(t, http.MethodGet, b.url, nil)
	req.Header.Set("X-Long", strings.Repeat("large", 3000))
	_, body := ask(t, rt, req)
	require.Equal(t, "large", body)
	require.EqualValues(t, 1, b.conns.Load())
}

// A kept connection that nothing can be written to was not asked: any request without a body goes
// to another one.
func TestTransport_AsksNobodyWhoCannotHear(t *testing.T) {
	var first *net.TCPConn
	rt := dialling(t, func(c *net.TCPConn) {
		if first == nil {
			first = c
		}
	})
	b := newBackend(t, func(p *peer) {
		if p.request() != nil && p.say(ok) == nil {
			<-p.ctx.Done() // and says nothing more, not even that it is closed
		}
	})
	require.Equal(t, "ok", get(t, rt, b.url))
	require.NoError(t, first.CloseWrite())
	require.Equal(t, "ok", get(t, rt, b.url))
	require.EqualValues(t, 2, b.conns.Load())
}

// A target that has closed several connections costs none of the requests that would have used
// them, safe or not.
func TestTransport_AsksTheNextOne(t *testing.T) {
	closing := make(chan struct{})
	b := newBackend(t, func(p *peer) {
		if p.request() == nil || p.say(ok) != nil {
			return
		}
		if p.n <= 3 {
			<-closing
			return
		}
		always(ok)(p)
	})
	var conns []net.Conn
	rt := dialling(t, func(c *net.TCPConn) { conns = append(conns, c) })
	var open []*http.Response
	for range 3 {
		res, err := rt.RoundTrip(newRequest(t, http.MethodGet, b.url, nil))
		require.NoError(t, err)
		open = append(open, res)
	}
	for _, res := range open {
		_, err := io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
	}
	close(closing)
	for _, c := range conns {
		require.True(t, leaktest.Polled(func() bool { return readable(t, c) }))
	}
	for range 2 {
		_, body := ask(t, rt, newRequest(t, http.MethodPost, b.url, nil))
		require.Equal(t, "ok", body)
	}
	require.EqualValues(t, 4, b.conns.Load())
}

// On a kept connection too, limits and contexts end what takes too long, and a target that only
// closes gives no answer.
func TestTransport_AskEnds(t *testing.T) {
	tests := map[string]struct {
		limit time.Duration
		play  func(p *peer, cancel func())
		check func(t *testing.T, err error)
	}{
		"limit": {100 * time.Millisecond, func(p *peer, _ func()) { p.gone() }, func(t *testing.T, err error) {
			failed, ok := errors.AsType[*upstream.Error](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, upstream.StageHeaderTimeout, failed.Stage)
			require.True(t, failed.Timeout())
		}},
		"context": {time.Minute, func(p *peer, cancel func()) {
			cancel()
			p.gone()
		}, func(t *testing.T, err error) { require.ErrorIs(t, err, errWhy) }},
		"reset": {time.Minute, func(p *peer, _ func()) { p.Conn.(*net.TCPConn).SetLinger(0) }, func(t *testing.T, err error) {
			failed, ok := errors.AsType[*upstream.Error](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, upstream.StageHeader, failed.Stage)
			_, ok = errors.AsType[*net.OpError](err)
			require.True(t, ok, "%v", err)
		}},
		"close": {time.Minute, func(*peer, func()) {}, func(t *testing.T, err error) {
			failed, ok := errors.AsType[*upstream.Error](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, upstream.StageHeader, failed.Stage)
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			b := newBackend(t, func(p *peer) {
				if p.request() == nil || p.say(ok) != nil || p.request() == nil {
					return
				}
				tt.play(p, func() { cancel(errWhy) })
			})
			rt := answered(t, b, tt.limit)
			conns := b.conns.Load()
			_, err := rt.RoundTrip(newRequest(t, http.MethodPost, b.url, nil).WithContext(ctx))
			require.Error(t, err)
			tt.check(t, err)
			require.Equal(t, conns, b.conns.Load())
		})
	}
}

// answered is a transport with a kept connection. Its limit is longer on a machine that was too
// slow for the first answer.
func answered(t *testing.T, b *backend, limit time.Duration) *upstream.Transport {
	for ; ; limit *= 4 {
		rt := &upstream.Transport{HeaderTimeout: limit, DialTimeout: patience}
		t.Cleanup(rt.CloseIdleConnections)
		res, err := rt.RoundTrip(newRequest(t, http.MethodGet, b.url, nil))
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			require.NoError(t, err)
			return rt
		}
		require.Less(t, limit, patience, "%v", err)
	}
}

// What a target says on a kept connection before it has the next request is never an answer,
// whenever it says that.
func TestTransport_W10_BytesBeforeARequestAreNotItsAnswer(t *testing.T) {
	moments := map[string]bool{ // whether the request's trace has the hook GotConn
		"before its answer is read": false, "while it is idle": false, "before it is taken": false, "after it is taken": true,
	}
	bodies := map[string]func(*http.Request){
		"without a body": func(*http.Request) {},
		"with a body":    func(r *http.Request) { r.Body, r.ContentLength = bodyOf("four"), 4 },
		"large header":   func(r *http.Request) { r.Header.Set("X-Long", strings.Repeat("large", 4000)) },
	}
	for moment, taken := range moments {
		for how, change := range bodies {
			for what, unasked := range map[string]string{"408": "HTTP/1.1 408 Late\r\nContent-Length: 0\r\n\r\n",
				"answer": ok, "part of an answer": "HTTP/1.1 200", "a byte": "\n", "end": "", "reset": "reset"} {
				t.Run(moment+"/"+how+"/"+what, func(t *testing.T) {
					t.Parallel()
					speaksEarly(t, moment, taken, unasked, change)
				})
			}
		}
	}
}

func speaksEarly(t *testing.T, moment string, taken bool, unasked string, change func(*http.Request)) {
	speak := make(chan struct{})
	b := newBackend(t, func(p *peer) {
		if p.n > 1 {
			always(empty)(p)
			return
		}
		p.request()
		p.say(ok)
		<-speak
		switch unasked {
		case "":
		case "reset":
			p.Conn.(*net.TCPConn).SetLinger(0)
		default:
			p.say(unasked)
			p.gone()
		}
	})
	var conns []*net.TCPConn
	rt := dialling(t, func(c *net.TCPConn) { conns = append(conns, c) })
	at := func(now string) {
		if now == moment {
			moment = ""
			close(speak)
			require.True(t, leaktest.Polled(func() bool { return readable(t, conns[0]) }))
		}
	}
	res, err := rt.RoundTrip(newRequest(t, http.MethodGet, b.url, nil))
	require.NoError(t, err)
	at("before its answer is read")
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "ok", string(body))
	at("while it is idle")
	trace := &httptrace.ClientTrace{GetConn: func(string) { at("before it is taken") }}
	if taken {
		trace.GotConn = func(httptrace.GotConnInfo) { at("after it is taken") }
	}
	req := newRequest(t, http.MethodPost, b.url, nil)
	change(req)
	res, answer := ask(t, rt, req.WithContext(httptrace.WithClientTrace(t.Context(), trace)))
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Empty(t, answer)
	require.Empty(t, moment)
	require.EqualValues(t, 2, b.conns.Load())
}
