package health_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// Checks over the network refuse a target without a URL when Run begins, at Update while it runs,
// and themselves. A function checks it.
func TestRegistry_B5_TargetsWithoutURL(t *testing.T) {
	pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{{ID: "a"}}})
	require.NoError(t, err)
	ask := health.Conversation{Steps: []health.Step{{Send: "x"}}}
	for _, check := range []health.Check{
		nil, health.TCP{}, &health.TCP{}, health.TLS{}, health.HTTP{}, health.WebSocket{}, health.GRPC{}, ask,
	} {
		err := (&health.Registry{Pool: pool, Check: check}).Run(t.Context())
		require.ErrorContains(t, err, `target "a": the target has no URL: check it with a health.Func`, "%T", check)
		if check != nil {
			require.Error(t, check.Check(t.Context(), balancer.Target{ID: "a"}), "%T", check)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, (&health.Registry{Pool: pool, Interval: -1}).Run(ctx), "nothing is probed")

	r := &health.Registry{Pool: pool, Check: health.Func(func(_ context.Context, t balancer.Target) error { return nil })}
	run(t, r)
	require.NoError(t, r.Ready(t.Context()))
	a, _ := pool.Member("a")
	require.Equal(t, balancer.Healthy, a.State().Health)
	require.NoError(t, pool.Update(balancer.Target{ID: "a"}, balancer.Target{ID: "b"}))

	networked := newPool(t, target("c"))
	run(t, &health.Registry{Pool: networked, Check: health.Func(func(context.Context, balancer.Target) error { return nil })})
	require.NoError(t, networked.Update(balancer.Target{ID: "d"}))

	status, err := json.Marshal(r.Status())
	require.NoError(t, err)
	require.Contains(t, string(status), `"id":"a","url":""`)
	w, req := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
	req.Host = "localhost"
	(&health.Page{Registries: []*health.Registry{r}}).Handler().ServeHTTP(w, req)
	require.Equal(t, http.StatusOK, w.Code)
	require.NotContains(t, w.Body.String(), " ·  · ")
}

// A registry whose checks use the network refuses an update with such a target while it runs.
func TestRegistry_B5_UpdateWithoutURL(t *testing.T) {
	pool := newPool(t, target("c"))
	r := &health.Registry{Pool: pool, Check: health.TCP{}}
	run(t, r)
	require.NoError(t, r.Ready(t.Context()))
	require.ErrorContains(t, pool.Update(balancer.Target{ID: "d"}), `target 0 ("d"): the target has no URL`)
	_, ok := pool.Member("c")
	require.True(t, ok, "nothing was changed")
}
