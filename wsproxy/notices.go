package wsproxy

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/stickylb/stickylb/stickiness"
)

// manyBindings is the number of bindings after which a warning is logged if none has come back.
const manyBindings = 1000

// notices logs each thing that a policy has noticed once.
type notices struct {
	log   *slog.Logger
	told  atomic.Uint32 // the stickiness.Notices that were logged
	bound atomic.Int64  // bindings before the first one came back
	back  atomic.Bool   // a binding has come back
}

// found is called with the candidates of each request.
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

// wrote is called after the policy has seen a response.
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
