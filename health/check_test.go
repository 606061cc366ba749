package health_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// With TLS 1.3, a target that requires a client's certificate refuses the client after the
// handshake. A target that only requests a certificate, and then waits, is healthy.
func TestTLS_B5_ClientCertificates(t *testing.T) {
	now := time.Now()
	cert, known := certificate(t, now.Add(-time.Hour), now.Add(time.Hour)), certificate(t, now.Add(-time.Hour), now.Add(time.Hour))
	tests := []struct {
		name    string
		auth    tls.ClientAuthType
		version uint16
		client  []tls.Certificate
		want    string
	}{
		{"demanded", tls.RequireAnyClientCert, tls.VersionTLS13, nil, "the target broke off TLS: certificate required"},
		{"demanded, TLS 1.2", tls.RequireAnyClientCert, tls.VersionTLS12, nil, "the target broke off TLS: "},
		{"demanded and there", tls.RequireAndVerifyClientCert, tls.VersionTLS13, []tls.Certificate{known}, ""},
		{"not the right one", tls.RequireAndVerifyClientCert, tls.VersionTLS13, []tls.Certificate{cert}, "the target broke off TLS: "},
		{"asked for", tls.RequestClientCert, tls.VersionTLS13, nil, ""},
		{"not asked for", tls.NoClientCert, tls.VersionTLS13, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			roots := x509.NewCertPool()
			roots.AddCert(known.Leaf)
			conf := &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tt.auth, ClientCAs: roots, MaxVersion: tt.version}
			silent := backend(t, "tcp", func(conn net.Conn) {
				if secured := tls.Server(conn, conf); secured.Handshake() == nil {
					secured.Read(make([]byte, 1))
				}
			})
			mine := trusting(cert)
			mine.Certificates = tt.client
			err := probe(t, health.TLS{Config: mine}, silent, patience)
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.want)
			require.Nil(t, mine.GetClientCertificate, "the caller's configuration stays as it is")
		})
	}
}

// A certificate with a Common Name alone looks right to people.
func TestTLS_B5_CommonNameAlone(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		Subject: pkix.Name{CommonName: "app.example"}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	err = probe(t, health.TLS{Config: trusting(cert)}, backend(t, "tcp", withTLS(cert, says(ok))), patience)
	require.ErrorContains(t, err, `the certificate is not valid for "127.0.0.1": it has a Common Name, "app.example", but no subject alternative name (SAN)`)
}

// The cases are ways in which a backend can be broken, with the reason in the status.
func TestChecks_B5_ReasonsThatPeopleUnderstand(t *testing.T) {
	dns := func(e net.DNSError) health.Check {
		return health.TCP{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, &net.OpError{Op: "dial", Err: &e} }}
	}
	fails := func(err error) health.Check {
		return health.TCP{Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: err}
		}}
	}
	now := time.Now()
	good := certificate(t, now.Add(-time.Hour), now.Add(time.Hour))
	named := certificate(t, now.Add(-time.Hour), now.Add(time.Hour), "app.example")
	expired := certificate(t, now.Add(-48*time.Hour), now.Add(-24*time.Hour))
	early := certificate(t, now.Add(24*time.Hour), now.Add(48*time.Hour))
	trust := trusting(good, named, expired, early)

	tests := []struct {
		name   string
		check  health.Check
		target balancer.Target
		want   string
	}{
		{"http: healthy", health.HTTP{}, backend(t, "http", says(ok)), ""},
		{"http: refuses", health.HTTP{}, refusing(t, "http"), "connection refused"},
		{"http: closes at once", health.HTTP{}, backend(t, "http", says("")), "connection closed without an answer"},
		{"http: half a header", health.HTTP{}, backend(t, "http", says("HTTP/1.1 200 OK\r\nCont")), "the answer ended within its header"},
		{"http: half a body", health.HTTP{}, backend(t, "http", says("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")), "the answer ended after 4 octets of its body"},
		{"http: half a chunk", health.HTTP{}, backend(t, "http", says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhal")), "the answer ended after 3 octets of its body"},
		{"http: resets", health.HTTP{}, backend(t, "http", resets("")), "connection reset by the target"},
		{"http: resets within the answer", health.HTTP{}, backend(t, "http", resets("HTTP/1.1 200 OK\r\n")), "connection reset by the target"},
		{"http: not HTTP", health.HTTP{}, backend(t, "http", says("220 mail.example ESMTP\r\n")), "the answer is not HTTP"},
		{"http: endless header", health.HTTP{}, backend(t, "http", says("HTTP/1.1 200 OK\r\nA: "+strings.Repeat("x", 1<<20))), "the answer's header is larger than 64 KiB"},
		{"http: only 1xx", health.HTTP{}, backend(t, "http", says(strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 100))), "too many 1xx answers"},
		{"http: sick", health.HTTP{}, backend(t, "http", says("HTTP/1.1 503 Sick\r\nContent-Length: 0\r\n\r\n")), "status 503, expected 2xx or 3xx"},

		{"no such name", dns(net.DNSError{Name: "app", IsNotFound: true}), target("app"), `the name "app" does not resolve`},
		{"no name server", dns(net.DNSError{Name: "app", IsTimeout: true}), target("app"), `the name server did not answer for "app"`},
		{"bad name server", dns(net.DNSError{Name: "app", Err: "server misbehaving"}), target("app"), `the name "app" could not be looked up: server misbehaving`},
		{"no host", fails(syscall.EHOSTUNREACH), target("app"), "no route to the target's host"},
		{"no network", fails(syscall.ENETUNREACH), target("app"), "the target's network cannot be reached"},
		{"the kernel gives up", fails(syscall.ETIMEDOUT), target("app"), "the connection timed out"},
		{"a time limit of its own", fails(os.ErrDeadlineExceeded), target("app"), "the connection timed out"},
		{"something else", fails(errSick), target("app"), "dial: sick"},

		{"https: healthy", health.HTTP{TLS: trust}, backend(t, "https", withTLS(good, says(ok))), ""},
		{"https: refuses", health.HTTP{TLS: trust}, refusing(t, "https"), "connection refused"},
		{"https: unknown authority", health.HTTP{}, backend(t, "https", withTLS(good, says(ok))), "the certificate is signed by an authority that is not trusted"},
		{"https: another name", health.HTTP{TLS: trust}, backend(t, "https", withTLS(named, says(ok))), `the certificate is not valid for "127.0.0.1"`},
		{"https: expired", health.HTTP{TLS: trust}, backend(t, "https", withTLS(expired, says(ok))), "the certificate expired on " + expired.Leaf.NotAfter.UTC().Format(time.DateTime)},
		{"https: not valid yet", health.HTTP{TLS: trust}, backend(t, "https", withTLS(early, says(ok))), "the certificate is not valid before " + early.Leaf.NotBefore.UTC().Format(time.DateTime)},
		{"https: no TLS there", health.HTTP{TLS: trust}, backend(t, "https", func(c net.Conn) { c.Write([]byte("220 hello, this is mail\r\n")); io.Copy(io.Discard, c) }), "the target does not speak TLS on this port"},
		{"https: closes in the handshake", health.HTTP{TLS: trust}, backend(t, "https", func(c net.Conn) { c.Read(make([]byte, 1<<16)) }), "connection closed by the target"},
		{"https: wants our certificate", health.HTTP{TLS: trust}, backend(t, "https", func(c net.Conn) {
			secured := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{good}, ClientAuth: tls.RequireAnyClientCert})
			secured.Handshake()
			io.Copy(io.Discard, c)
		}), "the target broke off TLS: certificate required"},

		{"tcp: healthy", health.TCP{}, backend(t, "tcp", hangs("")), ""},
		{"tcp: refuses", health.TCP{}, refusing(t, "tcp"), "connection refused"},
		{"tcp: https as well", health.TCP{}, backend(t, "https", hangs("")), ""},

		{"tls: healthy", health.TLS{Config: trust}, backend(t, "tcp", withTLS(good, hangs(""))), ""},
		{"tls: refuses", health.TLS{Config: trust}, refusing(t, "tcp"), "connection refused"},
		{"tls: unknown authority", health.TLS{}, backend(t, "tcp", withTLS(good, hangs(""))), "the certificate is signed by an authority that is not trusted"},
		{"tls: another name asked for", health.TLS{Config: &tls.Config{RootCAs: trust.RootCAs, ServerName: "app.example"}}, backend(t, "tcp", withTLS(named, hangs(""))), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &health.Registry{Pool: newPool(t, tt.target), Check: tt.check, Timeout: patience}
			run(t, r)
			require.NoError(t, r.Ready(t.Context()))
			got := r.Status().Targets[0]
			require.Equal(t, tt.want, got.Check.Error)
			require.Equal(t, tt.want == "", got.Health == balancer.Healthy, got.Health)

			// The error itself says the same.
			if err := probe(t, tt.check, tt.target, patience); tt.want == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, "health: "+tt.want)
			}
		})
	}
}

// The reason names what was late. The time limit uses the clock of a bubble, so that a slow machine
// does not make another step late.
func TestChecks_B5_WordsForWhatIsLate(t *testing.T) {
	overHTTP := func(d health.DialFunc, c *tls.Config) health.Check { return health.HTTP{Dial: d, TLS: c} }
	overTLS := func(d health.DialFunc, c *tls.Config) health.Check { return health.TLS{Dial: d, Config: c} }
	webSocket := func(d health.DialFunc, c *tls.Config) health.Check { return health.WebSocket{Dial: d, TLS: c} }
	mute := func(c net.Conn) { io.Copy(io.Discard, c) }
	tests := []struct {
		name    string
		check   func(health.DialFunc, *tls.Config) health.Check
		scheme  string
		serve   func(net.Conn)
		secured bool // it serves over TLS
		want    string
	}{
		{"http: accepts and hangs", overHTTP, "http", hangs(""), false, "no answer within 300ms"},
		{"http: hangs within the header", overHTTP, "http", hangs("HTTP/1.1 200 OK\r\nA: b\r\n"), false, "answer not complete within 300ms"},
		{"http: hangs within the body", overHTTP, "http", hangs("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), false, "answer not complete within 300ms"},
		{"http: a byte at a time", overHTTP, "http", drips, false, "answer not complete within 300ms"},
		{"https: hangs in the handshake", overHTTP, "https", mute, false, "TLS handshake not done within 300ms"},
		{"https: hangs after the handshake", overHTTP, "https", hangs(""), true, "no answer within 300ms"},
		{"tls: hangs", overTLS, "tcp", mute, false, "TLS handshake not done within 300ms"},
		{"websocket: hangs", webSocket, "http", hangs(""), false, "no answer within 300ms"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cert := certificate(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
				serve := tt.serve
				if tt.secured {
					serve = withTLS(cert, serve)
				}
				check := tt.check(piped(serve), trusting(cert))
				target := balancer.Target{URL: &url.URL{Scheme: tt.scheme, Host: "127.0.0.1:1"}}
				const limit = 300 * time.Millisecond
				r := &health.Registry{Pool: newPool(t, target), Check: check, Timeout: limit}
				run(t, r)
				require.NoError(t, r.Ready(t.Context()))
				got := r.Status().Targets[0]
				require.Equal(t, tt.want, got.Check.Error)
				require.Equal(t, balancer.Unhealthy, got.Health)
				require.Equal(t, limit, got.Check.Duration)
				require.EqualError(t, probe(t, check, target, limit), "health: "+tt.want)
				time.Sleep(time.Second) // so that targets that drip notice that the client is gone
			})
		})
	}
}

// If ctx gives a check less time than the registry, the reason names that time.
func TestChecks_TimeThatWasCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		r := &health.Registry{Pool: newPool(t, target("a")), Check: health.Func(func(ctx context.Context, tg balancer.Target) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			return health.TCP{Dial: dial}.Check(ctx, tg)
		})}
		run(t, r)
		require.NoError(t, r.Ready(t.Context()))
		require.Equal(t, "no connection within 1s", r.Status().Targets[0].Check.Error)
	})
}

func TestChecks_KeepTheCause(t *testing.T) {
	require.ErrorIs(t, probe(t, health.TCP{}, refusing(t, "tcp"), patience), syscall.ECONNREFUSED)
	err := probe(t, health.HTTP{}, backend(t, "http", hangs("")), 50*time.Millisecond)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// A check must return when its context is cancelled, and not only at its time limit.
func TestChecks_EndWithTheContext(t *testing.T) {
	deaf := backend(t, "http", hangs(""))
	mute := backend(t, "https", func(c net.Conn) { io.Copy(io.Discard, c) })
	for name, tt := range map[string]struct {
		check  health.Check
		target balancer.Target
	}{
		"http": {health.HTTP{}, deaf}, "websocket": {health.WebSocket{}, deaf}, "tls": {health.TLS{}, mute},
		"dial": {health.TCP{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}, deaf},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- tt.check.Check(ctx, tt.target) }()
			cancel()
			require.Error(t, <-done)
		})
	}
}

// A closer notes that a connection was closed, which may happen more than once.
type closer struct {
	net.Conn
	once sync.Once
	open *atomic.Int64
}

func (c *closer) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}

func TestChecks_CloseWhatTheyOpen(t *testing.T) {
	cert := certificate(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	trust := trusting(cert)
	var open atomic.Int64
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		open.Add(1)
		return &closer{Conn: conn, open: &open}, nil
	}
	for name, tt := range map[string]struct {
		check  health.Check
		target balancer.Target
	}{
		"healthy":            {health.HTTP{Dial: dial}, backend(t, "http", says(ok))},
		"sick":               {health.HTTP{Dial: dial}, backend(t, "http", says("HTTP/1.1 500 X\r\n\r\n"))},
		"hangs":              {health.HTTP{Dial: dial}, backend(t, "http", hangs(""))},
		"healthy TLS":        {health.HTTP{Dial: dial, TLS: trust}, backend(t, "https", withTLS(cert, says(ok)))},
		"certificate":        {health.HTTP{Dial: dial}, backend(t, "https", withTLS(cert, says(ok)))},
		"hangs in handshake": {health.TLS{Dial: dial}, backend(t, "https", hangs(""))},
		"TLS alone":          {health.TLS{Dial: dial, Config: trust}, backend(t, "tcp", withTLS(cert, hangs("")))},
		"TCP":                {health.TCP{Dial: dial}, backend(t, "tcp", hangs(""))},
		"WebSocket":          {health.WebSocket{Dial: dial}, backend(t, "http", func(c net.Conn) { accept(c) })},
		"no WebSocket":       {health.WebSocket{Dial: dial}, backend(t, "http", says(ok))},
	} {
		t.Run(name, func(t *testing.T) {
			limit := patience
			if strings.HasPrefix(name, "hangs") {
				limit = 100 * time.Millisecond
			}
			probe(t, tt.check, tt.target, limit)
			require.Zero(t, open.Load())
		})
	}
}

// A target that has stopped reading cannot delay a check beyond its time limit, not even while TLS
// sends its closing alert.
func TestChecks_EndInTimeWithAPeerThatReadsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cert := certificate(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		done := make(chan struct{})
		dial := func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				secured := tls.Server(server, &tls.Config{Certificates: []tls.Certificate{cert}})
				secured.Handshake()
				secured.Read(make([]byte, 1)) // the request's first octet, and no more
				<-done
				server.Close()
			}()
			return client, nil
		}
		defer close(done)
		target := balancer.Target{URL: &url.URL{Scheme: "https", Host: "127.0.0.1"}}
		began := time.Now()
		require.Error(t, probe(t, health.HTTP{Dial: dial, TLS: trusting(cert)}, target, 3*time.Second))
		require.Equal(t, 3*time.Second, time.Since(began))
	})
}

// Checks dial the URL's host, with the scheme's port when it names none.
func TestChecks_Address(t *testing.T) {
	for raw, want := range map[string]string{
		"http://app":           "app:80",
		"ws://app":             "app:80",
		"https://app":          "app:443",
		"wss://app":            "app:443",
		"https://app:8443":     "app:8443",
		"tcp://app:5432":       "app:5432",
		"http://[2001:db8::1]": "[2001:db8::1]:80",

		"https://Bücher.example":     "xn--bcher-kva.example:443",
		"http://b%C3%BCcher.example": "xn--bcher-kva.example:80",
	} {
		u, err := url.Parse(raw)
		require.NoError(t, err)
		var got string
		dial := func(_ context.Context, network, addr string) (net.Conn, error) {
			got = network + " " + addr
			return nil, syscall.ECONNREFUSED
		}
		for _, c := range []health.Check{
			health.TCP{Dial: dial}, health.TLS{Dial: dial}, health.HTTP{Dial: dial}, health.WebSocket{Dial: dial},
			health.GRPC{Dial: dial}, health.Conversation{Dial: dial, Steps: []health.Step{{Send: "x"}}},
		} {
			got = ""
			require.Error(t, c.Check(t.Context(), balancer.Target{URL: u}))
			require.Equal(t, "tcp "+want, got)
		}
		if u.Scheme == "http" || u.Scheme == "https" {
			got = ""
			request := &http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}}
			_, err := (&http.Transport{DialContext: dial}).RoundTrip(request)
			require.Error(t, err)
			require.Equal(t, "tcp "+want, strings.ToLower(got), "requests go there, too")
		}
	}
}

// A shortage on this machine is not a failure of the target: neither the first probe nor several
// later ones in a row make it unhealthy.
func TestRegistry_B5_OwnShortageProvesNothing(t *testing.T) {
	for _, shortage := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM} {
		t.Run(shortage.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dial := func(context.Context, string, string) (net.Conn, error) {
					return nil, &net.OpError{Op: "dial", Err: shortage}
				}
				pool := newPool(t, target("a"))
				r := &health.Registry{Pool: pool, Check: health.TCP{Dial: dial}}
				events, stop := r.Subscribe(10)
				defer stop()
				run(t, r)
				time.Sleep(time.Minute)
				synctest.Wait()
				require.Greater(t, r.Status().Targets[0].Check.Total, int64(5))
				require.Empty(t, events)
				require.Equal(t, balancer.HealthUnknown, member(t, pool, "a").State().Health)
				require.Contains(t, r.Status().Targets[0].Check.Error, "this machine is short of ")
			})
		})
	}
}

func TestHTTP_AsksForWhatItIsTold(t *testing.T) {
	var got *http.Request
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r }))
	t.Cleanup(s.Close)
	plain := serverTarget(t, s)
	below := serverTarget(t, s)
	below.URL.Path = "/app/"
	tests := []struct {
		name              string
		check             health.HTTP
		target            balancer.Target
		method, uri, host string
	}{
		{"zero", health.HTTP{}, plain, "GET", "/", plain.URL.Host},
		{"path and query", health.HTTP{Path: "/healthz?deep=1"}, plain, "GET", "/healthz?deep=1", plain.URL.Host},
		{"escapes stay", health.HTTP{Path: "/a%2Fb/%20"}, plain, "GET", "/a%2Fb/%20", plain.URL.Host},
		{"below the target's path", health.HTTP{Path: "/healthz"}, below, "GET", "/app/healthz", plain.URL.Host},
		{"the target's path alone", health.HTTP{}, below, "GET", "/app/", plain.URL.Host},
		{"method", health.HTTP{Method: "HEAD"}, plain, "HEAD", "/", plain.URL.Host},
		{"host", health.HTTP{Host: "app.example"}, plain, "GET", "/", "app.example"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.check.Header = http.Header{"x-check": {"yes"}, "Connection": {"keep-alive"}}
			require.NoError(t, probe(t, tt.check, tt.target, patience))
			require.Equal(t, tt.method, got.Method)
			require.Equal(t, tt.uri, got.RequestURI)
			require.Equal(t, tt.host, got.Host)
			require.Equal(t, "yes", got.Header.Get("X-Check"))
			require.Equal(t, "stickylb-health", got.UserAgent())
			require.Equal(t, []string{"close"}, got.Header["Connection"], "no connection is kept")
			require.Equal(t, http.Header{"x-check": {"yes"}, "Connection": {"keep-alive"}}, tt.check.Header)
		})
	}
	t.Run("user agent", func(t *testing.T) {
		require.NoError(t, probe(t, health.HTTP{Header: http.Header{"User-Agent": {"mine"}}}, plain, patience))
		require.Equal(t, "mine", got.UserAgent())
	})
}

func TestHTTP_JudgesTheAnswer(t *testing.T) {
	long := strings.Repeat("x", 64<<10)
	tests := []struct {
		name   string
		check  health.HTTP
		answer string
		want   string
	}{
		{"204", health.HTTP{}, "HTTP/1.1 204 No Content\r\n\r\n", ""},
		{"a redirect is not followed", health.HTTP{}, "HTTP/1.1 302 Found\r\nLocation: http://nowhere.invalid/\r\nContent-Length: 0\r\n\r\n", ""},
		{"399", health.HTTP{}, "HTTP/1.1 399 Odd\r\nContent-Length: 0\r\n\r\n", ""},
		{"400", health.HTTP{}, "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n", "status 400, expected 2xx or 3xx"},
		{"after early hints", health.HTTP{}, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok, ""},
		{"switched unasked", health.HTTP{}, "HTTP/1.1 101 Switching Protocols\r\n\r\n", "status 101, expected 2xx or 3xx"},
		{"HTTP/1.0 without a length", health.HTTP{}, "HTTP/1.0 200 OK\r\n\r\nok", ""},
		{"only 200", health.HTTP{Statuses: []int{200}}, "HTTP/1.1 204 No Content\r\n\r\n", "status 204, expected 200"},
		{"401 or 403", health.HTTP{Statuses: []int{401, 403}}, "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", ""},
		{"neither", health.HTTP{Statuses: []int{401, 403}}, ok, "status 200, expected 401 or 403"},
		{"body", health.HTTP{Contains: "ok"}, ok, ""},
		{"another body", health.HTTP{Contains: "fine"}, ok, `the answer does not contain "fine"`},
		{"body at its limit", health.HTTP{Contains: "xx"}, "HTTP/1.1 200 OK\r\n\r\n" + long, ""},
		{"body beyond its limit", health.HTTP{Contains: "end"}, "HTTP/1.1 200 OK\r\n\r\n" + long + "end", `the answer does not contain "end"`},
		{"cut beyond the limit", health.HTTP{}, "HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + long, ""},
		{"tiny chunks", health.HTTP{Contains: strings.Repeat("y", 9000)}, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1\r\ny\r\n", 9000) + "0\r\n\r\n", ""},
		{"HEAD without a body", health.HTTP{Method: "HEAD"}, "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := probe(t, tt.check, backend(t, "http", says(tt.answer)), patience)
			if tt.want == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, "health: "+tt.want)
			}
		})
	}
}

// The proxy variables of the environment do not affect probes.
func TestHTTP_IgnoresTheEnvironmentsProxy(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://nowhere.invalid:1")
	t.Setenv("NO_PROXY", "")
	var dialled string
	dial := func(_ context.Context, _, addr string) (net.Conn, error) {
		dialled = addr
		return nil, syscall.ECONNREFUSED
	}
	require.Error(t, probe(t, health.HTTP{Dial: dial}, target("app"), patience))
	require.Equal(t, "app.invalid:80", dialled)
}

func TestHTTP_WithoutARegistryItRefusesWhatItCannotSend(t *testing.T) {
	require.ErrorContains(t, probe(t, health.HTTP{Path: "%zz"}, refusing(t, "http"), patience), "path")
	require.ErrorContains(t, probe(t, health.WebSocket{Path: "%zz"}, refusing(t, "http"), patience), "path")
}
