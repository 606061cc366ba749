package main

import (
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Parse(pageText))

const tick = time.Second // between two messages of a backend

// A backend is one of the embedded servers: an application that answers with its own name. It can
// be stopped as if it had crashed, and started again at its address. Its methods are safe for
// concurrent use.
type backend struct {
	id      string
	sticky  *atomic.Pointer[sticky] // says which sessions the application begins
	proxied bool                    // connections begin with a PROXY header

	mu   sync.Mutex
	addr string // known once it has been started
	life *life  // nil while it is stopped
}

// A life is the time of a backend from its start to its stop.
type life struct {
	server *http.Server
	work   sync.WaitGroup // the server, and one for each socket

	mu      sync.Mutex
	over    bool
	sockets map[*socket]struct{}
}

// start starts the backend, on its former port if it had one. It does nothing if the backend is
// running.
func (b *backend) start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.life != nil {
		return nil
	}
	l, err := net.Listen("tcp", cmp.Or(b.addr, "127.0.0.1:0"))
	if err != nil {
		return fmt.Errorf("start %s: %w", b.id, err)
	}
	b.addr = l.Addr().String()
	if b.proxied {
		l = &proxyproto.Listener{Listener: l, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	}
	f := &life{sockets: make(map[*socket]struct{})}
	f.server = &http.Server{Handler: b.handler(f), ReadHeaderTimeout: headerTimeout}
	f.work.Go(func() { f.server.Serve(l) }) // it returns after stop; its error says nothing more
	b.life = f
	return nil
}

// stop closes the listener and every connection, as a crash would. It does nothing if the backend
// is stopped.
func (b *backend) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.life == nil {
		return
	}
	b.life.server.Close()
	b.life.cut()
	b.life.work.Wait()
	b.life = nil
}

func (b *backend) running() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.life != nil
}

// target returns the backend as a target of the pool.
func (b *backend) target() balancer.Target {
	b.mu.Lock()
	defer b.mu.Unlock()
	return balancer.Target{ID: b.id, URL: &url.URL{Scheme: "http", Host: b.addr}}
}

// cut closes the connections of all sockets, also of those that are added later.
func (f *life) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	for s := range f.sockets {
		s.conn.Close()
	}
}

// add adds a socket. It reports false, and adds nothing, if the life is over.
func (f *life) add(s *socket) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return false
	}
	f.sockets[s] = struct{}{}
	f.work.Add(1)
	return true
}

func (f *life) remove(s *socket) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.sockets, s)
	f.work.Done()
}

// handler returns the application's handler.
func (b *backend) handler(f *life) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", b.servePage)
	mux.HandleFunc("GET /whoami", b.serveWhoami)
	mux.HandleFunc("GET /ws", func(w http.ResponseWriter, r *http.Request) { b.serveSocket(f, w, r) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return mux
}

func (b *backend) servePage(w http.ResponseWriter, r *http.Request) {
	b.beginSession(w, r)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	page.Execute(w, b.id) // fails only if the client is gone
}

// serveWhoami answers with the backend's name and with what it knows about the client behind the
// balancer.
func (b *backend) serveWhoami(w http.ResponseWriter, r *http.Request) {
	b.beginSession(w, r)
	writeJSON(w, struct {
		Backend string `json:"backend"`
		Client  string `json:"client"`
		Proto   string `json:"proto"`
	}{b.id, r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto")})
}

// beginSession begins a session of the application if the mode of stickiness is based on one.
func (b *backend) beginSession(w http.ResponseWriter, r *http.Request) {
	s := b.sticky.Load()
	if name := s.header(); name != "" && r.Header.Get(name) == "" {
		w.Header().Set(name, rand.Text())
	}
	name := s.cookie()
	if name == "" {
		return
	}
	if _, err := r.Cookie(name); err != nil {
		http.SetCookie(w, &http.Cookie{Name: name, Value: rand.Text(), Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
	}
}

// A message is a message of the WebSocket.
type message struct {
	Backend string `json:"backend"`
	Text    string `json:"text"`
}

// serveSocket sends a message every second and answers the page's messages, until either side
// closes.
func (b *backend) serveSocket(f *life, w http.ResponseWriter, r *http.Request) {
	s, err := acceptSocket(w, r)
	if err != nil {
		return
	}
	defer s.conn.Close()
	if !f.add(s) {
		return
	}
	defer f.remove(s)
	ctx, cancel := context.WithCancel(context.Background())
	var ticks sync.WaitGroup
	ticks.Go(func() { b.sendTicks(ctx, s) })
	defer ticks.Wait()
	defer cancel()
	for {
		text, err := s.read()
		if err != nil {
			return
		}
		b.say(s, fmt.Sprintf("heard %q", text))
	}
}

func (b *backend) sendTicks(ctx context.Context, s *socket) {
	b.say(s, "hello")
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			b.say(s, fmt.Sprintf("tick %d", n))
		}
	}
}

// say sends a message unless the socket is closing. If that fails, read also fails, and the socket
// ends.
func (b *backend) say(s *socket, text string) {
	m, err := json.Marshal(message{b.id, text})
	if err == nil {
		err = s.send(string(m))
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		s.conn.Close()
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(v) // fails only if the client is gone
}
