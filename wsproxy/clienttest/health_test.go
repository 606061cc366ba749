package clienttest_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// probe runs one check.
func probe(t testing.TB, c health.Check, target balancer.Target) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return c.Check(ctx, target)
}

// watch has a registry check the site's targets until the test ends: one answer decides.
func (s *site) watch(t *testing.T, c health.Check) *health.Registry {
	t.Helper()
	r := &health.Registry{
		Pool: s.proxy.Pool, Check: c, Interval: 20 * time.Millisecond, Timeout: patience, Rise: 1, Fall: 1,
		Logger: slog.New(slog.DiscardHandler),
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	require.NoError(t, r.Ready(t.Context()))
	return r
}

// checked returns what the latest check of a target says, "" if that is nothing.
func checked(r *health.Registry, id string) string {
	for _, target := range r.Status().Targets {
		if target.ID == id {
			return target.Check.Error
		}
	}
	return "no such target"
}

// onlyHTTP2 starts a server that speaks HTTP/2 and nothing else. It serves /healthz until somebody
// has asked for /fall.
type onlyHTTP2 func(t *testing.T) (address string, roots *x509.CertPool)

func goHTTP2(secure bool) onlyHTTP2 {
	return func(t *testing.T) (string, *x509.CertPool) {
		var fallen atomic.Bool
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/fall":
				fallen.Store(true)
			case r.URL.Path == "/healthz" && fallen.Load():
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			fmt.Fprintf(w, "fine, over %d.%d\n", r.ProtoMajor, r.ProtoMinor)
		}))
		srv.Config.Protocols = new(http.Protocols)
		srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		if secure {
			srv.Config.Protocols.SetHTTP2(true)
			srv.EnableHTTP2 = true
			srv.StartTLS()
		} else {
			srv.Config.Protocols.SetUnencryptedHTTP2(true)
			srv.Start()
		}
		t.Cleanup(srv.Close)
		return strings.Replace(srv.URL, "http:", "h2c:", 1), roots(srv)
	}
}

func nodeHTTP2(secure bool) onlyHTTP2 {
	return func(t *testing.T) (string, *x509.CertPool) {
		options, scheme := map[string]string{}, "h2c"
		named := httptest.NewTLSServer(nil) // for its certificate
		t.Cleanup(named.Close)
		if secure {
			key, err := x509.MarshalPKCS8PrivateKey(named.TLS.Certificates[0].PrivateKey)
			require.NoError(t, err)
			options["key"] = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
			options["cert"] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: named.Certificate().Raw}))
			scheme = "https"
		}
		arg, err := json.Marshal(options)
		require.NoError(t, err)
		cmd := exec.Command(program(t, "node"), filepath.Join("testdata", "http2.js"), string(arg))
		endsWithTests(cmd, syscall.SIGKILL)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
		port, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		return scheme + "://127.0.0.1:" + strings.TrimSpace(port), roots(named)
	}
}

// A target that speaks HTTP/2 and nothing else is healthy, is served, and goes when its page says
// so.
func TestHTTP_B5_ServersOfHTTP2Alone(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]onlyHTTP2{
		"Go in plain text": goHTTP2(false), "Go over TLS": goHTTP2(true),
		"Node in plain text": nodeHTTP2(false), "Node over TLS": nodeHTTP2(true),
	} {
		t.Run(name, func(t *testing.T) {
			address, trusted := start(t)
			s := siteOf(t, "https", trusted, nil, target(t, "a", address))
			r := s.watch(t, health.HTTP{Path: "/healthz", Contains: "over 2.0", TLS: &tls.Config{RootCAs: trusted}})
			require.Empty(t, checked(r, "a"))
			ask := func(path string) (int, string) {
				res, err := s.Client().Get(s.URL + path)
				require.NoError(t, err)
				defer res.Body.Close()
				said, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				return res.StatusCode, string(said)
			}
			code, said := ask("/")
			require.Equal(t, http.StatusOK, code)
			require.Equal(t, "fine, over 2.0\n", said)
			err := probe(t, health.WebSocket{TLS: &tls.Config{RootCAs: trusted}}, s.member().Target())
			require.ErrorContains(t, err, "a WebSocket is opened over HTTP/1.1, which the target may not speak")

			code, _ = ask("/fall")
			require.Equal(t, http.StatusOK, code)
			until(t, "the check has failed", func() bool { return s.member().State().Health == balancer.Unhealthy })
			require.Equal(t, "status 503, expected 2xx or 3xx", checked(r, "a"))
			code, _ = ask("/")
			require.Equal(t, http.StatusServiceUnavailable, code)
			s.idle(t)
		})
	}
}

// A healthCallee is a server of grpc-go that has its own health service, or none if bare.
type healthCallee struct {
	*grpchealth.Server
	url   string
	roots *x509.CertPool
	stop  func()
}

func newHealthCallee(t *testing.T, scheme string, bare bool) *healthCallee {
	t.Helper()
	c := &healthCallee{Server: grpchealth.NewServer()}
	var options []grpc.ServerOption
	if scheme == "https" {
		named := httptest.NewTLSServer(nil) // for its certificate
		t.Cleanup(named.Close)
		c.roots = roots(named)
		options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(&named.TLS.Certificates[0])))
	}
	server := grpc.NewServer(options...)
	if !bare {
		grpc_health_v1.RegisterHealthServer(server, c.Server)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c.url, c.stop = scheme+"://"+l.Addr().String(), server.Stop
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return c
}

// What grpc-go's health service says of a server, and of each service, is what the check says.
func TestGRPC_B5_HealthServiceOfGRPCGo(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"h2c", "https"} {
		c, bare := newHealthCallee(t, scheme, false), newHealthCallee(t, scheme, true)
		c.SetServingStatus("shop.Orders", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
		c.SetServingStatus("shop.Stock", grpc_health_v1.HealthCheckResponse_UNKNOWN)
		c.SetServingStatus("shop.Carts", grpc_health_v1.HealthCheckResponse_SERVING)
		say := func(of *healthCallee, service string) string {
			err := probe(t, health.GRPC{Service: service, TLS: &tls.Config{RootCAs: of.roots}}, target(t, "a", of.url))
			if err == nil {
				return "fine"
			}
			return strings.TrimPrefix(err.Error(), "health: ")
		}
		require.Equal(t, "fine", say(c, ""))
		require.Equal(t, "fine", say(c, "shop.Carts"))
		require.Equal(t, "the health service says NOT_SERVING", say(c, "shop.Orders"))
		require.Equal(t, "the health service says UNKNOWN", say(c, "shop.Stock"))
		require.Equal(t, `the target answers with gRPC status 5 (NOT_FOUND): its health service does not know the service, "unknown service"`, say(c, "shop.None"))
		require.Equal(t, "the target answers with gRPC status 12 (UNIMPLEMENTED): it has no health service (grpc.health.v1.Health), "+
			`"unknown service grpc.health.v1.Health"`, say(bare, ""))
		c.Shutdown()
		require.Equal(t, "the health service says NOT_SERVING", say(c, "shop.Carts"))
		c.Resume()
		require.Equal(t, "fine", say(c, "shop.Orders"))
		c.stop()
		require.Equal(t, "connection refused", say(c, ""))
	}
}

// Calls go to the servers whose health service says SERVING, and to nobody else.
func TestGRPC_B5_CallsFollowTheHealthService(t *testing.T) {
	t.Parallel()
	a, b := newHealthCallee(t, "h2c", false), newHealthCallee(t, "h2c", false)
	s := siteOf(t, "https", nil, nil, target(t, "a", a.url), target(t, "b", b.url))
	s.watch(t, health.GRPC{Service: "shop.Orders"})
	for _, c := range []*healthCallee{a, b} { // which of them has answered
		c.SetServingStatus("is a", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	}
	a.SetServingStatus("is a", grpc_health_v1.HealthCheckResponse_SERVING)
	conn, err := grpc.NewClient("passthrough:///"+s.Listener.Addr().String(),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots(s.Server)})))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	answering := func() string {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		res, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "is a"})
		switch {
		case status.Code(err) == codes.Unavailable:
			return "nobody"
		case err != nil:
			require.NoError(t, err)
		case res.Status == grpc_health_v1.HealthCheckResponse_SERVING:
			return "a"
		}
		return "b"
	}
	// serving sets who serves, waits until the checks know, and requires that calls go there alone.
	serving := func(ids ...string) {
		for id, c := range map[string]*healthCallee{"a": a, "b": b} {
			says, want := grpc_health_v1.HealthCheckResponse_NOT_SERVING, balancer.Unhealthy
			if strings.Contains(strings.Join(ids, ""), id) {
				says, want = grpc_health_v1.HealthCheckResponse_SERVING, balancer.Healthy
			}
			c.SetServingStatus("shop.Orders", says)
			m, _ := s.proxy.Pool.Member(id)
			until(t, id+" is known to be so", func() bool { return m.State().Health == want })
		}
		met := make(map[string]bool)
		for range 6 {
			met[answering()] = true
		}
		want := make(map[string]bool)
		for _, id := range ids {
			want[id] = true
		}
		if len(ids) == 0 {
			want["nobody"] = true
		}
		require.Equal(t, want, met)
	}
	serving("a", "b")
	serving("b")
	serving()
	serving("a")
	serving("a", "b")
	s.idle(t)
}

// FuzzGRPC_B5_MessagesLikeProtobuf compares what the check makes of a message with what Go's
// protocol buffers do.
func FuzzGRPC_B5_MessagesLikeProtobuf(f *testing.F) {
	for _, seed := range []string{
		"", "\x08\x01", "\x08\x02", "\x08\x81\x80\x00", "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x08\x01\x08\x00", "\x0a\x01\x01\x08\x01",
		"\x13\x08\x01\x14", "\x13\x1b\x1c\x14\x08\x01", "\x21abcdefgh\x2dabcd\x1a\x03abc\x08\x01", "\x34", "\x0f", "\x00\x00", "\x08", "\x1a\x05a",
		"\x88\x80\x80\x80\x00\x01", "\x08\x81\x80\x80\x80\x10", "\xf8\xff\xff\xff\x0f\x01\x08\x01",
	} {
		f.Add([]byte(seed))
	}
	var message atomic.Pointer[[]byte]
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		m := *message.Load()
		w.Header().Set("Content-Type", "application/grpc")
		w.Write(append([]byte{0, 0, 0, byte(len(m) >> 8), byte(len(m))}, m...))
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	}))
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	f.Cleanup(srv.Close)
	to := balancer.Target{URL: &url.URL{Scheme: "h2c", Host: srv.Listener.Addr().String()}}
	f.Fuzz(func(t *testing.T, m []byte) {
		m = m[:min(len(m), 4<<10)]
		message.Store(&m)
		err := probe(t, health.GRPC{}, to)
		var want grpc_health_v1.HealthCheckResponse
		switch broken := proto.Unmarshal(m, &want); {
		case broken != nil:
			require.ErrorContains(t, err, "the answer's message is not a HealthCheckResponse", "%v", broken)
		case want.Status == grpc_health_v1.HealthCheckResponse_SERVING:
			require.NoError(t, err)
		default:
			name := want.Status.String()
			if grpc_health_v1.HealthCheckResponse_ServingStatus_name[int32(want.Status)] == "" {
				name = "status " + name
			}
			require.EqualError(t, err, "health: the health service says "+name)
		}
	})
}
