package balancer_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
)

// A target with an ID needs no URL. It is a member like any other, except that it has no endpoint.
func TestTarget_WithoutURL(t *testing.T) {
	pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{{ID: "a", Weight: 2}, {ID: "b"}}, Picker: balancer.First{}})
	require.NoError(t, err)
	a, ok := pool.Member("a")
	require.True(t, ok)
	require.Nil(t, a.Target().URL)
	require.Empty(t, a.URL())
	network, address := a.Endpoint()
	require.Empty(t, network+address)
	target := a.Target()
	require.Empty(t, target.TLSConfig(nil).ServerName)
	require.Equal(t, "a=;weight=2", target.String())

	lease, err := pool.Acquire(t.Context(), &balancer.Request{})
	require.NoError(t, err)
	require.Same(t, a, lease.Member())
	require.NoError(t, pool.Update(balancer.Target{ID: "a", Weight: 3}))
	kept, _ := pool.Member("a")
	require.Same(t, a, kept, "other settings do not make another member")
	require.NoError(t, pool.Update(balancer.Target{ID: "a", URL: parse(t, "http://127.0.0.1:1")}))
	other, _ := pool.Member("a")
	require.NotSame(t, a, other, "a URL does")
	require.NoError(t, pool.Update(balancer.Target{ID: "a"}))
	again, _ := pool.Member("a")
	require.NotSame(t, other, again)
	lease.Release(balancer.Outcome{})

	_, err = balancer.ParseTargets("a=")
	require.ErrorContains(t, err, "the URL is empty", "text with a variable that is not set")
}
