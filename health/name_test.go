package health_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// loggedLines makes a logger without times, and returns the lines that it has written.
func loggedLines() (*slog.Logger, func() []string) {
	var log bytes.Buffer
	drop := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "stack" || a.Key == "until" {
			return slog.Attr{}
		}
		return a
	}
	return slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: drop})),
		func() []string { return strings.Split(strings.TrimSpace(log.String()), "\n") }
}

// Every line of the registry names its pool and its target once each: changes of state, an ejection
// with its reason, a drain that was broken off, and a check that panicked. Without a name, no line
// has one.
func TestRegistry_LogNamesThePoolOnce(t *testing.T) {
	for _, name := range []string{"", "shop"} {
		synctest.Test(t, func(t *testing.T) {
			pool, err := balancer.New(balancer.Config{Name: name, Targets: []balancer.Target{target("app-1"), target("app-2"), target("app-3")}})
			require.NoError(t, err)
			logger, written := loggedLines()
			r := &health.Registry{Pool: pool, Interval: time.Second, Logger: logger, Drains: health.Drain{Grace: time.Hour},
				Check: health.Func(func(_ context.Context, tg balancer.Target) error {
					if tg.ID == "app-3" {
						panic("the check's own")
					}
					return nil
				})}
			events, stop := r.Subscribe(100)
			defer stop()
			stopRun := start(t, r)
			synctest.Wait()
			for range 5 {
				lease, err := pool.AcquireBound(t.Context(), "app-1", &balancer.Request{})
				require.NoError(t, err)
				lease.Release(balancer.Outcome{Class: balancer.ConnectFailed, Err: errors.New("no route")})
			}
			press(r, "/", "app-2", "drain")
			synctest.Wait()
			stopRun()

			all := written()
			require.Contains(t, strings.Join(all, "\n"), "target ejected")
			require.Contains(t, strings.Join(all, "\n"), "drain not completed")
			require.Contains(t, strings.Join(all, "\n"), "the check has panicked")
			for _, line := range all {
				if name == "" {
					require.NotContains(t, line, "pool")
				} else {
					require.Equal(t, 1, strings.Count(line, "pool=shop"), line)
					require.Equal(t, 1, strings.Count(line, "shop"), line)
				}
				require.Equal(t, 1, strings.Count(line, "app-"), line)
			}
			require.Equal(t, name, (<-events).Pool)

			got := r.Status()
			require.Equal(t, name, got.Pool)
			w := httptest.NewRecorder()
			req := httptest.NewRequest("GET", "/?format=json", nil)
			req.Host = "localhost"
			pageOf(r).Handler().ServeHTTP(w, req)
			var page struct{ Pools []map[string]any }
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &page), w.Body)
			shown := page.Pools[0]
			if name == "" {
				require.NotContains(t, shown, "pool")
			} else {
				require.Equal(t, name, shown["pool"])
			}
		})
	}
}

// Every error of the registry names its pool, and still matches the wrapped error.
func TestRegistry_ErrorsNameThePool(t *testing.T) {
	pool, err := balancer.New(balancer.Config{Name: "shop", Targets: []balancer.Target{target("a")}})
	require.NoError(t, err)
	r := &health.Registry{Pool: pool}
	once := func(err error) {
		t.Helper()
		require.Equal(t, 1, strings.Count(err.Error(), `pool "shop"`), err)
	}
	err = r.Drain(t.Context(), "b", health.Drain{})
	require.ErrorIs(t, err, balancer.ErrUnknown)
	once(err)
	once(r.Replace([]balancer.Target{{}}, health.Drain{}))
	r.Prepare = func([]balancer.Target) error { return context.Canceled }
	err = r.Replace([]balancer.Target{target("a")}, health.Drain{})
	require.ErrorIs(t, err, context.Canceled)
	once(err)
	once((&health.Registry{Pool: pool, Timeout: -1}).Run(t.Context()))
}
