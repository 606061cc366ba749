package balancer_test

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stretchr/testify/require"
)

// everyPicker has all pickers of the library, by the names that tests and benchmarks use.
var everyPicker = map[string]func() balancer.Picker{
	"least":              func() balancer.Picker { return &balancer.LeastConnections{} },
	"round robin":        func() balancer.Picker { return &balancer.RoundRobin{} },
	"random":             func() balancer.Picker { return balancer.Random{} },
	"two choices":        func() balancer.Picker { return balancer.TwoChoices{} },
	"latency":            func() balancer.Picker { return balancer.LatencyTwoChoices{} },
	"rendezvous":         func() balancer.Picker { return &balancer.Rendezvous{} },
	"rendezvous bounded": func() balancer.Picker { return &balancer.Rendezvous{MaxLoad: 1.25} },
	"maglev":             func() balancer.Picker { return &balancer.Maglev{} },
	"maglev bounded":     func() balancer.Picker { return &balancer.Maglev{MaxLoad: 1.25} },
	"source address":     func() balancer.Picker { return &balancer.SourceAddress{} },
	"first":              func() balancer.Picker { return balancer.First{} },
}

// each runs a test with every picker.
func each(t *testing.T, test func(t *testing.T, picker balancer.Picker)) {
	for name, make := range everyPicker {
		t.Run(name, func(t *testing.T) { test(t, make()) })
	}
}

func parse(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	require.NoError(t, err)
	return u
}

// target returns a target on host id.
func target(id string) balancer.Target {
	return balancer.Target{ID: id, URL: &url.URL{Scheme: "http", Host: id}}
}

// targets returns n targets, "t00" and so on.
func targets(n int) []balancer.Target {
	ts := make([]balancer.Target, n)
	for i := range ts {
		ts[i] = target(fmt.Sprintf("t%02d", i))
	}
	return ts
}

// weighted returns targets of those weights.
func weighted(weights ...int) []balancer.Target {
	ts := targets(len(weights))
	for i, w := range weights {
		ts[i].Weight = w
	}
	return ts
}

func newPool(t testing.TB, c balancer.Config) *balancer.Pool {
	t.Helper()
	p, err := balancer.New(c)
	require.NoError(t, err)
	return p
}

func member(t testing.TB, p *balancer.Pool, id string) *balancer.Member {
	t.Helper()
	m, ok := p.Member(id)
	require.True(t, ok, id)
	return m
}

func acquire(t testing.TB, p *balancer.Pool, q *balancer.Request) balancer.Lease {
	t.Helper()
	l, err := p.Acquire(t.Context(), q)
	require.NoError(t, err)
	return l
}

func bound(t testing.TB, p *balancer.Pool, id string) balancer.Lease {
	t.Helper()
	l, err := p.AcquireBound(t.Context(), id, &balancer.Request{})
	require.NoError(t, err)
	return l
}

// pick acquires and releases, and returns the ID that came.
func pick(t testing.TB, p *balancer.Pool, q *balancer.Request) string {
	t.Helper()
	l := acquire(t, p, q)
	defer l.Release(balancer.Outcome{})
	return l.Member().ID()
}

// picks returns how often each ID comes in n picks.
func picks(t testing.TB, p *balancer.Pool, n int) map[string]int {
	t.Helper()
	count := map[*balancer.Member]int{}
	for i := range n {
		q := balancer.Request{Key: strconv.Itoa(i), Client: client(i)}
		l, err := p.Acquire(t.Context(), &q)
		if err != nil {
			t.Fatal(err)
		}
		count[l.Member()]++
		l.Release(balancer.Outcome{})
	}
	ids := map[string]int{}
	for m, n := range count {
		ids[m.ID()] += n
	}
	return ids
}

func keys(m map[string]int) []string {
	var ids []string
	for id := range m {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// within fails the test when f does not end in time.
func within(t testing.TB, d time.Duration, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(d):
		t.Fatal("it does not end")
	}
}
