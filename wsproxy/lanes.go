package wsproxy

import (
	"net/http"
	"sync"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// A lane has the http.Transports for requests to one member, one generation after the other. A new
// generation begins when the connections of the last one are too old, or when the member has
// another client certificate. It takes new transports, because http.Transport cannot retire single
// connections.
type lane struct {
	of     *transports
	member *balancer.Member

	mu       sync.Mutex
	current  *generation // nil when the next request has to begin one; may be transports.shared
	revision uint64      // the member's TLSRevision when current began
}

// A generation is a set of http.Transports. After it has retired, no request begins on it. Its
// connections are closed when no request uses them any more.
type generation struct {
	plain, upgrade http.RoundTripper // upgrade never negotiates HTTP/2
	h2c            http.RoundTripper // for requests to targets of the scheme h2c that are no upgrades
	alone          *http.Transport   // one connection for each request; nil for a caller's RoundTripper
	owned          bool              // plain was made here, so its connections are closed here

	lane *lane // nil for transports.shared

	// Guarded by lane.mu.
	running int // requests
	retired bool
	expires time.Time   // zero means never
	timer   *time.Timer // retires it then; nil when it does not expire
}

// lateEnds is how long after the last request of a retired generation its idle connections are
// closed once more. A dial that was given up, and a stream that was reset, may end only after the
// request.
const lateEnds = 10 * time.Second

// use returns the generation for a request to the member. The request must call release at its end.
func (t *transports) use(m *balancer.Member) *generation {
	l, ok := t.lanes.Load(m)
	if !ok {
		l, _ = t.lanes.LoadOrStore(m, &lane{of: t, member: m})
	}
	return l.(*lane).use()
}

func (l *lane) use() *generation {
	l.mu.Lock()
	last := l.current
	if last != nil && l.isOver(last) {
		l.retire(last)
	} else {
		last = nil
	}
	if l.current == nil {
		l.current = l.begin()
	}
	g := l.current
	if g.lane != nil {
		g.running++
	}
	l.mu.Unlock()
	if last != nil && last.lane != nil {
		last.closeIdle()
	}
	if g.lane == nil && l.member.Removed() { // nobody releases it
		l.endIfUnused()
	}
	return g
}

// isOver reports whether no new request may use the generation. l.mu is held.
func (l *lane) isOver(g *generation) bool {
	return l.revision != l.member.TLSRevision() || !g.expires.IsZero() && !time.Now().Before(g.expires)
}

// begin returns a new generation. l.mu is held.
func (l *lane) begin() *generation {
	l.revision = l.member.TLSRevision() // before the target is read, so that nothing is missed
	to := l.member.Target()
	if l.of.shared != nil && !needsMore(&to) {
		return l.of.shared
	}
	g := l.of.make(&to)
	if g == l.of.shared {
		return g
	}
	g.lane = l
	if l.of.limits.MaxAge > 0 {
		age := l.of.limits.age()
		g.expires = time.Now().Add(age)
		g.timer = time.AfterFunc(age, func() { l.end(g) })
	}
	return g
}

// retire keeps new requests away from g. l.mu is held. The caller has to call g.closeIdle after it
// has unlocked l.mu, because that may take a while.
func (l *lane) retire(g *generation) {
	if l.current == g {
		l.current = nil
	}
	if g.lane == nil {
		return
	}
	g.retired = true
	if g.timer != nil {
		g.timer.Stop()
	}
}

// end retires a generation and closes its idle connections.
func (l *lane) end(g *generation) {
	l.mu.Lock()
	l.retire(g)
	l.mu.Unlock()
	g.closeIdle()
}

// release is called when a request is over.
func (g *generation) release() {
	l := g.lane
	if l == nil {
		return
	}
	removed := l.member.Removed()
	l.mu.Lock()
	if g.running--; removed && g.running == 0 {
		l.retire(g)
	}
	over := g.running == 0 && (g.retired || l.of.limits.MaxIdle < 0)
	retired := g.retired
	l.mu.Unlock()
	if over {
		g.closeIdle()
		if retired {
			time.AfterFunc(lateEnds, g.closeIdle)
		}
	}
	if removed {
		l.forget()
	}
}

// forget removes the lane of a member that has been removed, if no request uses it. Otherwise the
// last of these requests calls forget again.
func (l *lane) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == nil {
		l.of.lanes.CompareAndDelete(l.member, l)
	}
}

// changed is called when the state of m changes. If m has been removed, changed ends its idle
// connections and its lane.
func (t *transports) changed(m *balancer.Member) {
	if !m.Removed() {
		return
	}
	t.closeIdleTo(m)
	if l, ok := t.lanes.Load(m); ok {
		l.(*lane).endIfUnused()
	}
}

// closeIdleTo closes the idle connections of HTTP/1.1 without TLS to a member. Other members with
// its address have to dial again.
func (t *transports) closeIdleTo(m *balancer.Member) {
	if t.own != nil {
		t.own.CloseIdleTo(addressOf(m))
	}
}

// addressOf returns the address of a member.
func addressOf(m *balancer.Member) upstream.Address {
	network, addr := m.Endpoint()
	return upstream.Address{Network: network, Addr: addr}
}

func (l *lane) endIfUnused() {
	l.mu.Lock()
	g := l.current
	over := g != nil && (g.lane == nil || g.running == 0)
	if over {
		l.retire(g)
	}
	l.mu.Unlock()
	if over && g.lane != nil {
		g.closeIdle()
	}
	l.forget()
}

// closeIdle closes all idle connections, except for those of a caller's transport.
func (t *transports) closeIdle() {
	if t.own != nil {
		t.own.CloseIdleConnections()
	}
	if t.shared != nil {
		t.shared.closeIdle()
	}
	t.lanes.Range(func(_, v any) bool {
		l := v.(*lane)
		l.mu.Lock()
		g := l.current
		l.mu.Unlock()
		if g != nil {
			l.end(g)
		}
		return true
	})
}

func (g *generation) closeIdle() {
	for _, rt := range []http.RoundTripper{g.upgrade, g.h2c, g.plain} {
		if t, ok := rt.(*http.Transport); ok && (g.owned || rt != g.plain) {
			t.CloseIdleConnections()
		}
	}
}
