package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net"
	"net/http"
	"sync"
)

// A backend is an application that keeps its sessions in its own memory, and knows those of no
// other backend.
type backend struct {
	name string

	mu     sync.Mutex
	visits map[string]int // by session
}

// An answer is the body of the application's responses.
type answer struct {
	Backend string
	Session string
	Visits  int
}

// runBackend is the process of a backend. Its arguments are its name and its address.
func runBackend(ctx context.Context, args []string) error {
	l, err := net.Listen("tcp", args[1])
	if err != nil {
		return err
	}
	return serve(ctx, l, &backend{name: args[0], visits: make(map[string]int)})
}

// ServeHTTP counts the visits of a session. It begins a new session if the client names none, or
// one that this backend does not know.
func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get(sessionHeader)
	if c, err := r.Cookie(sessionCookie); err == nil {
		id = c.Value
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.visits[id] == 0 {
		id = rand.Text()
		http.SetCookie(w, &http.Cookie{Name: sessionCookie, Value: id, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
		w.Header().Set(sessionHeader, id)
	}
	b.visits[id]++
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer{b.name, id, b.visits[id]})
}
