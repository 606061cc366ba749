package upstream_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// A waiter is what a body tells.
type waiter func()

func (f waiter) KeepsWaiting() { f() }

// onWait reports whether the response's body tells f.
func onWait(res *http.Response, f func()) bool {
	b, ok := res.Body.(interface{ OnWait(upstream.Waiter) })
	if ok {
		b.OnWait(waiter(f))
	}
	return ok
}

// A body tells when it is about to wait for its target: the target here says nothing before that.
func TestTransport_W11_OnWait(t *testing.T) {
	for name, parts := range map[string][]string{
		"counted":        {"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n", "part", "part"},
		"chunked":        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "4\r\npart\r\n", "4\r\npa", "rt\r\n0\r\n\r\n"},
		"to the end":     {"HTTP/1.1 200 OK\r\n\r\npart", "part"},
		"all at hand":    {"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npartpart"},
		"chunks at hand": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n4\r\npart\r\n0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			waits := make(chan struct{}, 1)
			b := newBackend(t, func(p *peer) {
				for p.request() != nil {
					for i, part := range parts {
						if i > 0 {
							<-waits
						}
						p.say(part)
					}
					if name == "to the end" {
						<-waits
						return
					}
				}
			})
			rt := transports[1].make(usual)
			t.Cleanup(rt.CloseIdleConnections)
			for range 2 {
				res, err := rt.RoundTrip(newRequest(t, http.MethodGet, b.url, nil))
				require.NoError(t, err)
				told := 0
				onWait(res, func() {
					told++
					waits <- struct{}{}
				})
				body, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				require.Equal(t, "partpart", string(body))
				want := len(parts) - 1
				if name == "to the end" {
					want++
				}
				require.Equal(t, want, told)
			}
		})
	}
}

// Where the connection is a stranger's, a body tells before each of its Reads.
func TestTransport_W11_OnWaitOfAStranger(t *testing.T) {
	near, far := net.Pipe()
	rt := &upstream.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return near, nil }}
	waits := make(chan struct{})
	go func() {
		p := newPeer(far)
		p.request()
		p.say("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
		for range 2 {
			<-waits
			p.say("part")
		}
	}()
	res, err := rt.RoundTrip(newRequest(t, http.MethodGet, "http://a.example", nil))
	require.NoError(t, err)
	require.True(t, onWait(res, func() { waits <- struct{}{} }))
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "partpart", string(body))
	rt.CloseIdleConnections()
}

// A connection that is reset within a body without a length is no end of it, whoever finds out.
func TestTransport_ResetIsNoEnd(t *testing.T) {
	alike(t, usual, func(t *testing.T, rt transport) {
		for _, tells := range []bool{false, true} {
			reset, gone := make(chan struct{}), make(chan struct{})
			b := newBackend(t, func(p *peer) {
				p.request()
				p.say("HTTP/1.1 200 OK\r\n\r\npart")
				<-reset
				p.Conn.(*net.TCPConn).SetLinger(0)
				p.Close()
				close(gone)
			})
			res, err := rt.RoundTrip(newRequest(t, http.MethodGet, b.url, nil))
			require.NoError(t, err)
			if tells {
				onWait(res, func() {})
			}
			_, err = io.ReadFull(res.Body, make([]byte, 4))
			require.NoError(t, err)
			close(reset)
			wait(t, gone, "reset")
			_, err = res.Body.Read(make([]byte, 4))
			require.Error(t, err)
			require.NotEqual(t, io.EOF, err)
			res.Body.Close()
		}
	})
}
