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
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/internal/pipelistener"
	"github.com/stickylb/stickylb/examples/internal/selfsigned"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/wsproxy"
)

const (
	patience = time.Minute
	glance   = 5 * time.Millisecond
)

// A site is the balancer before some servers.
type site struct {
	lb            *wsproxy.Proxy
	registry      *health.Registry
	servers       map[string]*server
	plain, secure net.Listener
	roots         *x509.CertPool
	contexts      chan context.Context // of the streams at the servers
	end           func() error         // ends the balancer, and returns what serve does
}

// start starts servers, every other one with TLS, and the balancer.
func start(t *testing.T, names ...string) *site {
	t.Helper()
	certificate, err := selfsigned.New("")
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	require.NoError(t, err)
	s := &site{servers: make(map[string]*server), roots: x509.NewCertPool(), contexts: make(chan context.Context, 100)}
	s.roots.AddCert(leaf)
	var targets []balancer.Target
	for i, name := range names {
		var secure *tls.Certificate
		if i%2 == 1 {
			secure = &certificate
		}
		s.servers[name], err = startServer(name, secure, grpc.StreamInterceptor(s.note))
		require.NoError(t, err)
		t.Cleanup(s.servers[name].grpc.Stop)
		target, err := balancer.ParseTargets(name + "=" + s.servers[name].url)
		require.NoError(t, err)
		targets = append(targets, target...)
	}
	s.lb, s.registry, err = newBalancer(targets, s.roots)
	require.NoError(t, err)
	s.registry.Interval, s.registry.Fall, s.registry.Rise = 20*time.Millisecond, 1, 1
	s.plain, s.secure = listen(t), listen(t)
	s.run(t, certificate)
	require.NoError(t, s.registry.Ready(t.Context()))
	return s
}

// note keeps the contexts of streams.
func (s *site) note(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	s.contexts <- stream.Context()
	return handler(srv, stream)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

// run runs the balancer until the test ends.
func (s *site) run(t *testing.T, certificate tls.Certificate) {
	ctx, cancel := context.WithCancel(context.Background())
	ended, checked := make(chan error, 1), make(chan error, 1)
	go func() { checked <- s.registry.Run(ctx) }()
	go func() { ended <- serve(ctx, s.lb, certificate, s.plain, s.secure) }()
	s.end = func() error {
		cancel()
		select {
		case err := <-ended:
			ended <- err
			return err
		case <-time.After(patience):
			return context.DeadlineExceeded
		}
	}
	t.Cleanup(func() {
		s.end()
		<-checked
	})
}

// dial returns a client of the balancer that uses one connection, over TLS or in plain text.
func (s *site) dial(t *testing.T, secure bool) *grpc.ClientConn {
	t.Helper()
	addr, roots := s.plain.Addr(), (*x509.CertPool)(nil)
	if secure {
		addr, roots = s.secure.Addr(), s.roots
	}
	conn, err := dial(addr, roots)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// begin begins a session, and returns the name of its server.
func begin(t *testing.T, conn *grpc.ClientConn) (s *session, home string) {
	t.Helper()
	s = &session{}
	said, err := s.unary(limited(t), conn)
	require.NoError(t, err)
	home, _, _ = strings.Cut(said, ",")
	require.Equal(t, home+", call 1", said)
	return s, home
}

// beginAt begins sessions until one is at that server.
func beginAt(t *testing.T, conn *grpc.ClientConn, name string) *session {
	t.Helper()
	for range 100 {
		if s, home := begin(t, conn); home == name {
			return s
		}
	}
	require.Fail(t, "no session at "+name)
	return nil
}

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// open opens a stream of a session, and waits for the answer to its first message.
func (s *session) open(t *testing.T, ctx context.Context, conn *grpc.ClientConn) grpc.BidiStreamingClient[grpc_testing.StreamingOutputCallRequest, grpc_testing.StreamingOutputCallResponse] {
	t.Helper()
	stream, err := grpc_testing.NewTestServiceClient(conn).FullDuplexCall(s.context(ctx))
	require.NoError(t, err)
	require.NoError(t, stream.Send(&grpc_testing.StreamingOutputCallRequest{}))
	_, err = stream.Recv()
	require.NoError(t, err)
	return stream
}

// 40 sessions make 25 calls each. Each call uses another connection than the one before, and there
// are four kinds of calls. Each server knows only its own sessions, and counts their calls.
func TestSessionsStick(t *testing.T) {
	s := start(t, "app-1", "app-2", "app-3")
	var conns []*grpc.ClientConn
	for i := range 6 {
		conns = append(conns, s.dial(t, i%2 == 1))
	}
	ctx := limited(t)
	kinds := []func(*session, grpc_testing.TestServiceClient) (string, error){
		func(k *session, c grpc_testing.TestServiceClient) (string, error) {
			res, err := c.UnaryCall(k.context(ctx), &grpc_testing.SimpleRequest{})
			return string(res.GetPayload().GetBody()), err
		},
		func(k *session, c grpc_testing.TestServiceClient) (string, error) {
			stream, err := c.StreamingOutputCall(k.context(ctx),
				&grpc_testing.StreamingOutputCallRequest{ResponseParameters: make([]*grpc_testing.ResponseParameters, 3)})
			said := ""
			for range 3 {
				if err != nil {
					return "", err
				}
				var res *grpc_testing.StreamingOutputCallResponse
				res, err = stream.Recv()
				said = string(res.GetPayload().GetBody())
			}
			if _, end := stream.Recv(); err == nil && end != io.EOF {
				err = fmt.Errorf("after the last message: %w", end)
			}
			return said, err
		},
		func(k *session, c grpc_testing.TestServiceClient) (string, error) {
			stream, err := c.StreamingInputCall(k.context(ctx))
			for range 3 {
				if err == nil {
					err = stream.Send(&grpc_testing.StreamingInputCallRequest{Payload: &grpc_testing.Payload{Body: make([]byte, 5)}})
				}
			}
			if err != nil {
				return "", err
			}
			res, err := stream.CloseAndRecv()
			return fmt.Sprint(res.GetAggregatedPayloadSize(), " bytes"), err
		},
		func(k *session, c grpc_testing.TestServiceClient) (string, error) {
			stream := k.open(t, ctx, conns[0])
			require.NoError(t, stream.CloseSend())
			_, err := stream.Recv()
			if err == io.EOF {
				err = nil
			}
			return "closed", err
		},
	}
	homes := make(map[string]int)
	for i := range 40 {
		k, home := begin(t, conns[i%len(conns)])
		homes[home]++
		for j := range 24 {
			said, err := kinds[j%len(kinds)](k, grpc_testing.NewTestServiceClient(conns[(i+j)%len(conns)]))
			require.NoError(t, err, "session %d, call %d", i, j+2)
			want := []string{fmt.Sprintf("%s, call %d", home, j+2), fmt.Sprintf("%s, call %d", home, j+2), "15 bytes", "closed"}[j%len(kinds)]
			require.Equal(t, want, said)
		}
		for len(s.contexts) > 0 {
			<-s.contexts
		}
	}
	require.Len(t, homes, 3, "sessions at all servers")
	calls := 0
	for _, srv := range s.servers {
		srv.mu.Lock()
		for _, n := range srv.calls {
			require.Equal(t, 25, n)
			calls += n
		}
		srv.mu.Unlock()
	}
	require.Equal(t, 1000, calls)
}

// Without the policy, a session's calls reach servers that do not know it.
func TestWithoutPolicy(t *testing.T) {
	s := start(t, "app-1", "app-2")
	s.lb.Policy = nil
	conn := s.dial(t, true)
	k, _ := begin(t, conn)
	lost := 0
	for range 20 {
		if _, err := k.unary(limited(t), conn); err != nil {
			require.Equal(t, codes.NotFound, status.Code(err), "%v", err)
			lost++
		}
	}
	require.Positive(t, lost)
}

// A status passes before the first message, where it is a part of the header, and after it.
func TestStatuses(t *testing.T) {
	s := start(t, "app-1", "app-2")
	for _, secure := range []bool{false, true} {
		conn := s.dial(t, secure)
		c := grpc_testing.NewTestServiceClient(conn)
		k, _ := begin(t, conn)
		for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
			asked := &grpc_testing.EchoStatus{Code: int32(code), Message: "100 %\n\u2603 " + code.String()}
			_, err := c.UnaryCall(k.context(limited(t)), &grpc_testing.SimpleRequest{ResponseStatus: asked})
			require.Equal(t, code, status.Code(err), "%v", err)
			require.Equal(t, asked.Message, status.Convert(err).Message())
			stream, err := c.StreamingOutputCall(k.context(limited(t)), &grpc_testing.StreamingOutputCallRequest{
				ResponseParameters: make([]*grpc_testing.ResponseParameters, 2), ResponseStatus: asked})
			require.NoError(t, err)
			for range 2 {
				_, err = stream.Recv()
				require.NoError(t, err)
			}
			_, err = stream.Recv()
			require.Equal(t, code, status.Code(err), "%v", err)
			require.Equal(t, asked.Message, status.Convert(err).Message())
		}
	}
}

// A message of nearly 4 MiB, the most that grpc-go accepts, passes in both directions.
func TestBigMessages(t *testing.T) {
	s := start(t, "app-1", "app-2")
	const size = 4<<20 - 64
	for name, secure := range map[string]bool{"app-1": false, "app-2": true} {
		conn := s.dial(t, secure)
		k := beginAt(t, conn, name)
		res, err := grpc_testing.NewTestServiceClient(conn).UnaryCall(k.context(limited(t)), &grpc_testing.SimpleRequest{
			ResponseSize: size, Payload: &grpc_testing.Payload{Body: bytes.Repeat([]byte("x"), size)}})
		require.NoError(t, err)
		require.Equal(t, name, res.ServerId)
		require.Len(t, res.Payload.Body, size)
	}
}

// The server learns of a deadline and of a client that gives up, and its call ends.
func TestCallsEndAtTheServer(t *testing.T) {
	s := start(t, "app-1", "app-2")
	for _, secure := range []bool{false, true} {
		conn := s.dial(t, secure)
		for _, name := range []string{"app-1", "app-2"} {
			k := beginAt(t, conn, name)
			ctx, cancel := context.WithCancel(limited(t))
			stream := k.open(t, ctx, conn)
			there := <-s.contexts
			_, has := there.Deadline()
			require.True(t, has, "the server knows the deadline")
			require.NoError(t, there.Err())
			cancel()
			_, err := stream.Recv()
			require.Equal(t, codes.Canceled, status.Code(err), "%v", err)
			ends(t, there)

			ctx, cancel = context.WithTimeout(k.context(t.Context()), 500*time.Millisecond)
			defer cancel()
			stream, err = grpc_testing.NewTestServiceClient(conn).FullDuplexCall(ctx)
			if err == nil {
				_, err = stream.Recv()
			}
			require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
			select {
			case there := <-s.contexts:
				ends(t, there)
			default: // on a busy machine the time is up before the call is there
			}
		}
	}
}

func ends(t *testing.T, ctx context.Context) {
	t.Helper()
	select {
	case <-ctx.Done():
	case <-time.After(patience):
		require.Fail(t, "the call does not end at the server")
	}
}

// A stream whose server dies ends with UNAVAILABLE, and so does a call when no server is left.
func TestServerDies(t *testing.T) {
	for _, name := range []string{"app-1", "app-2"} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprint(name, secure), func(t *testing.T) {
				s := start(t, "app-1", "app-2")
				conn := s.dial(t, secure)
				k := beginAt(t, conn, name)
				stream := k.open(t, limited(t), conn)
				s.servers[name].grpc.Stop()
				_, err := stream.Recv()
				require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)

				// The session's next call reaches the other server, which does not know it.
				require.Eventually(t, func() bool {
					_, err = k.unary(limited(t), conn)
					return status.Code(err) == codes.NotFound
				}, patience, glance)
				for range 5 {
					_, home := begin(t, conn)
					require.NotEqual(t, name, home)
				}
				for _, srv := range s.servers {
					srv.grpc.Stop()
				}
				_, err = (&session{}).unary(limited(t), conn)
				require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
			})
		}
	}
}

// What breaks off is ended only for answers of gRPC. All others must not look complete, even if the
// client says that it speaks gRPC.
func TestOthersSeeTheBreak(t *testing.T) {
	broken := endCalls(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.URL.Query().Get("answer"))
		io.WriteString(w, "half of it")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	server := httptest.NewUnstartedServer(broken)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	for _, asked := range []string{"", "application/grpc", "application/grpc+proto"} {
		for _, answer := range []string{"", "text/javascript", "application/grpc-web", "application/grpc-web+proto", "application/json"} {
			res, err := server.Client().Post(server.URL+"?answer="+url.QueryEscape(answer), asked, nil)
			require.NoError(t, err)
			body, err := io.ReadAll(res.Body)
			require.Error(t, err, "%q, %q", asked, answer)
			require.Equal(t, "half of it", string(body))
			require.NoError(t, res.Body.Close())
		}
	}
}

// A client that connects and then stops is closed after minutes: before TLS and in it, before
// HTTP/2 and between its requests.
func TestSilentClientsAreClosed(t *testing.T) {
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	certificate, err := selfsigned.New("")
	require.NoError(t, err)
	for name, play := range map[string]func(c net.Conn) net.Conn{
		"nothing":     func(c net.Conn) net.Conn { return c },
		"half of TLS": func(c net.Conn) net.Conn { io.WriteString(c, "\x16\x03\x01\x02\x00"); return c },
		"half of h2c": func(c net.Conn) net.Conn { io.WriteString(c, preface[:5]); return c },
		"only TLS": func(c net.Conn) net.Conn {
			return tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		},
		"no request": func(c net.Conn) net.Conn {
			go io.WriteString(c, preface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00") // and its settings
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lb, _, err := newBalancer(nil, nil)
				require.NoError(t, err)
				plain, secure := pipelistener.New(), pipelistener.New()
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- serve(ctx, lb, certificate, plain, secure) }()
				listener := plain
				if strings.HasSuffix(name, "TLS") {
					listener = secure
				}
				near, err := listener.Connect()
				require.NoError(t, err)
				near.SetDeadline(time.Now().Add(time.Hour))
				_, err = io.Copy(io.Discard, play(near))
				near.Close()
				cancel()
				require.NoError(t, <-ended)
				require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
			})
		})
	}
}

// A draining server keeps its sessions and streams, and gets no new ones. After the grace its
// sessions go elsewhere.
func TestDrain(t *testing.T) {
	s := start(t, "app-1", "app-2")
	conn := s.dial(t, false)
	k := beginAt(t, conn, "app-1")
	stream := k.open(t, limited(t), conn)
	ctx, cancel := context.WithCancel(t.Context())
	drained := make(chan error, 1)
	go func() { drained <- s.registry.Drain(ctx, "app-1", health.Drain{Grace: patience}) }()
	m, _ := s.lb.Pool.Member("app-1")
	require.Eventually(t, func() bool { return m.State().Admin == balancer.Draining }, patience, glance)
	for range 20 {
		_, home := begin(t, conn)
		require.Equal(t, "app-2", home)
		_, err := k.unary(limited(t), conn)
		require.NoError(t, err)
		require.NoError(t, stream.Send(&grpc_testing.StreamingOutputCallRequest{}))
		_, err = stream.Recv()
		require.NoError(t, err)
	}
	require.NoError(t, stream.CloseSend())
	_, err := stream.Recv()
	require.Equal(t, io.EOF, err)
	cancel() // the grace is over
	require.ErrorIs(t, <-drained, context.Canceled)
	_, err = k.unary(limited(t), conn)
	require.Equal(t, codes.NotFound, status.Code(err), "%v", err)
}

// A server that answers NOT_SERVING gets no new sessions. Its streams go on.
func TestNotServing(t *testing.T) {
	s := start(t, "app-1", "app-2")
	conn := s.dial(t, true)
	for _, name := range []string{"app-1", "app-2"} {
		k := beginAt(t, conn, name)
		stream := k.open(t, limited(t), conn)
		m, _ := s.lb.Pool.Member(name)
		s.servers[name].health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
		require.Eventually(t, func() bool { return m.State().Health == balancer.Unhealthy }, patience, glance)
		for range 20 {
			_, home := begin(t, conn)
			require.NotEqual(t, name, home)
		}
		require.NoError(t, stream.Send(&grpc_testing.StreamingOutputCallRequest{}))
		_, err := stream.Recv()
		require.NoError(t, err)
		require.NoError(t, stream.CloseSend())
		_, err = stream.Recv()
		require.Equal(t, io.EOF, err)
		s.servers[name].health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_SERVING)
		require.Eventually(t, func() bool { return m.State().Health == balancer.Healthy }, patience, glance)
		beginAt(t, conn, name)
	}
}

// The balancer waits for the calls in progress, and accepts no more.
func TestShutdown(t *testing.T) {
	s := start(t, "app-1", "app-2")
	conn := s.dial(t, true)
	k, _ := begin(t, conn)
	stream := k.open(t, limited(t), conn)
	ended := make(chan error, 1)
	go func() { ended <- s.end() }()
	require.Eventually(t, func() bool {
		_, err := (&session{}).call(t.Context(), s.plain.Addr(), nil)
		return status.Code(err) == codes.Unavailable
	}, patience, glance)
	for range 5 {
		require.NoError(t, stream.Send(&grpc_testing.StreamingOutputCallRequest{}))
		_, err := stream.Recv()
		require.NoError(t, err)
	}
	require.Empty(t, ended, "it waits for the client")
	require.NoError(t, stream.CloseSend())
	_, err := stream.Recv()
	require.Equal(t, io.EOF, err)
	require.NoError(t, <-ended)
}

// What main does works.
func TestVisit(t *testing.T) {
	s := start(t, "app-1", "app-2")
	require.NoError(t, visit(limited(t), s.plain.Addr(), s.secure.Addr(), s.roots))
	targets, _, _, err := startServers()
	require.NoError(t, err)
	require.Len(t, targets, 2)
}
