package main

import (
	"context"
	"errors"
	"net/http"

	"github.com/stickylb/stickylb/wsproxy"
)

// A server answers requests by the vhost of their Host header.
type server struct {
	vhosts *vhosts
	debug  bool // answer x-debug
}

// ping is the host of requests that check whether this program is alive.
const ping = "__ping__"

// ServeHTTP implements [http.Handler], with hipache's status codes.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host := normalize(r.Host)
	if host == ping {
		w.Write([]byte("ok"))
		return
	}
	var d *debugging
	if s.debug && r.Header["X-Debug"] != nil {
		d = &debugging{ResponseWriter: w, host: host}
		w, r = d, r.WithContext(context.WithValue(r.Context(), debugKey{}, d))
		d.begin()
	}
	if host == "" {
		fail(w, http.StatusBadRequest, "no host")
		return
	}
	v, release, err := s.vhosts.acquire(r.Context(), host)
	switch {
	case errors.Is(err, errUnknown):
		fail(w, http.StatusBadRequest, "no such virtual host")
		return
	case err != nil:
		s.vhosts.log.Debug("vhosts: no answer for a host", "host", host, "error", err)
		w.Header().Set("Retry-After", "5")
		fail(w, http.StatusServiceUnavailable, "the virtual host is not known at the moment")
		return
	}
	defer release()
	if d != nil {
		d.backends = v.now.Load()
	}
	v.proxy.ServeHTTP(w, r)
}

// fail answers with a status and a text, which x-debug-error repeats.
func fail(w http.ResponseWriter, status int, text string) {
	if d, ok := w.(*debugging); ok {
		d.problem = text
	}
	http.Error(w, text, status)
}

// errorPage answers requests that the proxy could not serve: 502 if no backend is alive.
func errorPage(w http.ResponseWriter, r *http.Request, e *wsproxy.Error) {
	status := e.Status
	if e.Class == wsproxy.ClassNoTarget {
		status = http.StatusBadGateway
		w.Header().Del("Retry-After")
	}
	if d, ok := r.Context().Value(debugKey{}).(*debugging); ok {
		d.problem = e.Class.String()
	}
	http.Error(w, http.StatusText(status), status)
}
