// Package balancertest helps to test and measure pickers.
package balancertest

import (
	"context"
	"fmt"
	"net/url"

	"github.com/stickylb/stickylb/balancer"
)

// Snapshot returns a snapshot of n members of equal weight, named "t0" and so on. It
// panics if n is negative.
func Snapshot(n int) *balancer.Snapshot {
	targets := make([]balancer.Target, n)
	for i := range targets {
		id := fmt.Sprintf("t%d", i)
		targets[i] = balancer.Target{ID: id, URL: &url.URL{Scheme: "http", Host: id}}
	}
	var c capture
	pool, err := balancer.New(balancer.Config{Targets: targets, Picker: &c})
	if err != nil {
		panic(err)
	}
	pool.Acquire(context.Background(), &balancer.Request{})
	return c.s
}

// A capture is a picker that keeps the snapshot it is asked with.
type capture struct{ s *balancer.Snapshot }

func (c *capture) Pick(_ *balancer.Request, s *balancer.Snapshot) *balancer.Member {
	c.s = s
	return nil
}
