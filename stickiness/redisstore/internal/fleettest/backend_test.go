package fleettest_test

import (
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"sync"
)

// A backend is an application's server. It keeps its sessions to itself.
type backend struct {
	id     string
	server *httptest.Server

	mu       sync.Mutex
	sessions map[string]bool
}

func newBackend(id string) *backend {
	b := &backend{id: id, sessions: make(map[string]bool)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", b.login)
	mux.HandleFunc("GET /", b.visit)
	b.server = httptest.NewServer(mux)
	return b
}

// login begins a session, or takes over the one that the query names, and tells its ID by a cookie
// or by a header.
func (b *backend) login(w http.ResponseWriter, r *http.Request) {
	id := r.FormValue("id")
	if id == "" {
		id = rand.Text()
	}
	b.mu.Lock()
	b.sessions[id] = true
	b.mu.Unlock()
	if r.FormValue("by") == "cookie" {
		http.SetCookie(w, &http.Cookie{Name: sessionCookie, Value: id, Path: "/"})
	} else {
		w.Header().Set(sessionHeader, id)
	}
	w.Header().Set(backendHeader, b.id)
}

// visit answers 404 if the session is not here.
func (b *backend) visit(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get(sessionHeader)
	if c, err := r.Cookie(sessionCookie); err == nil {
		id = c.Value
	}
	w.Header().Set(backendHeader, b.id)
	if !b.has(id) {
		http.Error(w, "session not found", http.StatusNotFound)
	}
}

func (b *backend) has(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sessions[id]
}

func (b *backend) forget(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sessions, id)
}
