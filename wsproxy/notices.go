package wsproxy

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/stickylb/stickylb/stickiness"
)

// manyBindings is after how many bindings, none of which ever came back, the operator is told.
const manyBindings = 1000

// notices tells the operator, once each, what a policy has noticed.
type notices struct {
	log   *slog.Logger
	told  atomic.Uint32 // stickiness.Notices
	bound atomic.Int64  // until the first binding came back
	back  atomic.Bool   // one did
}

// found sees what a request brings.
func (n *notices) found(seen []stickiness.Candidate) {
	if len(seen) == 0 || n.back.Load() {
		return
	}
	for i := range seen {
		if seen[i].Reason == stickiness.Usable {
			n.back.Store(true)
			return
		}
	}
}

// wrote sees what the policy did with a response.
func (n *notices) wrote(b *stickiness.Binding) {
	if fresh := b.Notices &^ stickiness.Notices(n.told.Load()); fresh != 0 {
		fresh &^= stickiness.Notices(n.told.Or(uint32(fresh)))
		fresh.Each(func(one stickiness.Notices) { n.tell(one, b.Target) })
	}
	if b.Result == stickiness.Bound && !n.back.Load() && n.bound.Add(1) == manyBindings {
		n.log.Warn("no session came back that was bound: another balancer in front that uses the same name, a Path that requests are outside of, Secure on plain HTTP, or clients that keep no cookies",
			slog.Int("bound", manyBindings))
	}
}

func (n *notices) tell(one stickiness.Notices, target string) {
	level := slog.LevelWarn
	if one == stickiness.RandomKey || one == stickiness.NotSecure {
		level = slog.LevelInfo
	}
	var attrs []slog.Attr
	if one == stickiness.NoValue {
		attrs = append(attrs, slog.String("target", target))
	}
	n.log.LogAttrs(context.Background(), level, one.String(), attrs...)
}
