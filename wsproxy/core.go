package wsproxy

import (
	"log/slog"
	"net/http"
	"strings"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

// settings are the fields that a Proxy and a Sticky have in common, as far as they are checked and
// prepared in the same way.
type settings struct {
	of           string // "Proxy" or "Sticky"
	pool         *balancer.Pool
	policy       stickiness.Policy
	onMiss       func(r *http.Request, id string, why error) Miss
	perKeyStatus int
	trust        trust
	upgrades     []string
	tunnels      *TunnelLimits
	page         func(w http.ResponseWriter, r *http.Request, e *Error)
	trace        *Trace
	logger       *slog.Logger
}

// A core is the state that a Proxy and a Sticky have in common. It has all that a request needs to
// get a member, except for the way there.
type core struct {
	chooser  chooser
	informer stickiness.Informer // the policy; nil when it is none
	upgrades []string            // lower case
	page     func(w http.ResponseWriter, r *http.Request, e *Error)
	trace    Trace
	log      *slog.Logger
	busy     underway.Set

	requests underway.Shares // in flight, by key; not after a switch
	switched underway.Shares // upgraded connections, and upgrades that wait for their target, by key
}

// init makes the state from valid settings.
func (c *core) init(s *settings) {
	c.informer, _ = s.policy.(stickiness.Informer)
	c.upgrades = []string{"websocket"}
	if s.upgrades != nil {
		c.upgrades = nil
		for _, token := range s.upgrades {
			c.upgrades = append(c.upgrades, strings.ToLower(token))
		}
	}
	if c.page = s.page; c.page == nil {
		c.page = plainErrorPage
	}
	if s.trace != nil {
		c.trace = *s.trace
	}
	if c.log = s.logger; c.log == nil {
		c.log = slog.Default()
	}
	if name := s.pool.Name(); name != "" {
		c.log = c.log.With("pool", name)
	}
	c.chooser = chooser{pool: s.pool, policy: s.policy, onMiss: s.onMiss, trace: &c.trace}
	c.chooser.editor, _ = s.policy.(stickiness.Forwarder)
	c.chooser.notices.log = c.log
	farewell := s.tunnels.farewell(tunnel.Moved, serviceRestart)
	c.busy.Farewell, c.busy.Rebalance = &farewell, s.tunnels.Rebalance
}
