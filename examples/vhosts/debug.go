package main

import (
	"net/http"
	"strconv"
	"time"

	"github.com/stickylb/stickylb/wsproxy"
)

type debugKey struct{}

// A debugging adds hipache's headers to the response of a request with x-debug. They name backends,
// so they are sent only if the operator wants it.
type debugging struct {
	http.ResponseWriter
	host     string
	backends *backends // nil: no vhost
	problem  string    // why there is no answer of a backend; empty: there is one
	start    time.Time
	attempt  wsproxy.Attempt // the latest
	written  bool
}

// debugTrace records the attempts of requests with x-debug.
var debugTrace = &wsproxy.Trace{Attempt: func(r *http.Request, a wsproxy.Attempt) {
	if d, ok := r.Context().Value(debugKey{}).(*debugging); ok {
		d.attempt = a
	}
}}

func (d *debugging) begin() { d.start = time.Now() }

// Unwrap lets [http.ResponseController] find the writer's other methods.
func (d *debugging) Unwrap() http.ResponseWriter { return d.ResponseWriter }

// WriteHeader adds the headers to the final response.
func (d *debugging) WriteHeader(status int) {
	if status >= http.StatusOK && !d.written {
		d.written = true
		d.add(d.Header())
	}
	d.ResponseWriter.WriteHeader(status)
}

// Write adds the headers if WriteHeader was not called.
func (d *debugging) Write(p []byte) (int, error) {
	if !d.written {
		d.WriteHeader(http.StatusOK)
	}
	return d.ResponseWriter.Write(p)
}

func (d *debugging) add(h http.Header) {
	h.Set("X-Debug-Version-Hipache", "stickylb")
	if d.problem != "" {
		h.Set("X-Debug-Error", d.problem)
	}
	if d.backends == nil {
		return
	}
	h.Set("X-Debug-Vhost", d.backends.id)
	h.Set("X-Debug-Frontend-Key", d.host)
	if indexes := d.backends.indexes[d.attempt.Target]; len(indexes) > 0 {
		h.Set("X-Debug-Backend-Url", withPath(d.backends.urls[indexes[0]]))
		h.Set("X-Debug-Backend-Id", strconv.Itoa(indexes[0]))
		h.Set("X-Debug-Time-Backend", strconv.FormatInt(d.attempt.Latency.Milliseconds(), 10))
	}
	h.Set("X-Debug-Time-Total", strconv.FormatInt(time.Since(d.start).Milliseconds(), 10))
}
