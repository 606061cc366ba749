package wsproxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// What a request is said to miss is the first target that its cookies name, and it is said once, however many attempts
// follow.
func TestProxy_S7_OnMissIsAskedOnceAboutTheFirst(t *testing.T) {
	for _, miss := range []wsproxy.Miss{wsproxy.Rebind, wsproxy.Detour} {
		p := newPair(t, nil)
		third, fourth := newBackend(t, "c", nil), newBackend(t, "d", nil)
		require.NoError(t, p.pool.Update(p.a.target(), p.b.target(), third.target(), fourth.target()))
		member(t, p.pool, "b").SetAdmin(balancer.Down)
		member(t, p.pool, "c").SetAdmin(balancer.Down)
		p.picker.to("d")
		fourth.stop()
		var asked []string
		var from string
		var detour bool
		c := newClient(t, serve(t, &wsproxy.Proxy{
			Pool: p.pool, Policy: lbCookie(t, stickiness.LBCookieOptions{}),
			OnMiss: func(_ *http.Request, id string, why error) wsproxy.Miss {
				require.ErrorIs(t, why, balancer.ErrDown)
				asked = append(asked, id)
				return miss
			},
			Trace: &wsproxy.Trace{Bind: func(_ *http.Request, b *stickiness.Binding) { from, detour = b.From.Target, b.Detour }},
		})).withoutCookies()
		r := c.get("/", bound(t, "b"), bound(t, "c"))
		require.Equal(t, "a", r.backend(), "after a failed attempt at d")
		require.Equal(t, []string{"b"}, asked)
		require.Equal(t, "b", from)
		require.Equal(t, miss == wsproxy.Detour, detour)
		require.Equal(t, miss == wsproxy.Rebind, len(lbLines(r.Header)) == 1)
	}
}

// Once the client has seen an early hint of a target, no other target can answer it.
func TestProxy_W10_NoRetryAfterAnInformationalResponse(t *testing.T) {
	const hint = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
	tests := map[string]struct {
		bad    play
		status int
	}{
		"broken":  {closing(hint), http.StatusBadGateway},
		"refused": {answering(hint + "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), http.StatusServiceUnavailable},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			good := newBackend(t, "good", nil)
			pool, _ := newPool(t, rawBackend(t, "bad", tt.bad), good.target())
			c := newClient(t, serve(t, &wsproxy.Proxy{Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{}),
				Retry: wsproxy.Retry{Idempotent: true, On: []int{http.StatusServiceUnavailable}}}))
			informed, r := c.informed("/")
			require.Len(t, informed, 1)
			require.Equal(t, tt.status, r.StatusCode)
			require.Zero(t, good.asked.Load())
		})
	}
}

// A 100 is none of the target's answer: it may be followed by another target's.
func TestProxy_W10_RetryAfterAContinue(t *testing.T) {
	good := newBackend(t, "good", echo)
	pool, _ := newPool(t, rawBackend(t, "bad", func(conn net.Conn, _ *bufio.Reader, req *http.Request) {
		io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\n")
		io.ReadFull(req.Body, make([]byte, 4))
		io.WriteString(conn, "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
	}), good.target())
	c := dial(t, serve(t, &wsproxy.Proxy{Pool: pool, Retry: wsproxy.Retry{On: []int{http.StatusServiceUnavailable}, Buffer: 4}}))
	c.send("PUT / HTTP/1.1\r\nHost: app.example\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
	require.Equal(t, http.StatusContinue, c.head().StatusCode)
	c.send("body")
	r := c.final()
	require.Equal(t, http.StatusOK, r.StatusCode)
	require.Equal(t, "good", r.backend())
	require.Equal(t, "body", r.body)
}

// A transport may go on with a body after it has said that it failed. What it took would be missing in the next attempt.
func TestProxy_W10_AbandonedAttemptReadsNothing(t *testing.T) {
	pool, _ := newPool(t, target("a", "http://a.test"), target("b", "http://b.test"))
	var abandoned io.ReadCloser
	got := make(chan string, 1)
	h := serve(t, &wsproxy.Proxy{Pool: pool, Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if abandoned == nil {
			abandoned = r.Body
			return nil, &net.OpError{Op: "dial", Err: io.EOF}
		}
		n, err := abandoned.Read(make([]byte, 1))
		require.Error(t, err)
		require.Zero(t, n)
		all, err := io.ReadAll(r.Body)
		got <- string(all)
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Header: http.Header{}, Request: r}, err
	})})
	r := newClient(t, h).do(http.MethodPost, "/", strings.NewReader("all of it"))
	require.Equal(t, http.StatusOK, r.StatusCode)
	require.Equal(t, "all of it", wait(t, got, "the body"))
}

// The connection of a response that is not used ends before the next attempt is answered, not with the request.
func TestProxy_W10_UnusedResponseIsClosedAtOnce(t *testing.T) {
	closed := make(chan struct{})
	bad := rawBackend(t, "bad", func(conn net.Conn, r *bufio.Reader, _ *http.Request) {
		io.WriteString(conn, "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n")
		io.Copy(io.Discard, r)
		close(closed)
	})
	good := newBackend(t, "good", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-closed:
		case <-r.Context().Done():
		}
	})
	pool, _ := newPool(t, bad, good.target())
	r := newClient(t, serve(t, &wsproxy.Proxy{Pool: pool, Retry: wsproxy.Retry{On: []int{http.StatusServiceUnavailable}}})).get("/")
	require.Equal(t, "good", r.backend())
}
