package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/internal/pipelistener"
	"github.com/stickylb/stickylb/examples/internal/selfsigned"
	"github.com/stickylb/stickylb/wsproxy"
)

const (
	patience = time.Minute
	glance   = 5 * time.Millisecond
)

func TestMain(m *testing.M) {
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	m.Run()
}

// A site is the balancer before some backends.
type site struct {
	lb          *wsproxy.Proxy
	certificate tls.Certificate
	address     string
	conf        *tls.Config  // for its clients
	end         func() error // ends it, and returns what serve does
}

func start(t *testing.T, backends ...http.Handler) *site {
	t.Helper()
	return startWith(t, func(*wsproxy.Proxy) {}, backends...)
}

// startWith changes the Proxy before it starts.
func startWith(t *testing.T, change func(*wsproxy.Proxy), backends ...http.Handler) *site {
	t.Helper()
	var targets []balancer.Target
	for i, h := range backends {
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		target, err := balancer.ParseTargets(fmt.Sprintf("app-%d=%s", i+1, srv.URL))
		require.NoError(t, err)
		targets = append(targets, target...)
	}
	certificate, err := selfsigned.New("")
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	require.NoError(t, err)
	s := &site{certificate: certificate, conf: &tls.Config{RootCAs: x509.NewCertPool()}}
	s.conf.RootCAs.AddCert(leaf)
	s.lb, err = newBalancer(targets)
	require.NoError(t, err)
	change(s.lb)
	tcp, udp := listen(t)
	s.address = tcp.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, s.lb, certificate, tcp, udp) }()
	s.end = func() error {
		cancel()
		err := wait(t, ended, "the end of serve")
		ended <- err
		return err
	}
	t.Cleanup(func() { s.end() })
	return s
}

// listen returns a TCP and a UDP socket with one port number.
func listen(t *testing.T) (net.Listener, net.PacketConn) {
	t.Helper()
	for range 100 {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err == nil {
			return tcp, udp
		}
		require.NoError(t, tcp.Close())
	}
	require.Fail(t, "no port is free for both")
	return nil, nil
}

func wait[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		require.Fail(t, "waiting for "+what)
	}
	return v
}

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func (s *site) url(path string) string { return "https://" + s.address + path }

// client returns a client that speaks one version of HTTP.
func (s *site) client(t *testing.T, version int) *http.Client {
	t.Helper()
	if version == 3 {
		transport := &http3.Transport{TLSClientConfig: s.conf}
		transport.Dial = func(ctx context.Context, addr string, tlsConf *tls.Config, conf *quic.Config) (*quic.Conn, error) {
			conn, err := quic.DialAddrEarly(ctx, addr, tlsConf, conf)
			if err == nil { // after a failed request, the transport forgets the connection and leaves it open
				t.Cleanup(func() { conn.CloseWithError(0, "") })
			}
			return conn, err
		}
		t.Cleanup(func() { transport.Close() })
		return &http.Client{Transport: transport, Timeout: patience}
	}
	transport := &http.Transport{TLSClientConfig: s.conf.Clone(), Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(version == 1)
	transport.Protocols.SetHTTP2(version == 2)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

func get(t *testing.T, client *http.Client, url string) (*http.Response, string) {
	t.Helper()
	res, err := client.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(body)
}

// 10 sessions make 51 requests each, over HTTP/1.1, HTTP/2 and HTTP/3 in turn.
func TestSessionsStick(t *testing.T) {
	s := start(t, newBackend("app-1"), newBackend("app-2"))
	clients := map[int]*http.Client{1: s.client(t, 1), 2: s.client(t, 2), 3: s.client(t, 3)}
	homes := make(map[string]bool)
	for i := range 10 {
		jar, err := cookiejar.New(nil)
		require.NoError(t, err)
		home := ""
		for j := range 51 {
			version := 1 + (i+j)%3
			client := clients[version]
			client.Jar = jar
			res, name := get(t, client, s.url("/name"))
			require.Equal(t, version, res.ProtoMajor)
			if home == "" {
				home = name
				require.Contains(t, res.Header.Get("Set-Cookie"), "; Secure")
			} else {
				require.Empty(t, res.Header["Set-Cookie"])
			}
			require.Equal(t, home, name)
			if version < 3 {
				_, port, _ := net.SplitHostPort(s.address)
				require.Equal(t, `h3=":`+port+`"; ma=2592000`, res.Header.Get("Alt-Svc"))
			}
		}
		homes[home] = true
	}
	require.Len(t, homes, 2, "sessions at both backends")
}

// The backend learns the client's address and protocol, whatever the client says about them. A GET
// has no body there, although quic-go's server gives it one.
func TestWhatTheBackendGets(t *testing.T) {
	got := make(chan *http.Request, 1)
	s := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.Clone(context.Background()) }))
	req, err := http.NewRequest(http.MethodGet, s.url("/a%2fb?q=1;2"), nil)
	require.NoError(t, err)
	req.Header = http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"http"}, "Cookie": {"a=1; b=2"}}
	res, err := s.client(t, 3).Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusOK, res.StatusCode)
	r := <-got
	require.Equal(t, "/a%2fb?q=1;2", r.RequestURI)
	require.Equal(t, s.address, r.Host)
	require.Equal(t, "127.0.0.1", r.Header.Get("X-Forwarded-For"))
	require.Equal(t, "https", r.Header.Get("X-Forwarded-Proto"))
	require.Equal(t, "a=1; b=2", r.Header.Get("Cookie"))
	require.Zero(t, r.ContentLength)
	require.Empty(t, r.TransferEncoding)
}

// Bodies pass both ways at once, and trailers after them. The request has a forged field besides,
// so that the proxy works on a copy of it.
func TestBodiesAndTrailers(t *testing.T) {
	s := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		w.Header().Set("Trailer", "Sum")
		w.WriteHeader(http.StatusOK)
		rc.Flush()
		n, err := io.Copy(w, r.Body)
		w.Header().Set("Sum", fmt.Sprintf("%d %v %s", n, err, r.Trailer.Get("Mine")))
		w.Header().Set(http.TrailerPrefix+"Late", "1")
	}))
	client := s.client(t, 3)
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB
	for _, forged := range []bool{false, true} {
		for _, length := range []int64{-1, int64(len(body))} {
			req, err := http.NewRequest(http.MethodPost, s.url("/"), io.NopCloser(bytes.NewReader(body)))
			require.NoError(t, err)
			req.ContentLength, req.Trailer = length, http.Header{"Mine": {"yes"}}
			if forged {
				req.Header.Set("X-Forwarded-For", "192.0.2.1")
			}
			res, err := client.Do(req)
			require.NoError(t, err)
			back, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.True(t, bytes.Equal(body, back), "%d bytes", len(back))
			require.Equal(t, fmt.Sprintf("%d <nil> yes", len(body)), res.Trailer.Get("Sum"))
			require.Equal(t, "1", res.Trailer.Get("Late"))
		}
	}
}

// A 103 passes, and so does what only connections of HTTP/1.1 may have: without these fields.
func TestResponseHeaders(t *testing.T) {
	s := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/early":
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			io.WriteString(w, "done")
		case "/upgrade":
			w.Header().Set("Upgrade", "websocket")
			w.Header().Set("Connection", "Upgrade, X-Hop")
			w.Header().Set("Keep-Alive", "timeout=5")
			w.Header().Set("X-Hop", "1")
			w.WriteHeader(http.StatusUpgradeRequired)
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	client := s.client(t, 3)
	var early []string
	ctx := httptrace.WithClientTrace(limited(t), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		early = append(early, fmt.Sprint(code, h.Get("Link"), h.Get("Set-Cookie")))
		return nil
	}})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url("/early"), nil)
	require.NoError(t, err)
	res, err := client.Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, []string{"103</style.css>; rel=preload"}, early)
	require.NotEmpty(t, res.Header["Set-Cookie"], "the 103 does not take it away")

	res, _ = get(t, client, s.url("/upgrade"))
	require.Equal(t, http.StatusUpgradeRequired, res.StatusCode)
	for _, name := range []string{"Upgrade", "Connection", "Keep-Alive", "X-Hop"} {
		require.Empty(t, res.Header[name], name)
	}
	res, _ = get(t, client, s.url("/none"))
	require.Equal(t, http.StatusNoContent, res.StatusCode)
}

// A response that breaks off does not look complete. QUIC drops what the client has not read when a
// stream is reset, even the header.
func TestBrokenResponse(t *testing.T) {
	s := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/known" {
			w.Header().Set("Content-Length", "100")
		}
		io.WriteString(w, "half of it")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	for _, version := range []int{1, 2, 3} {
		client := s.client(t, version)
		for _, path := range []string{"/known", "/unknown"} {
			res, err := client.Get(s.url(path))
			if version == 3 && err != nil {
				continue
			}
			require.NoError(t, err)
			body, err := io.ReadAll(res.Body)
			require.Error(t, err, "HTTP/%d %s", version, path)
			if version < 3 {
				require.Equal(t, "half of it", string(body))
			}
			require.NoError(t, res.Body.Close())
		}
	}
}

// An answer before the end of the request's body reaches the client, and the connection goes on.
func TestEarlyAnswer(t *testing.T) {
	s := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			http.Error(w, "too much", http.StatusRequestEntityTooLarge)
		}
	}))
	client := s.client(t, 3)
	for range 5 {
		slow, more := io.Pipe()
		req, err := http.NewRequest(http.MethodPost, s.url("/"), slow)
		require.NoError(t, err)
		go func() {
			for _, err := more.Write(make([]byte, 1<<16)); err == nil; {
				_, err = more.Write(make([]byte, 1<<16))
			}
		}()
		res, err := client.Do(req)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)
		require.Equal(t, "too much\n", string(body))
		require.NoError(t, res.Body.Close())
		require.NoError(t, slow.Close())
		res, _ = get(t, client, s.url("/"))
		require.Equal(t, http.StatusOK, res.StatusCode)
	}
}

// The backend notices when the client gives up: before the answer, while it reads, while it does
// not read, and while it sends.
func TestClientGivesUp(t *testing.T) {
	here, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	var wrote atomic.Int64
	s := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		switch r.URL.Path {
		case "/silent":
			here <- struct{}{}
			<-r.Context().Done()
		case "/endless":
			for {
				n, err := w.Write(make([]byte, 1<<16))
				if wrote.Add(int64(n)); err != nil {
					break
				}
			}
		case "/upload":
			rc.EnableFullDuplex()
			rc.Flush()
			io.Copy(io.Discard, r.Body)
		}
		gone <- struct{}{}
	}))
	client := s.client(t, 3)
	for path, play := range map[string]func(context.Context, context.CancelFunc){
		"/silent": func(ctx context.Context, cancel context.CancelFunc) {
			go func() {
				<-here
				cancel()
			}()
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.url("/silent"), nil)
			_, err := client.Do(req)
			require.ErrorIs(t, err, context.Canceled)
		},
		"/endless": func(ctx context.Context, cancel context.CancelFunc) {
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.url("/endless"), nil)
			res, err := client.Do(req)
			require.NoError(t, err)
			_, err = io.ReadFull(res.Body, make([]byte, 1<<20))
			require.NoError(t, err)
			for same, last := 0, int64(-1); same < 50; time.Sleep(glance) { // does not read: everything fills up
				if now := wrote.Load(); now != last {
					same, last = 0, now
				}
				same++
			}
			require.NoError(t, res.Body.Close())
		},
		"/upload": func(ctx context.Context, cancel context.CancelFunc) {
			slow, more := io.Pipe()
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, s.url("/upload"), slow)
			res, err := client.Do(req)
			require.NoError(t, err)
			_, err = more.Write([]byte("some"))
			require.NoError(t, err)
			cancel()
			_, err = io.ReadAll(res.Body)
			require.Error(t, err)
			require.NoError(t, more.Close())
		},
	} {
		ctx, cancel := context.WithCancel(limited(t))
		play(ctx, cancel)
		wait(t, gone, "the end at the backend of "+path)
		cancel()
	}
	require.Eventually(t, func() bool { return s.lb.Pool.Members()[0].Load() == 0 }, patience, glance, "a lease is left")
}

// Early data is refused, on a connection that could have it: an attacker could send it again.
func TestNoEarlyData(t *testing.T) {
	s := start(t, newBackend("app-1"))
	conf := s.conf.Clone()
	conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for n, could := 0, false; !could; n++ {
		require.Less(t, n, 100, "no session is resumed")
		transport := &http3.Transport{TLSClientConfig: conf}
		req, err := http.NewRequest(http3.MethodGet0RTT, s.url("/name"), nil)
		require.NoError(t, err)
		var used, resumed bool
		transport.Dial = func(ctx context.Context, addr string, tlsConf *tls.Config, conf *quic.Config) (*quic.Conn, error) {
			conn, err := quic.DialAddrEarly(ctx, addr, tlsConf, conf)
			if err == nil {
				<-conn.HandshakeComplete()
				used, resumed = conn.ConnectionState().Used0RTT, conn.ConnectionState().TLS.DidResume
			}
			return conn, err
		}
		res, err := transport.RoundTrip(req)
		require.NoError(t, err)
		name, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, "app-1", string(name))
		require.False(t, used)
		require.NoError(t, transport.Close())
		could = resumed
	}
}

// Requests in progress end well, WebSockets are asked to end, and nothing else is accepted.
func TestShutdown(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	mux := newBackend("app-1")
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-answer
		io.WriteString(w, "at last")
	})
	s := startWith(t, func(lb *wsproxy.Proxy) { lb.Tunnels.Window = time.Millisecond }, mux)
	ws := s.dial(t, "/ws", nil)
	ws.send(t, "one")
	require.Equal(t, "app-1: one", ws.receive(t))
	client := s.client(t, 3)
	said := make(chan string, 1)
	go func() {
		res, err := client.Get(s.url("/slow"))
		if err != nil {
			said <- err.Error()
			return
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		said <- string(body)
	}()
	wait(t, asked, "the request")
	ended := make(chan error, 1)
	go func() { ended <- s.end() }()
	opcode, payload := ws.frame(t)
	require.Equal(t, byte(8), opcode)
	require.Equal(t, "\x03\xe9", payload, "1001")
	ws.write(t, 8, payload)
	_, err := io.ReadAll(ws.stream)
	require.NoError(t, err)
	require.Empty(t, ended, "it waits for the request")
	close(answer)
	require.Equal(t, "at last", wait(t, said, "the answer"))
	require.NoError(t, client.Transport.(*http3.Transport).Close())
	ws.conn.CloseWithError(0, "")
	require.NoError(t, wait(t, ended, "the end"))
	_, err = s.client(t, 1).Get(s.url("/"))
	require.Error(t, err)
}

// A client of HTTP/3 that keeps its connection, as browsers do, does not hold the end up, and
// neither does a request over TCP: HTTP/3 ends beside it.
func TestShutdown_ClientStays(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	answerNow := sync.OnceFunc(func() { close(answer) })
	s := start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-answer
		io.WriteString(w, "at last")
	}))
	t.Cleanup(answerNow)
	conf := s.conf.Clone()
	conf.NextProtos, conf.ServerName = []string{http3.NextProtoH3}, "127.0.0.1"
	stays, err := quic.DialAddr(limited(t), s.address, conf, nil)
	require.NoError(t, err)
	defer stays.CloseWithError(0, "")
	said := make(chan string, 1)
	client := s.client(t, 2)
	go func() {
		res, err := client.Get(s.url("/"))
		if err != nil {
			said <- err.Error()
			return
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		said <- string(body)
	}()
	wait(t, asked, "the request")
	ended := make(chan error, 1)
	go func() { ended <- s.end() }()
	wait(t, stays.Context().Done(), "the end of the connection")
	require.Empty(t, ended, "it waits for the request")
	answerNow()
	require.Equal(t, "at last", wait(t, said, "the answer"))
	require.NoError(t, wait(t, ended, "the end"))
}

// A client that connects over TCP and then stops is closed after minutes: before TLS and in it, in
// a request, and before the next one.
func TestSilentClientsAreClosed(t *testing.T) {
	certificate, err := selfsigned.New("")
	require.NoError(t, err)
	for name, sent := range map[string]string{
		"nothing":        "",
		"half of TLS":    "\x16\x03\x01\x02\x00",
		"only TLS":       "",
		"half a request": "GET / HTTP/1.1\r\nHost: a",
		"one request":    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lb, err := newBalancer(nil) // answers with 503
				require.NoError(t, err)
				server, _ := newServers(lb, certificate)
				listener := pipelistener.New()
				ended := make(chan error, 1)
				go func() { ended <- server.ServeTLS(listener, "", "") }()
				near, err := listener.Connect()
				require.NoError(t, err)
				near.SetDeadline(time.Now().Add(time.Hour))
				client := near
				if name != "nothing" && name != "half of TLS" {
					client = tls.Client(near, &tls.Config{InsecureSkipVerify: true})
				}
				io.WriteString(client, sent)
				_, err = io.Copy(io.Discard, client)
				near.Close()
				require.NoError(t, server.Close())
				require.ErrorIs(t, <-ended, http.ErrServerClosed)
				require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
			})
		})
	}
}

// Nothing is left of 100 requests, 10 WebSockets, broken ones among them, and the servers.
func TestNothingIsLeft(t *testing.T) {
	held := func() int {
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("no /proc")
		}
		return len(files) + runtime.NumGoroutine()
	}
	before := 0
	for same, last := 0, 0; same < 20; time.Sleep(glance) { // earlier tests have ended by then
		if before = held(); before != last {
			same, last = 0, before
		}
		same++
	}
	t.Run("run", func(t *testing.T) {
		s := start(t, newBackend("app-1"), newBackend("app-2"))
		for range 10 {
			client := s.client(t, 3)
			for range 10 {
				get(t, client, s.url("/name"))
			}
			require.NoError(t, client.Transport.(*http3.Transport).Close())
		}
		for i := range 10 {
			ws := s.dial(t, "/ws", nil)
			ws.send(t, "hello")
			require.True(t, strings.HasSuffix(ws.receive(t), ": hello"))
			if i%2 == 0 {
				ws.stream.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
				ws.stream.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
			}
			ws.conn.CloseWithError(0, "")
		}
		require.NoError(t, s.end())
	})
	now := 0
	for range int(patience / glance) {
		if now = held(); now <= before {
			return
		}
		time.Sleep(glance)
	}
	stacks := make([]byte, 1<<20)
	require.Failf(t, "something is left", "%d before, %d now\n%s", before, now, stacks[:runtime.Stack(stacks, true)])
}
