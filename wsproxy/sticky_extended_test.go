package wsproxy_test

import (
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// A stream of an extended CONNECT is a tunnel from its 2xx until the handler returns: it is bound
// and counted, is asked when its target is moving, and is cut when the target is down.
func TestSticky_W2_ExtendedConnect(t *testing.T) {
	if !inExtended(t) {
		return
	}
	pool, _ := shards(t, "a")
	s := sticky(t, pool)
	s.Tunnels.Window = -1
	asked := make(chan uint16, 1)
	ended := make(chan error, 1)
	h := s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/declined" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		require.True(t, wsproxy.OnLeave(r.Context(), func(code uint16) { asked <- code }))
		rc := http.NewResponseController(w)
		w.WriteHeader(http.StatusOK)
		require.NoError(t, rc.Flush())
		for {
			buf := make([]byte, 100)
			n, err := r.Body.Read(buf)
			if err != nil {
				ended <- err
				return
			}
			w.Write(buf[:n])
			rc.Flush()
		}
	}))
	c := newH2Client(t, serveTLS(t, h))
	conn := c.open(t, nil)
	requireBound(t, &reply{Response: conn.res}, "a")
	io.WriteString(conn, "hello")
	conn.wire(t).expect("hello")
	m := member(t, pool, "a")
	require.EqualValues(t, 1, m.Tunnels())
	m.SetAdmin(balancer.Moving)
	require.EqualValues(t, 1012, wait(t, asked, "the question"))
	require.EqualValues(t, 1, m.Tunnels())
	m.SetAdmin(balancer.Down)
	require.Error(t, wait(t, ended, "the handler's read"))
	require.Zero(t, settledLoad(t, pool, "a"))

	m.SetAdmin(balancer.Ready)
	c.path = "/declined"
	declined := c.connect(t, "websocket")
	require.Equal(t, http.StatusForbidden, declined.res.StatusCode)
	require.Zero(t, settledLoad(t, pool, "a"))
	require.NoError(t, s.Shutdown(t.Context()))
}

// Middleware may hide the methods for deadlines of a stream. When the target is down, the lease
// still ends, and the handler's later reads and writes fail.
func TestSticky_S22_StreamWithoutDeadlines(t *testing.T) {
	if !inExtended(t) {
		return
	}
	pool, _ := shards(t, "a")
	down, failed := make(chan struct{}), make(chan []error, 1)
	h := sticky(t, pool).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-down
		_, reading := r.Body.Read(make([]byte, 1))
		_, writing := w.Write([]byte("still here"))
		_, text := io.WriteString(w, "still here")
		failed <- []error{reading, writing, text}
	}))
	newH2Client(t, serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(struct {
			http.ResponseWriter
			http.Flusher
		}{w, w.(http.Flusher)}, r)
	}))).open(t, nil)
	member(t, pool, "a").SetAdmin(balancer.Down)
	require.Zero(t, settledLoad(t, pool, "a"))
	close(down)
	for _, err := range wait(t, failed, "the errors") {
		require.ErrorIs(t, err, net.ErrClosed)
	}
}
