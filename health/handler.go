package health

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// Handler returns the status handler of the registry. Mount it at any path, on a listener or
// behind a handler that only operators pass: it asks nobody who they are.
//
// GET answers with the [Status]: as a page for people if the request's Accept names text/html,
// as browsers do, and as JSON otherwise. The query decides over that: format=json, format=html.
// The page has no script and nothing from elsewhere; its query parameters are show (all,
// trouble or draining), q (a part of a target's ID, URL, address or zone) and refresh (seconds).
//
// POST takes a form with a target's ID in target and, in action, one of drain (as [Registry.Drain]
// with Registry.Drains, while Run runs), down ([balancer.Down] at once) and ready
// ([balancer.Ready], which cancels a drain and ends an ejection). If the pool has no target of that
// ID, or with leaving=true, it is about those that have left under it and have something in flight.
// It is answered as GET is, browsers being sent back to the page. Requests that a browser sends
// from another site are refused with 403, see [http.CrossOriginProtection]. Requests for a host
// that is neither this machine nor in Registry.Hosts are refused with 421, GET among them: a page
// whose name was made to resolve to this server would else pass for the server's own.
//
// Handler panics without a Registry.Pool.
func (r *Registry) Handler() http.Handler {
	if r.Pool == nil {
		panic("health: Registry.Pool is nil")
	}
	return r.Protect(http.HandlerFunc(r.serve))
}

func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Content-Security-Policy", policy())
	switch req.Method {
	case http.MethodGet, http.MethodHead:
		r.serveStatus(w, req)
	case http.MethodPost:
		r.serveAction(w, req)
	default:
		h.Set("Allow", "GET, HEAD, POST")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	}
}

func (r *Registry) serveStatus(w http.ResponseWriter, req *http.Request) {
	if wantsPage(req) {
		writePage(w, req, r.Status())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.Encode(r.Status())
}

// wantsPage reports whether the request is a person's.
func wantsPage(req *http.Request) bool {
	switch req.URL.Query().Get("format") {
	case "json":
		return false
	case "html":
		return true
	}
	for _, line := range req.Header.Values("Accept") {
		for part := range strings.SplitSeq(line, ",") {
			mediaType, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(mediaType), "text/html") {
				return true
			}
		}
	}
	return false
}

// maxForm is the most that is read of a POST.
const maxForm = 16 << 10

func (r *Registry) serveAction(w http.ResponseWriter, req *http.Request) {
	req.Body = http.MaxBytesReader(w, req.Body, maxForm)
	if err := req.ParseForm(); err != nil {
		http.Error(w, "the form cannot be read", http.StatusBadRequest)
		return
	}
	id := req.PostForm.Get("target")
	find := r.find
	if req.PostForm.Get("leaving") == "true" {
		find = r.findLeaving
	}
	members := find(id)
	if len(members) == 0 {
		http.Error(w, "no such target", http.StatusNotFound)
		return
	}
	for _, m := range members {
		if status, problem := r.act(m, req.PostForm.Get("action")); problem != "" {
			http.Error(w, problem, status)
			return
		}
	}
	if !wantsPage(req) {
		r.serveStatus(w, req)
		return
	}
	// The page may be mounted below a prefix that was stripped: a reference without a path
	// leads back to it all the same.
	w.Header().Set("Location", "?"+req.URL.RawQuery+"#"+anchor(id))
	w.WriteHeader(http.StatusSeeOther)
}

// act does what a button says.
func (r *Registry) act(m *balancer.Member, action string) (status int, problem string) {
	switch action {
	case "drain":
		if err := r.startDrain(m); errors.Is(err, ErrNotRunning) {
			return http.StatusConflict, "the registry is not running"
		}
	case "down":
		m.SetAdmin(balancer.Down)
	case "ready":
		m.SetAdmin(balancer.Ready)
		m.Eject(time.Time{})
	default:
		return http.StatusBadRequest, "the action is none of drain, down and ready"
	}
	return 0, ""
}
