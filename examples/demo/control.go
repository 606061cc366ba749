package main

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// A control serves the page's buttons for the embedded backends: it stops, starts and drains them.
// It exists only with the embedded backends, and answers only requests from this machine.
type control struct {
	pool     *balancer.Pool
	backends []*backend
	sticky   *atomic.Pointer[sticky]
}

// handler serves the paths below /demo/.
func (c *control) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /demo/state", c.serveState)
	mux.HandleFunc("POST /demo/forget", c.forget)
	mux.HandleFunc("POST /demo/backends/{id}/drain", c.admin(balancer.Draining))
	mux.HandleFunc("POST /demo/backends/{id}/ready", c.admin(balancer.Ready))
	mux.HandleFunc("POST /demo/backends/{id}/stop", c.stop)
	mux.HandleFunc("POST /demo/backends/{id}/start", c.start)
	return http.NewCrossOriginProtection().Handler(localOnly(mux))
}

// localOnly passes a request on only if it comes from this machine and its Host is a loopback name.
// This prevents DNS rebinding: a foreign page whose name resolves to this machine is same-origin
// for a browser, but the browser sends that name in Host.
func localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, _ := netip.ParseAddrPort(r.RemoteAddr)
		if !peer.Addr().Unmap().IsLoopback() || !isLocalName(r.Host) {
			http.Error(w, "the demo is controlled from its own machine only", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func isLocalName(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// A backendState is the state of a backend on the page.
type backendState struct {
	ID      string          `json:"id"`
	Removed bool            `json:"removed"` // no longer a target
	Running bool            `json:"running"` // whether the backend runs
	Health  balancer.Health `json:"health"`  // in the balancer's view
	Admin   balancer.Admin  `json:"admin"`
	Ejected bool            `json:"ejected"`
	Tunnels int64           `json:"tunnels"`
}

func (c *control) serveState(w http.ResponseWriter, _ *http.Request) {
	states := make([]backendState, 0, len(c.backends))
	for _, b := range c.backends {
		state := backendState{ID: b.id, Running: b.running(), Removed: true}
		if m, ok := c.pool.Member(b.id); ok {
			s := m.State()
			state.Removed, state.Health, state.Admin = false, s.Health, s.Admin
			state.Ejected, state.Tunnels = s.EjectedUntil.After(time.Now()), m.Tunnels()
		}
		states = append(states, state)
	}
	writeJSON(w, states)
}

// forget makes the browser delete its session cookies. The page's script cannot do so, because the
// cookies are HttpOnly. A browser deletes a Secure cookie only if the Set-Cookie line is Secure
// too.
func (c *control) forget(w http.ResponseWriter, r *http.Request) {
	names := []string{lbCookie, lbCookieTwin, lbCookieApp}
	if name := c.sticky.Load().cookie(); name != "" {
		names = append(names, name)
	}
	for _, name := range names {
		http.SetCookie(w, &http.Cookie{Name: name, Path: "/", MaxAge: -1, HttpOnly: true, Secure: r.TLS != nil})
	}
	w.WriteHeader(http.StatusNoContent)
}

// admin returns a handler that sets the administrative state of a backend's target.
func (c *control) admin(a balancer.Admin) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		m, ok := c.pool.Member(r.PathValue("id"))
		if !ok {
			http.NotFound(w, r)
			return
		}
		m.SetAdmin(a)
		w.WriteHeader(http.StatusNoContent)
	}
}

func (c *control) stop(w http.ResponseWriter, r *http.Request) {
	b := c.backend(r.PathValue("id"))
	if b == nil {
		http.NotFound(w, r)
		return
	}
	b.stop()
	w.WriteHeader(http.StatusNoContent)
}

func (c *control) start(w http.ResponseWriter, r *http.Request) {
	b := c.backend(r.PathValue("id"))
	if b == nil {
		http.NotFound(w, r)
		return
	}
	if err := b.start(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (c *control) backend(id string) *backend {
	if i := slices.IndexFunc(c.backends, func(b *backend) bool { return b.id == id }); i >= 0 {
		return c.backends[i]
	}
	return nil
}
