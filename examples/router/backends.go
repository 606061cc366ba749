package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/websocket"

	"github.com/stickylb/stickylb/balancer"
)

//go:embed home.html
var home []byte

// An answer is the body of the API's responses.
type answer struct {
	Backend  string `json:"backend"`
	Request  string `json:"request"` // its ID
	Received int64  `json:"received"`
}

// startBackends starts the servers that the pools balance, two for each. It returns them as targets
// by the name of their pool. stop ends them. It is never nil.
func startBackends() (targets map[string][]balancer.Target, stop func(), err error) {
	targets = make(map[string][]balancer.Target)
	var servers []*http.Server
	stop = func() {
		for _, s := range servers {
			s.Close()
		}
	}
	for _, pool := range []string{"api", "sockets", "assets"} {
		for n := range 2 {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return nil, stop, err
			}
			id := fmt.Sprintf("%s-%d", pool, n+1)
			s := &http.Server{Handler: backend(id), ReadHeaderTimeout: 10 * time.Second}
			servers = append(servers, s)
			go s.Serve(l)
			targets[pool] = append(targets[pool], balancer.Target{ID: id, URL: &url.URL{Scheme: "http", Host: l.Addr().String()}})
		}
	}
	return targets, stop, nil
}

// backend returns the application. It has the parts of all three pools, but gets only the requests
// of its own.
func backend(id string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(answer{id, r.Header.Get(requestIDHeader), n})
	})
	mux.Handle("/ws/", websocket.Server{Handler: func(ws *websocket.Conn) {
		fmt.Fprintf(ws, "hello from %s", id)
		io.Copy(ws, ws)
	}})
	mux.HandleFunc("GET /asset", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, id) })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(home)
	})
	return mux
}
