package wsproxy_test

import (
	"bufio"
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
	"github.com/stickylb/stickylb/wsproxy/internal/soaktest"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel/tunneltest"
)

// A passage is a proxy between a kind of client and a kind of backend, whose tunnels have both of
// their outer ends in the test's hands.
type passage struct {
	name  string
	half  bool // end of stream reaches the client while that can still send
	proxy *wsproxy.Proxy
	ends  <-chan wsproxy.TunnelRecord
	dial  func(early []byte) (net.Conn, error)
	glued chan []byte   // for the backend to send with its 101
	taken chan net.Conn // by the backend
}

// open opens a tunnel.
func (p *passage) open(early, glued []byte) (client, backend net.Conn, err error) {
	p.glued <- glued
	client, err = p.dial(early)
	if err != nil {
		return nil, nil, err
	}
	return client, <-p.taken, nil
}

// An end is the outer end of a tunnel, with what was read of it together with the handshake.
type end struct {
	net.Conn
	r      *bufio.Reader
	closed func() // nil, or told of Close
}

func (e *end) Read(p []byte) (int, error) { return e.r.Read(p) }

func (e *end) buffered() *bufio.Reader { return e.r }

func (e *end) CloseWrite() error { return e.Conn.(interface{ CloseWrite() error }).CloseWrite() }

func (e *end) Close() error {
	if e.closed != nil {
		defer e.closed()
	}
	return e.Conn.Close()
}

// NetConn is the TCP connection.
func (e *end) NetConn() net.Conn {
	if c, ok := e.Conn.(*tls.Conn); ok {
		return c.NetConn()
	}
	return e.Conn
}

// passages makes those of HTTP/1.1 clients, plain and over TLS, or those of HTTP/2 clients.
func passages(t testing.TB, http2 bool) []*passage {
	var all []*passage
	server, client := serverTLS(t)
	for _, tlsBackend := range []bool{false, true} {
		conf, kind := server, "TLS"
		if !tlsBackend {
			conf, kind = nil, "plain"
		}
		add := func(name string, half bool, dial func(*httptest.Server) func([]byte) (net.Conn, error), front func(testing.TB, http.Handler) *httptest.Server) {
			p := &passage{name: name + " to " + kind, half: half, glued: make(chan []byte, 1), taken: make(chan net.Conn, 1)}
			p.proxy, p.ends = tunnelled(t, rawBackendTLS(t, "a", conf, p.take))
			p.proxy.BackendTLS = client
			p.dial = dial(front(t, p.proxy))
			all = append(all, p)
		}
		if http2 {
			add("h2", false, dialH2(t), serveTLS)
		} else {
			add("h1", true, dialH1, serve)
			add("h1 TLS", true, dialH1, serveTLS)
		}
	}
	return all
}

// take is the backend's play: it hands the connection to the test, until that has closed it.
func (p *passage) take(conn net.Conn, r *bufio.Reader, req *http.Request) {
	conn.SetDeadline(time.Time{})
	closed := make(chan struct{})
	io.WriteString(conn, accepting(req))
	conn.Write(<-p.glued)
	p.taken <- &end{conn, r, sync.OnceFunc(func() { close(closed) })}
	<-closed
}

// dialH1 upgrades a connection of HTTP/1.1, over TLS if that is what the server speaks.
func dialH1(srv *httptest.Server) func([]byte) (net.Conn, error) {
	var conf *tls.Config
	if srv.TLS != nil {
		conf = srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		conf.ServerName, conf.NextProtos = "example.com", nil
	}
	return func(early []byte) (net.Conn, error) {
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			return nil, err
		}
		if conf != nil {
			conn = tls.Client(conn, conf)
		}
		sent := make(chan error, 1)
		go func() { // what is larger than the buffers on the way waits for the tunnel
			_, err := conn.Write([]byte(upgrade() + string(early)))
			sent <- err
		}()
		c := &end{Conn: conn, r: bufio.NewReader(conn)}
		res, err := http.ReadResponse(c.r, &http.Request{Method: http.MethodGet})
		if err == nil {
			err = <-sent
		}
		if err == nil && res.StatusCode != http.StatusSwitchingProtocols {
			err = fmt.Errorf("status %d", res.StatusCode)
		}
		if err != nil {
			conn.Close()
		}
		return c, err
	}
}

// dialH2 opens a stream. All are on one connection.
func dialH2(t testing.TB) func(*httptest.Server) func([]byte) (net.Conn, error) {
	return func(srv *httptest.Server) func([]byte) (net.Conn, error) {
		c := newH2Client(t, srv)
		return func(early []byte) (net.Conn, error) {
			conn, res, err := c.tryOpen(early)
			if err == nil && res.StatusCode != http.StatusOK {
				conn.Reset()
				err = fmt.Errorf("status %d", res.StatusCode)
			}
			return conn, err
		}
	}
}

// conform holds tunnels through real proxies to the promises of package tunnel.
func conform(t *testing.T, http2 bool) {
	for _, p := range passages(t, http2) {
		t.Run(p.name, func(t *testing.T) {
			tunneltest.Suite{
				ToBackend: true,
				ToClient:  p.half,
				Open: func(t testing.TB, early, glued []byte) (net.Conn, net.Conn) {
					client, backend, err := p.open(early, glued)
					require.NoError(t, err)
					t.Cleanup(func() {
						client.Close()
						backend.Close()
						wait(t, p.ends, "the end")
					})
					return client, backend
				},
			}.Run(t)
			idleMember(t, p.proxy.Pool, "a")
		})
	}
}

func TestProxy_W2_W4_W5_Conformance(t *testing.T) {
	t.Parallel() // with the other one, which is another process
	conform(t, false)
}

func TestProxy_W2_W4_W5_ConformanceOverHTTP2(t *testing.T) {
	if inExtended(t) {
		conform(t, true)
	}
}

// useAndEnd passes some frames both ways, and ends the tunnel in one of four ways.
func (p *passage) useAndEnd(way int) error {
	client, backend, err := p.open([]byte("early"), []byte("glued"))
	if err != nil {
		return err
	}
	defer backend.Close()
	defer client.Close()
	within := time.AfterFunc(patience, func() {
		reset(client)
		backend.Close()
	})
	defer within.Stop()
	if err := cmp.Or(gets(client, "glued"), gets(backend, "early")); err != nil {
		return err
	}
	switch way % 4 {
	case 0: // a close handshake, the client's
		io.WriteString(client, maskedFrame(0x88, "\x03\xe8"))
		err = gets(backend, maskedFrame(0x88, "\x03\xe8"))
		io.WriteString(backend, "\x88\x02\x03\xe8")
		backend.Close()
		err = cmp.Or(err, gets(client, "\x88\x02\x03\xe8"))
		client.Close()
	case 1:
		client.Close()
		_, err = io.Copy(io.Discard, backend)
		backend.Close()
	case 2:
		reset(client)
		io.Copy(io.Discard, backend)
		backend.Close()
	case 3:
		reset(backend)
		client.Close()
	}
	if err != nil {
		return err
	}
	select {
	case <-p.ends:
		return nil
	case <-time.After(patience):
		return errors.New("the tunnel does not end")
	}
}

// reset breaks the connection under an end off.
func reset(c net.Conn) error {
	under := c.(interface{ NetConn() net.Conn }).NetConn()
	if tcp, ok := under.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	return under.Close()
}

// gets reads exactly that text.
func gets(c net.Conn, text string) error {
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return fmt.Errorf("%q: %w", text, err)
	}
	if string(got) != text {
		return fmt.Errorf("%q instead of %q", got, text)
	}
	return nil
}

// openAndClose does so often, and checks that nothing is left.
func openAndClose(t *testing.T, http2 bool) {
	all := passages(t, http2)
	run := func(times func(*passage) int) {
		failed := make(chan error, len(all))
		for _, p := range all {
			go func() {
				var err error
				for i := 0; i < times(p) && err == nil; i++ {
					err = p.useAndEnd(i)
				}
				failed <- err
			}()
		}
		for range all {
			require.NoError(t, <-failed)
		}
	}
	run(func(*passage) int { return 4 })
	before := leaktest.Settled(t)
	run((*passage).times)
	leaktest.RequireNoMore(t, before)
	for _, p := range all {
		idleMember(t, p.proxy.Pool, "a")
	}
}

// times returns how often a passage is used: ten times in each way, or under .ci/soak 10,000 times
// all six, with fewer of those that take a TLS handshake each time.
func (p *passage) times() int {
	switch p.name {
	case "h1 to plain":
		return soaktest.Times(160, 6000)
	case "h2 to plain":
		return soaktest.Times(160, 3000)
	default:
		return soaktest.Times(40, 250)
	}
}

func TestProxy_W5_OpensAndClosesLeaveNothing(t *testing.T) { openAndClose(t, false) }

func TestProxy_W5_OpensAndClosesOverHTTP2LeaveNothing(t *testing.T) {
	if inExtended(t) {
		openAndClose(t, true)
	}
}
