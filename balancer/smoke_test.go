package balancer_test

import (
	"net/url"
	"testing"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stretchr/testify/require"
)

func parse(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	require.NoError(t, err)
	return u
}

func TestLeastConnections_B1_FewestFirst(t *testing.T) {
	p, err := balancer.New(balancer.Config{Targets: []balancer.Target{
		{URL: parse(t, "http://a")}, {URL: parse(t, "ws://b:81")},
	}})
	require.NoError(t, err)
	first, err := p.AcquireBound(t.Context(), "a:80", &balancer.Request{})
	require.NoError(t, err)
	for range 10 {
		l, err := p.Acquire(t.Context(), &balancer.Request{Tunnel: true})
		require.NoError(t, err)
		require.Equal(t, "b:81", l.Member().ID())
		l.Release(balancer.Outcome{})
	}
	first.Release(balancer.Outcome{})
	require.Zero(t, p.Members()[0].Load())
}
