package wsproxy_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/logtest"
	"github.com/stickylb/stickylb/wsproxy/internal/tracetest"
)

// A diary has what a Trace was told, a line for each call.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diary) trace() *wsproxy.Trace {
	class := func(err error) any {
		if e, ok := err.(*wsproxy.Error); ok {
			return e.Class
		}
		return err
	}
	return &wsproxy.Trace{
		Lookup: func(_ *http.Request, found []stickiness.Candidate) {
			for _, c := range found {
				d.note("candidate %q %v", c.Target, c.Reason)
			}
		},
		Upgrade: func(_ *http.Request, protocol string) { d.note("upgrade %q", protocol) },
		Pick: func(_ *http.Request, m *balancer.Member, err error) {
			if err != nil {
				d.note("pick: %v", err)
			} else {
				d.note("pick %s", m.ID())
			}
		},
		Attempt: func(_ *http.Request, a wsproxy.Attempt) {
			d.note("attempt %d at %s: %d %v", a.Number, a.Target, a.Status, class(a.Err))
		},
		Retry: func(_ *http.Request, failed *wsproxy.Error) { d.note("retry after %v", failed.Class) },
		Bind:  func(_ *http.Request, b *stickiness.Binding) { d.note("bind to %s", b.Target) },
		Done: func(_ *http.Request, r wsproxy.Record) {
			d.note("done %s %d %q after %d: %v", r.Method, r.Status, r.Upgrade, r.Attempts, class(r.Err))
		},
		Tunnel: func(r wsproxy.TunnelRecord) {
			d.note("tunnel %q %d, %d and %d bytes, codes %d and %d, by %s", r.Upgrade, r.Status, r.FromClient, r.FromBackend,
				r.ClientCode, r.BackendCode, r.EndedBy)
		},
	}
}

// wait gives the lines when there are so many.
func (d *diary) wait(t testing.TB, n int) []string {
	t.Helper()
	var lines []string
	require.Eventually(t, func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		lines = d.lines
		return len(lines) >= n
	}, patience, 1e6, "%q", &lines)
	return lines
}

// traced is a proxy to a dead target, picked first, and a living one.
func traced(t *testing.T) (*wsproxy.Proxy, *diary) {
	dead := newBackend(t, "dead", nil)
	dead.stop()
	pool, _ := newPool(t, dead.target(), chatter(t, "alive"))
	d := &diary{}
	return &wsproxy.Proxy{Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{}), Trace: d.trace()}, d
}

// say passes a frame and then closes the WebSocket.
func say(t testing.TB, w *wire) {
	t.Helper()
	w.send(maskedFrame(0x81, "hello"))
	require.Equal(t, "hello", string(readFrame(t, w).payload))
	w.send(maskedFrame(0x88, "\x03\xe8"))
	code, _ := readFrame(t, w).closing(t)
	require.EqualValues(t, 1000, code)
	w.closeWrite()
	w.expectEnd()
}

// Every decision is told, in its order.
func TestTrace_EveryDecisionOfAnUpgrade(t *testing.T) {
	p, d := traced(t)
	c := dial(t, serve(t, p))
	c.open("Cookie: AWSELB=forged")
	d.wait(t, 9) // the tunnel may else end first
	say(t, c)
	require.Equal(t, []string{
		`upgrade "websocket"`,
		`candidate "" malformed`,
		"pick dead",
		"attempt 1 at dead: 0 dial",
		"pick alive",
		"retry after dial",
		"attempt 2 at alive: 101 <nil>",
		"bind to alive",
		`done GET 101 "websocket" after 2: <nil>`,
		`tunnel "websocket" 101, 19 and 11 bytes, codes 1000 and 1000, by client closed`,
	}, d.wait(t, 10))
}

func TestTrace_EveryDecisionOfAnExtendedConnect(t *testing.T) {
	if !inExtended(t) {
		return
	}
	p, d := traced(t)
	p.Pool, _ = newPool(t, chatter(t, "alive"))
	c := h2Front(t, p).open(t, nil).wire(t)
	d.wait(t, 5)
	say(t, c)
	require.Equal(t, []string{
		`upgrade "websocket"`,
		"pick alive",
		"attempt 1 at alive: 101 <nil>",
		"bind to alive",
		`done CONNECT 200 "websocket" after 1: <nil>`,
		`tunnel "websocket" 200, 19 and 11 bytes, codes 1000 and 1000, by client closed`,
	}, d.wait(t, 6))
}

func TestTrace_EveryDecisionOfAPlainRequest(t *testing.T) {
	p, d := traced(t)
	b := newBackend(t, "b", nil)
	p.Pool, _ = newPool(t, b.target())
	c := newClient(t, serve(t, p)).withoutCookies()
	c.get("/", "Connection: Upgrade", "Upgrade: h2c")
	require.Equal(t, []string{`upgrade ""`, "pick b", "attempt 1 at b: 200 <nil>", "bind to b", `done GET 200 "" after 1: <nil>`}, d.wait(t, 5))

	d.lines = nil
	member(t, p.Pool, "b").SetAdmin(balancer.Down)
	c.get("/")
	require.Equal(t, []string{"pick: balancer: no target", `done GET 503 "" after 0: no target`}, d.wait(t, 2))
}

// One record for each request and one for each tunnel, without anything secret.
func TestLogAccess_TunnelsWhenTheyEnd(t *testing.T) {
	var out bytes.Buffer
	drop := func(_ []string, a slog.Attr) slog.Attr {
		switch a.Key {
		case "time", "duration", "open", "client":
			return slog.Attr{}
		}
		return a
	}
	access := wsproxy.LogAccess(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: drop})), nil)
	p, ended := tunnelled(t, chatter(t, "a"))
	p.Trace = wsproxy.MultiTrace(access, p.Trace)
	p.Policy = lbCookie(t, stickiness.LBCookieOptions{})
	c := dial(t, serve(t, p))
	c.open("Cookie: AWSELB=secret; app=secret", "Authorization: secret", "Sec-WebSocket-Protocol: secret")
	say(t, c)
	wait(t, ended, "the record")
	require.Equal(t, "level=INFO msg=tunnel method=GET host=app.example path=/chat status=101 target=a attempts=1 bytes=0 "+
		"from_client=19 from_backend=11 client_code=1000 backend_code=1000 ended_by=\"client closed\"", strings.TrimSpace(out.String()))
}

type requestID struct{}

// contextHandler adds what the context has, as handlers for trace IDs do.
type contextHandler struct{ slog.Handler }

func (h contextHandler) Handle(ctx context.Context, r slog.Record) error {
	r.AddAttrs(slog.Any("request_id", ctx.Value(requestID{})), slog.Bool("over", ctx.Err() != nil))
	return h.Handler.Handle(ctx, r)
}

// The logger's handler has the request's context, and the caller's attributes are added: for
// requests, and for upgraded connections, whose request is long over when they end.
func TestLogAccess_ContextAndAttributes(t *testing.T) {
	keep := func(_ []string, a slog.Attr) slog.Attr {
		switch a.Key {
		case "msg", "request_id", "over", "agent", "status":
			return a
		}
		return slog.Attr{}
	}
	var out logtest.Buffer
	access := wsproxy.LogAccess(slog.New(contextHandler{slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: keep})}),
		func(r *http.Request) []slog.Attr { return []slog.Attr{slog.String("agent", r.UserAgent())} })
	p, ended := tunnelled(t, chatter(t, "a"))
	p.Trace = wsproxy.MultiTrace(access, p.Trace)
	p.Logger = noLog
	handled := make(chan struct{}, 1)
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(context.WithValue(r.Context(), requestID{}, 4711))
		p.ServeHTTP(w, r.WithContext(ctx))
		cancel()
		handled <- struct{}{}
	}))
	c := dial(t, srv)
	c.open("User-Agent: chat")
	wait(t, handled, "the end of the handler")
	say(t, c)
	wait(t, ended, "the end of the tunnel")
	member(t, p.Pool, "a").SetAdmin(balancer.Down)
	newClient(t, srv).get("/", "User-Agent: browser")
	require.Equal(t, "msg=tunnel status=101 agent=chat request_id=4711 over=false\n"+
		"msg=request status=503 agent=browser request_id=4711 over=false\n", out.String())
}

// A tunnel whose Switch panics is logged, runs and ends all the same; so is what Switch returns.
func TestTrace_SwitchThatPanicsIsContained(t *testing.T) {
	for name, hook := range map[string]func(*http.Request) func(wsproxy.TunnelRecord){
		"Switch": func(*http.Request) func(wsproxy.TunnelRecord) { panic("a hook of mine") },
		"its func": func(*http.Request) func(wsproxy.TunnelRecord) {
			return func(wsproxy.TunnelRecord) { panic("a hook of mine") }
		},
		"nil": func(*http.Request) func(wsproxy.TunnelRecord) { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			var log logtest.Buffer
			p, ended := tunnelled(t, chatter(t, "a"))
			p.Logger = slog.New(slog.NewTextHandler(&log, nil))
			p.Trace.Switch = hook
			c := dial(t, serve(t, p))
			c.open()
			say(t, c)
			require.Equal(t, "client closed", wait(t, ended, "the end").EndedBy)
			require.Equal(t, name != "nil", strings.Contains(log.String(), "Trace.Switch has panicked"), log.String())
			require.NoError(t, p.Close())
			require.Zero(t, member(t, p.Pool, "a").Load())
		})
	}
}

// Reflection sees fields that are added later.
func TestMultiTrace_CallsEveryHookInOrder(t *testing.T) {
	tracetest.Multi(t, wsproxy.MultiTrace)
	require.Equal(t, &wsproxy.Trace{}, wsproxy.MultiTrace(nil, &wsproxy.Trace{}, nil), "what nobody hears of costs nothing")
}
