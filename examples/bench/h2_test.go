package main

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// serveHTTP2 runs a server of HTTP/2 until the test ends. It returns its address and the TLS
// configuration of clients.
func serveHTTP2(t *testing.T, handler http.HandlerFunc) (address string, conf *tls.Config) {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.EnableHTTP2 = true
	s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: manyStreams}
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s.Listener.Addr().String(), &tls.Config{ServerName: "example.com", RootCAs: roots, NextProtos: []string{"h2"}}
}

func dialedHTTP2(t *testing.T, address string, conf *tls.Config, streams int) *h2Client {
	t.Helper()
	c, err := dialHTTP2(t.Context(), address, conf, streams)
	require.NoError(t, err)
	t.Cleanup(c.close)
	return c
}

// sticks answers like a proxy that keeps the session with backend a.
func sticks(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Backend", "a")
	if r.Header.Get("Cookie") == "" {
		w.Header().Add("Set-Cookie", "LB=1; Path=/")
		w.Header().Add("Set-Cookie", "LBCORS=2; Secure")
	} else if r.Header.Get("Cookie") != "LB=1; LBCORS=2" {
		w.WriteHeader(http.StatusBadRequest)
	}
	if r.URL.Path == pathLarge {
		w.Write(large.want)
		return
	}
	w.Write(small.want)
}

func TestHTTP2Client(t *testing.T) {
	var gathering meetings
	var most, open atomic.Int32
	address, conf := serveHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
		n := open.Add(1)
		defer open.Add(-1)
		if strings.HasPrefix(r.URL.Path, pathMeeting) {
			if !gathering.attend(r.URL.Path) {
				w.WriteHeader(http.StatusNotFound)
			}
			most.Store(max(most.Load(), n))
		}
		sticks(w, r)
	})
	for _, streams := range []int{1, manyStreams} {
		c := dialedHTTP2(t, address, conf, streams)
		require.NoError(t, c.begin())
		require.Equal(t, session{"LB=1; LBCORS=2", "a"}, c.session)
		for range 100 {
			require.NoError(t, c.do(small))
			require.Len(t, c.streams, streams-1, "the others are under way")
			require.NoError(t, c.do(large))
		}
		require.NoError(t, c.finish())
		require.Empty(t, c.streams)
	}
	require.EqualValues(t, manyStreams, most.Load(), "requests at the same time")
}

// A client's windows must not run out, however much it has received.
func TestHTTP2Client_FlowControl(t *testing.T) {
	address, conf := serveHTTP2(t, sticks)
	c := dialedHTTP2(t, address, conf, 1)
	c.received = h2ConnWindow/2 - 1 // as if it had received that much
	require.NoError(t, c.begin())
	require.Zero(t, c.received, "the window is returned")
	require.NoError(t, c.do(large))
	require.EqualValues(t, largeSize, c.received)
}

func TestHTTP2Client_WrongAnswers(t *testing.T) {
	tests := map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"status":        {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, `answered "503"`},
		"fewer octets":  {func(w http.ResponseWriter, _ *http.Request) { w.Write(small.want[:99]) }, "99 octets, want 100"},
		"more octets":   {func(w http.ResponseWriter, _ *http.Request) { w.Write(large.want) }, "the octets are not those of the backend"},
		"other octets":  {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "other") }, "the octets are not those of the backend"},
		"other backend": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Backend", "b"); w.Write(small.want) }, `backend "b" answered in a session of "a"`},
		"reset":         {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "the proxy resets a stream: INTERNAL_ERROR"},
		"no name":       {func(w http.ResponseWriter, _ *http.Request) { w.Header()["X-Backend"] = nil; w.Write(small.want) }, `backend "" answered in a session of "a"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int32
			address, conf := serveHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
				if requests.Add(1) > 2 {
					w.Header().Set("X-Backend", "a")
					tt.answer(w, r)
					return
				}
				sticks(w, r)
			})
			c := dialedHTTP2(t, address, conf, 1)
			require.NoError(t, c.begin())
			require.NoError(t, c.do(small))
			require.ErrorContains(t, c.do(small), tt.want)
		})
	}
}

func TestHTTP2Client_Refused(t *testing.T) {
	address, conf := serveHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, pathMeeting) {
			w.WriteHeader(http.StatusNotFound) // as a backend does that waits in vain
		}
		sticks(w, r)
	})
	_, err := dialHTTP2(t.Context(), address, conf, manyStreams+1)
	require.EqualError(t, err, "the proxy allows 8 streams, want 9")
	require.ErrorContains(t, dialedHTTP2(t, address, conf, 2).begin(), `answered "404"`)

	other := httptest.NewUnstartedServer(http.NotFoundHandler())
	other.StartTLS()
	defer other.Close()
	conf.RootCAs.AddCert(other.Certificate())
	_, err = dialHTTP2(t.Context(), other.Listener.Addr().String(), conf, 1)
	require.Error(t, err, "HTTP/1.1 alone")
}

func TestMeetings(t *testing.T) {
	var m meetings
	came := make(chan bool)
	for range 3 {
		go func() { came <- m.attend(pathMeeting + "x/3") }()
	}
	for range 3 {
		require.True(t, <-came)
	}
	require.Empty(t, m.waiting)
	require.False(t, m.attend(pathMeeting+"x/many"))
}

// An extended CONNECT needs a server whose process has the setting, so the demo balancer serves it:
// see TestQuick. Here is what a server answers that does not offer it.
func TestHTTP2Client_NoExtendedConnect(t *testing.T) {
	address, conf := serveHTTP2(t, sticks)
	err := dialedHTTP2(t, address, conf, 1).upgrade()
	require.Equal(t, absent("its HTTP/2 does not offer extended CONNECT (RFC 8441)"), err)
}
