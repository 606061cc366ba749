package upstream_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// A listened context counts who listens to it.
type listened struct {
	context.Context
	listeners, ever atomic.Int64
}

// AfterFunc is what context.AfterFunc calls.
func (c *listened) AfterFunc(f func()) (stop func() bool) {
	c.ever.Add(1)
	c.listeners.Add(1)
	end := context.AfterFunc(c.Context, f)
	return func() bool {
		c.listeners.Add(-1)
		return end()
	}
}

// Value hides the context within, for which package context would look.
func (c *listened) Value(any) any { return nil }

// waiting is a transport to a target that waits before it answers, once for each connection.
func waiting(t *testing.T, wait time.Duration) *upstream.Transport {
	rt := &upstream.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			for p := newPeer(far); p.request() != nil; {
				time.Sleep(wait)
				p.say(ok)
			}
		}()
		return near, nil
	}}
	t.Cleanup(rt.CloseIdleConnections)
	return rt
}

// The context of a request that is over within 10 ms is not listened to, one that takes longer is
// until its end.
func TestTransport_ListensToContextsOfLongRequests(t *testing.T) {
	tests := map[time.Duration]int64{0: 0, 9 * time.Millisecond: 0, 21 * time.Millisecond: 1, time.Second: 1}
	for took, want := range tests {
		synctest.Test(t, func(t *testing.T) {
			rt := waiting(t, took)
			parent, cancel := context.WithCancel(t.Context())
			defer cancel()
			for range 3 {
				ctx := &listened{Context: parent}
				require.Equal(t, "ok", get(t, withContext{rt, ctx}, "http://a.example"))
				require.Equal(t, want, ctx.ever.Load())
				require.Zero(t, ctx.listeners.Load())
			}
		})
	}
}

// withContext gives each request its context.
type withContext struct {
	http.RoundTripper
	ctx context.Context
}

func (w withContext) RoundTrip(r *http.Request) (*http.Response, error) {
	return w.RoundTripper.RoundTrip(r.WithContext(w.ctx))
}

// Whenever a context ends, and however many others begin and end meanwhile, its request ends within
// 20 ms.
func TestTransport_HearsContextsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, quick := waiting(t, time.Hour), waiting(t, time.Millisecond)
		ends := make(chan time.Duration)
		const requests = 50
		for i := range requests {
			go func() {
				time.Sleep(time.Duration(i) * 700 * time.Microsecond)
				for range i % 3 { // of another order than the slow ones
					get(t, quick, "http://a.example")
				}
				ctx, cancel := context.WithCancel(t.Context())
				var ended time.Time
				time.AfterFunc(time.Duration(i)*3*time.Millisecond, func() {
					ended = time.Now()
					cancel()
				})
				_, err := slow.RoundTrip(newRequest(t, http.MethodGet, "http://a.example", nil).WithContext(ctx))
				if err != context.Canceled {
					t.Error(err)
				}
				ends <- time.Since(ended)
			}()
		}
		for range requests {
			require.LessOrEqual(t, <-ends, 20*time.Millisecond)
		}
		time.Sleep(time.Hour) // the targets end
	})
}

// A response into a Scratch that was used before has nothing of the last one.
func TestTransport_Scratch(t *testing.T) {
	b := newBackend(t, func(p *peer) {
		for i, text := range []string{
			"HTTP/1.1 200 OK\r\nX-First: 1\r\nContent-Length: 5\r\n\r\nfirst",
			"HTTP/1.1 404 No\r\nX-Second: 2\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nX-Third: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nthird\r\n0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nX-Fourth: 4\r\nContent-Length: 6\r\n\r\nfourth",
		} {
			if p.request() == nil {
				t.Errorf("no request %d", i)
			}
			p.say(text)
		}
		p.gone()
	})
	rt := &upstream.Transport{}
	t.Cleanup(rt.CloseIdleConnections)
	var s upstream.Scratch
	for _, want := range []struct {
		name, body string
	}{{"X-First", "first"}, {"X-Second", ""}, {"X-Third", "third"}, {"X-Fourth", "fourth"}} {
		res, err := rt.RoundTripTo(newRequest(t, http.MethodGet, b.url, nil), upstream.Address{}, &s)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, want.body, string(body))
		require.NotEmpty(t, res.Header.Get(want.name))
		delete(res.Header, want.name)
		delete(res.Header, "Content-Length")
		require.Empty(t, res.Header)
		s.Reset()
	}
}
