package wsproxy_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/logtest"
)

// named returns a pool of that name with targets that have no network, chosen in their order.
func named(t *testing.T, name string, ids ...string) *balancer.Pool {
	t.Helper()
	p, err := balancer.New(balancer.Config{Name: name, Picker: balancer.First{}})
	require.NoError(t, err)
	var targets []balancer.Target
	for _, id := range ids {
		targets = append(targets, target(id, "http://"+id+".invalid"))
	}
	require.NoError(t, p.Update(targets...))
	return p
}

func fine(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

var errDial = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}

// What the proxy logs, records and returns as an error names the pool once, and the target once.
// A pool without a name is not named.
func TestProxy_NamesThePoolOnce(t *testing.T) {
	for _, name := range []string{"", "shop"} {
		for what, tt := range map[string]struct {
			ids    []string
			class  wsproxy.Class
			target string
		}{
			"no target":       {nil, wsproxy.ClassNoTarget, ""},
			"a dead one":      {[]string{"app-1"}, wsproxy.ClassDial, "app-1"},
			"a retry in vain": {[]string{"app-1", "app-2"}, wsproxy.ClassDial, "app-2"},
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				var log logtest.Buffer
				logger := slog.New(slog.NewTextHandler(&log, nil))
				var record wsproxy.Record
				var page, retried *wsproxy.Error
				p := &wsproxy.Proxy{
					Pool: named(t, name, tt.ids...), Logger: logger,
					Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, errDial }),
					Trace: wsproxy.MultiTrace(wsproxy.LogAccess(logger, nil), &wsproxy.Trace{
						Done:  func(_ *http.Request, rec wsproxy.Record) { record = rec },
						Retry: func(_ *http.Request, failed *wsproxy.Error) { retried = failed },
					}),
					ErrorPage: func(w http.ResponseWriter, _ *http.Request, e *wsproxy.Error) { page = e; w.WriteHeader(e.Status) },
				}
				defer p.Close()
				p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))

				require.Equal(t, tt.class, page.Class)
				require.Equal(t, name, record.Pool)
				require.Equal(t, tt.target, record.Target)
				require.Equal(t, len(tt.ids) > 1, retried != nil)
				for _, e := range []*wsproxy.Error{page, retried} {
					if e != nil {
						require.Equal(t, name, e.Pool)
						require.Equal(t, min(1, len(name)), strings.Count(e.Error(), `pool "shop"`), e)
						require.LessOrEqual(t, strings.Count(e.Error(), "app-"), 1, e)
					}
				}
				lines := strings.Split(strings.TrimSpace(log.String()), "\n")
				require.Len(t, lines, 2, "one of the logger's and one of the access log's")
				for _, line := range lines {
					require.Equal(t, min(1, len(name)), strings.Count(line, " pool=shop "), line)
					require.Equal(t, min(1, len(name)), strings.Count(line, "shop"), line)
					require.Equal(t, name != "", strings.Contains(line, "pool="), line)
					require.Equal(t, min(1, len(tt.target)), strings.Count(line, "app-"), line)
				}
			})
		}
	}
}

// A binding whose target may not serve: the error tells the pool once, whatever was the reason.
func TestProxy_W2_AMissNamesThePoolOnce(t *testing.T) {
	var why error
	var page *wsproxy.Error
	pool := named(t, "shop", "app-1", "app-2")
	policy := lbCookie(t, stickiness.LBCookieOptions{})
	p := &wsproxy.Proxy{
		Pool: pool, Policy: policy, Logger: slog.New(slog.DiscardHandler),
		Transport: roundTripper(fine),
		OnMiss:    func(_ *http.Request, _ string, err error) wsproxy.Miss { why = err; return wsproxy.Fail },
		ErrorPage: func(w http.ResponseWriter, _ *http.Request, e *wsproxy.Error) { page = e; w.WriteHeader(e.Status) },
	}
	defer p.Close()
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	app, _ := pool.Member("app-1")
	app.SetAdmin(balancer.Down)
	r := httptest.NewRequest("GET", "/", nil)
	for _, c := range w.Result().Cookies() {
		r.AddCookie(c)
	}
	p.ServeHTTP(httptest.NewRecorder(), r)
	require.EqualError(t, why, `balancer: pool "shop": target is down`)
	require.EqualError(t, page, `wsproxy: no target: pool "shop": bound to "app-1": balancer: target is down`)
	require.ErrorIs(t, page, balancer.ErrDown)
}

// A registry that ejects a target because of a proxy's failures logs the target's name once: the
// reason is what went wrong, and not where.
func TestProxy_B5_AnEjectionsReasonDoesNotRepeatTheTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := named(t, "shop", "app-1", "app-2")
		var log logtest.Buffer
		r := &health.Registry{Pool: pool, Interval: -1, Logger: slog.New(slog.NewTextHandler(&log, nil))}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		p := &wsproxy.Proxy{
			Pool: pool, Logger: slog.New(slog.DiscardHandler), Retry: wsproxy.Retry{Max: -1},
			Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				if r.URL.Host == "app-1.invalid" {
					return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("no such network")}
				}
				return fine(r)
			}),
		}
		for range 5 {
			p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, p.Close())
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		require.Len(t, lines, 1, lines)
		require.Contains(t, lines[0], `msg="health: target ejected" pool=shop target=app-1 until=`)
		require.Contains(t, lines[0], `5 failures in a row, the last one: wsproxy: dial: dial tcp: no such network`)
		require.Equal(t, 1, strings.Count(lines[0], "app-1"), lines[0])
	})
}

// The end of a tunnel is told with the pool, too.
func TestLogAccess_TunnelsNameThePool(t *testing.T) {
	var log logtest.Buffer
	tgt := chatter(t, "a")
	p, ended := tunnelled(t, tgt)
	pool, err := balancer.New(balancer.Config{Name: "chat", Targets: []balancer.Target{tgt}})
	require.NoError(t, err)
	p.Pool = pool
	p.Trace = wsproxy.MultiTrace(wsproxy.LogAccess(slog.New(slog.NewTextHandler(&log, nil)), nil), p.Trace)
	c := dial(t, serve(t, p))
	c.open()
	say(t, c)
	require.Equal(t, "chat", wait(t, ended, "the record").Pool)
	require.Equal(t, 1, strings.Count(log.String(), " pool=chat target=a "), log.String())
}
