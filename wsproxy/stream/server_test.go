package stream_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/tracetest"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

func TestServer_W9_RoundRobin(t *testing.T) {
	a, b := newBackend(t, "a", nil, greeting("a")), newBackend(t, "b", nil, greeting("b"))
	pool := newPool(t, balancer.Config{Picker: &balancer.RoundRobin{}}, a.target(), b.target())
	r := serve(t, &stream.Server{Pool: pool})
	got := make(map[string]int)
	for range 4 {
		c := r.dial(t)
		id := make([]byte, 1)
		_, err := io.ReadFull(c, id)
		require.NoError(t, err)
		got[string(id)]++
		chat(t, c)
	}
	require.Equal(t, map[string]int{"a": 2, "b": 2}, got)
	require.EqualValues(t, 2, member(t, pool, "a").Tunnels(), "a connection counts as a tunnel until it ends")
}

func TestServer_W9_StickyBySourceAddress(t *testing.T) {
	var targets []balancer.Target
	for i := range 8 {
		id := fmt.Sprint(i)
		targets = append(targets, newBackend(t, id, nil, greeting(id)).target())
	}
	for name, picker := range map[string]balancer.Picker{
		"rendezvous": &balancer.Rendezvous{}, "source address": &balancer.SourceAddress{},
	} {
		t.Run(name, func(t *testing.T) {
			r := serve(t, &stream.Server{Pool: newPool(t, balancer.Config{Picker: picker}, targets...)})
			met := make(map[string]bool)
			for i := range 24 {
				from := fmt.Sprintf("127.0.1.%d", i+1)
				var first string
				for range 3 {
					c := r.dialFrom(t, from)
					id := make([]byte, 1)
					_, err := io.ReadFull(c, id)
					require.NoError(t, err)
					require.Contains(t, []string{"", first}, first)
					if first == "" {
						first = string(id)
					}
					require.Equal(t, first, string(id), from)
					require.NoError(t, c.Close())
					rec := r.ended(t)
					require.Equal(t, netip.MustParseAddr(from), rec.Client)
					require.Equal(t, first, rec.Target)
				}
				met[first] = true
			}
			require.Greater(t, len(met), 3, "all clients came to the same targets")
		})
	}
}

func TestServer_W9_Record(t *testing.T) {
	b := newBackend(t, "a", nil, echoing)
	r := serve(t, &stream.Server{Pool: newPool(t, balancer.Config{}, b.target())})
	before := time.Now()
	c := r.dial(t)
	chat(t, c)
	closeWrite(t, c)
	expectEnd(t, c)
	rec := r.ended(t)
	require.WithinRange(t, rec.Start, before, time.Now())
	require.Positive(t, rec.Duration)
	rec.Start, rec.Duration = time.Time{}, 0
	require.Equal(t, stream.Record{
		Client: netip.MustParseAddr("127.0.0.1"), Target: "a", Attempts: 1,
		FromClient: 4, FromBackend: 4, EndedBy: "client closed",
	}, rec)
}

func TestLogAccess(t *testing.T) {
	var out bytes.Buffer
	drop := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "duration" {
			return slog.Attr{}
		}
		return a
	}
	trace := stream.LogAccess(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: drop})))
	trace.Done(stream.Record{
		Client: netip.MustParseAddr("192.0.2.1"), ServerName: "one.example", Target: "a", Attempts: 2,
		FromClient: 3, FromBackend: 4, EndedBy: "idle", Duration: time.Second,
	})
	trace.Done(stream.Record{Err: errors.New("no luck")})
	require.Equal(t, `level=INFO msg=connection client=192.0.2.1 server_name=one.example target=a attempts=2 `+
		`from_client=3 from_backend=4 ended_by=idle
level=INFO msg=connection client="" server_name="" target="" attempts=0 from_client=0 from_backend=0 ended_by="" error="no luck"
`, out.String())
}

// Reflection also finds fields that are added later.
func TestMultiTrace_CallsEveryHookInOrder(t *testing.T) {
	tracetest.Multi(t, stream.MultiTrace)
	require.Equal(t, &stream.Trace{}, stream.MultiTrace(nil, &stream.Trace{}, nil), "what nobody hears of costs nothing")
}

// Failures are logged. Warn is for those that an operator can do something about.
func TestServer_Logger(t *testing.T) {
	tests := map[string]struct {
		server *stream.Server
		client string
		want   string
	}{
		"no target": {&stream.Server{Pool: newPool(t, balancer.Config{})}, "",
			`level=WARN msg="connection failed" error="stream: no target: balancer: no target" client=127.0.0.1 server_name=""`},
		"not TLS": {&stream.Server{Pool: newPool(t, balancer.Config{}), ReadHello: true}, "GET / HTTP/1.1\r\n\r\n",
			`level=DEBUG msg="connection failed" error="stream: handshake: tls: first record does not look like a TLS handshake" client=127.0.0.1 server_name=""`},
		"gone": {&stream.Server{Pool: newPool(t, balancer.Config{}), TLS: serverTLS()}, "",
			`level=DEBUG msg="connection failed" error="stream: client gone: EOF" client=127.0.0.1 server_name=""`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer // written before the record
			tt.server.Logger = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
			r := serve(t, tt.server)
			c := r.dial(t)
			send(t, c, tt.client)
			closeWrite(t, c)
			r.ended(t)
			_, line, _ := strings.Cut(strings.TrimSpace(out.String()), " ")
			require.Equal(t, tt.want, line)
		})
	}
}

func TestServer_W9_HalfCloseBeforeTheTarget(t *testing.T) {
	b := newBackend(t, "a", nil, func(c net.Conn) {
		defer c.Close()
		got, _ := io.ReadAll(c)
		fmt.Fprintf(c, "%d bytes", len(got))
	})
	connect := make(chan struct{})
	r := serve(t, &stream.Server{
		Pool: newPool(t, balancer.Config{}, b.target()),
		Dial: func(ctx context.Context, m *balancer.Member) (net.Conn, error) {
			<-connect
			return new(net.Dialer).DialContext(ctx, "tcp", m.Target().URL.Host)
		},
	})
	c := r.dial(t)
	send(t, c, "question")
	closeWrite(t, c)
	close(connect)
	expect(t, c, "8 bytes")
	expectEnd(t, c)
	require.Equal(t, "client closed", r.ended(t).EndedBy)
}

func TestServer_W5_Limits(t *testing.T) {
	tests := map[string]struct {
		limits stream.Limits
		use    func(t *testing.T, client, far net.Conn)
		after  time.Duration
		by     string
	}{
		"idle": {stream.Limits{Idle: time.Minute}, func(*testing.T, net.Conn, net.Conn) {}, time.Minute, "idle"},
		"idle later": {stream.Limits{Idle: time.Minute}, func(t *testing.T, client, far net.Conn) {
			time.Sleep(time.Minute - 1)
			send(t, far, "x")
		}, 2*time.Minute - 1, "idle"},
		"lifetime": {stream.Limits{Lifetime: time.Hour, Jitter: -1}, func(*testing.T, net.Conn, net.Conn) {}, time.Hour, "lifetime"},
		"linger": {stream.Limits{}, func(t *testing.T, client, _ net.Conn) {
			time.Sleep(time.Hour)
			closeWrite(t, client)
		}, time.Hour + 30*time.Second, "linger"},
		"linger set": {stream.Limits{Linger: time.Second}, func(t *testing.T, _, far net.Conn) {
			closeWrite(t, far)
		}, time.Second, "linger"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBubble(t, &stream.Server{Limits: tt.limits})
				began := time.Now()
				client, far := b.open(t)
				go io.Copy(io.Discard, client)
				go io.Copy(io.Discard, far)
				tt.use(t, client, far)
				rec := <-b.records
				require.Equal(t, tt.by, rec.EndedBy)
				require.Equal(t, tt.after, time.Since(began))
			})
		})
	}
}

func TestServer_W9_ClientIsToldNothingItNeedNotKnow(t *testing.T) {
	r := serve(t, &stream.Server{Pool: newPool(t, balancer.Config{}, dead(t, "a"))})
	c := r.dial(t)
	got, err := io.ReadAll(c)
	require.Empty(t, got)
	require.True(t, err == nil || errors.Is(err, syscall.ECONNRESET), "%v", err)
}

// A server that cannot serve is refused before it accepts a connection: by Validate, and by a panic
// of Serve.
func TestServer_W9_ValidateRefusesWhatCannotServe(t *testing.T) {
	pool, err := balancer.New(balancer.Config{})
	require.NoError(t, err)
	for say, s := range map[string]*stream.Server{
		"stream: Server has no Pool":                            {},
		"stream: SendProxy is no version of the PROXY protocol": {Pool: pool, SendProxy: 3},
		"stream: TLS has no certificate":                        {Pool: pool, TLS: &tls.Config{}},
		"stream: Logger has no handler":                         {Pool: pool, Logger: new(slog.Logger)},
	} {
		require.EqualError(t, s.Validate(), say)
		require.PanicsWithValue(t, say, func() { s.Serve(nil) })
	}
	inProcess, err := balancer.New(balancer.Config{Targets: []balancer.Target{{ID: "a"}}})
	require.NoError(t, err)
	require.EqualError(t, (&stream.Server{Pool: inProcess}).Validate(), `stream: target "a": a stream.Server needs a URL`)

	s := &stream.Server{Route: func(stream.Client) *balancer.Pool { return pool }, TLS: &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }}}
	require.NoError(t, s.Validate())
}

func TestServer_PanicsWithoutPool(t *testing.T) {
	require.PanicsWithValue(t, "stream: Server has no Pool", func() { new(stream.Server).Serve(nil) })
}

// A hook's panic ends its own connection and nothing else.
func TestServer_HookPanics(t *testing.T) {
	hooks := map[string]func(s *stream.Server){
		"key":   func(s *stream.Server) { s.Key = func(stream.Client) string { panic("hook") } },
		"route": func(s *stream.Server) { s.Route = func(stream.Client) *balancer.Pool { panic("hook") } },
		"pick": func(s *stream.Server) {
			s.Trace = &stream.Trace{Pick: func(stream.Client, *balancer.Member, error) { panic("hook") }}
		},
		"retry": func(s *stream.Server) {
			s.Trace = &stream.Trace{Retry: func(stream.Client, *stream.Error) { panic("hook") }}
		},
		"dial": func(s *stream.Server) {
			s.Dial = func(context.Context, *balancer.Member) (net.Conn, error) { panic("hook") }
		},
	}
	for name, set := range hooks {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, "b", nil, echoing)
			pool := newPool(t, balancer.Config{Picker: balancer.First{}}, dead(t, "a"), b.target())
			s := &stream.Server{Pool: pool}
			set(s)
			r := serve(t, s)
			expectEnd(t, r.dial(t))
			failure, ok := errors.AsType[*stream.Error](r.ended(t).Err)
			require.True(t, ok)
			require.Equal(t, stream.ClassPanic, failure.Class)
			idle(t, pool)
			require.Empty(t, r.records, "told twice")
		})
	}
}

// The panic of Done is not reported to Done.
func TestServer_DonePanics(t *testing.T) {
	var calls atomic.Int32
	done := make(chan struct{}, 10)
	s := &stream.Server{Pool: newPool(t, balancer.Config{}), Logger: noLog, Trace: &stream.Trace{Done: func(stream.Record) {
		calls.Add(1)
		defer func() { done <- struct{}{} }()
		panic("hook")
	}}}
	l := listen(t)
	go s.Serve(l)
	c := dialOnce(t, l.Addr().String(), "127.0.0.1")
	defer c.Close()
	wait(t, done, "Done")
	expectEnd(t, c)
	require.NoError(t, s.Shutdown(t.Context()))
	require.EqualValues(t, 1, calls.Load())
}

func TestError(t *testing.T) {
	cause := errors.New("refused")
	err := &stream.Error{Class: stream.ClassDial, Target: "a", Attempt: 2, Err: cause}
	require.EqualError(t, err, `stream: dial: target "a", attempt 2: refused`)
	require.ErrorIs(t, err, cause)
	require.EqualError(t, &stream.Error{Class: stream.ClassNoTarget, Err: cause}, "stream: no target: refused")
	require.Equal(t, "Class(99)", stream.Class(99).String())
	require.Equal(t, "panic", stream.ClassPanic.String())
	require.Equal(t, "Class(16)", (stream.ClassPanic + 1).String(), "a class without a name")
}

// Pick gets the error if no member was chosen, also after a failed attempt.
func TestTrace_PickWithoutTarget(t *testing.T) {
	for name, tt := range map[string]struct {
		targets []balancer.Target
		want    []string
	}{
		"none":             {nil, []string{"balancer: no target"}},
		"none but one":     {[]balancer.Target{dead(t, "a")}, []string{"a", "balancer: no target: every target failed this request (balancer: target failed this request already)"}},
		"all of them dead": {[]balancer.Target{dead(t, "a"), dead(t, "b")}, []string{"a", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			var picks []string // read after the end
			r := serve(t, &stream.Server{Pool: first(t, tt.targets...), Trace: &stream.Trace{
				Pick: func(_ stream.Client, m *balancer.Member, err error) {
					if err != nil {
						picks = append(picks, err.Error())
						return
					}
					picks = append(picks, m.ID())
				},
			}})
			expectEnd(t, r.dial(t))
			r.ended(t)
			require.Equal(t, tt.want, picks)
		})
	}
}
