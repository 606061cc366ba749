package wsproxy

import (
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/stickylb/stickylb/stickiness"
)

// A responseWriter stands between ReverseProxy and the server. It notes what went out, and keeps
// the headers that middleware had set: ReverseProxy sends them along with the first 1xx and then
// clears the map. A 1xx is written by a goroutine of the transport, everything else by the
// handler's.
type responseWriter struct {
	http.ResponseWriter
	foreign  http.Header         // set before the walk began; nil when there were none
	own      http.Header         // in place of the server's map; see limitGate
	informer stickiness.Informer // the policy, if it has a say in 1xx responses
	status   int                 // final status; 0 before
	bytes    int64               // of the body
	err      error               // first failed write
	flushing sync.Mutex          // ReverseProxy and a flusher may both find it time
	cleared  atomic.Bool         // a 1xx went out, and the header map was emptied after it
	informed atomic.Bool         // a 1xx other than 100 went out

	unflushed atomic.Bool // the final header or a part of the body has not been flushed
	http10    bool        // the client knows no 1xx
	head      bool        // the response has no body
	upload    *requestBody
	whole     bool // the whole response is at hand when its header is written

	panicked atomic.Pointer[flushPanic]
}

// A flushPanic is kept for the handler's goroutine: a Flush of middleware that panics on a timer's
// goroutine would take the whole program with it.
type flushPanic struct{ value any }

var errFlush = errors.New("a Flush has panicked")

func (w *responseWriter) init(under http.ResponseWriter, r *http.Request, upload *requestBody) {
	w.ResponseWriter, w.upload = under, upload
	w.http10 = !r.ProtoAtLeast(1, 1)
	w.head = r.Method == http.MethodHead
	if h := under.Header(); len(h) > 0 {
		w.foreign = h.Clone()
	}
}

// Unwrap lets http.ResponseController find the server's own methods.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *responseWriter) WriteHeader(code int) {
	if code >= 100 && code < 200 && code != http.StatusSwitchingProtocols {
		w.writeInformational(code)
		return
	}
	w.restore()
	if w.status == 0 {
		w.upload.decideClose(w.whole)
		w.status = code
	}
	w.unflushed.Store(true)
	if w.own != nil {
		w.writeFinal(code)
	} else {
		w.ResponseWriter.WriteHeader(code)
	}
}

// writeInformational sends a 1xx with the target's fields only. Those of middleware belong to the
// final response. The rules for the final header apply here too.
func (w *responseWriter) writeInformational(code int) {
	if first := !w.cleared.Swap(true); first {
		w.hideForeign()
	}
	if w.http10 { // the client would take the 1xx for the response (RFC 9110 section 15.2)
		return
	}
	if code == http.StatusContinue && w.upload.ahead != nil { // it went out before the body was read ahead
		return
	}
	h := w.Header()
	removeHopByHop(h)
	delete(h, "Content-Length")
	if w.informer != nil {
		w.informer.Inform(h)
	}
	if code != http.StatusContinue {
		w.informed.Store(true)
	}
	if w.own != nil {
		w.writeEarly(code)
	} else {
		w.ResponseWriter.WriteHeader(code)
	}
}

// hideForeign leaves what ReverseProxy has added to the headers of middleware.
func (w *responseWriter) hideForeign() {
	h := w.Header()
	for name, values := range w.foreign {
		if added := h[name][min(len(values), len(h[name])):]; len(added) > 0 {
			h[name] = added
		} else {
			delete(h, name)
		}
	}
}

// restore puts the headers of middleware, if a 1xx has taken them away, in front of those of the
// response, as they would stand without it.
func (w *responseWriter) restore() {
	if !w.cleared.Swap(false) {
		return
	}
	h := w.Header()
	for name, values := range w.foreign {
		h[name] = append(slices.Clip(values), h[name]...)
	}
}

// Write implements io.Writer.
func (w *responseWriter) Write(p []byte) (int, error) {
	w.repanic()
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.unflushed.Store(true)
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	if err != nil && w.err == nil {
		w.err = err
	}
	return n, err
}

// FlushError implements the method that http.ResponseController looks for.
func (w *responseWriter) FlushError() (err error) {
	w.flushing.Lock()
	defer w.flushing.Unlock()
	defer func() {
		if v := recover(); v != nil {
			w.panicked.Store(&flushPanic{v})
			err = errFlush
		}
	}()
	if w.status == 0 { // else the header would go out without a look at the request's body
		w.WriteHeader(http.StatusOK)
	}
	w.unflushed.Store(false)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// repanic does on the handler's goroutine what a Flush did on another.
func (w *responseWriter) repanic() {
	if p := w.panicked.Load(); p != nil {
		panic(p.value)
	}
}

// inChain reports whether a writer in the Unwrap chain has T's methods. A wrapper that has them and
// refuses is found out later only, at the switch of protocols itself.
func inChain[T any](w http.ResponseWriter) bool {
	for {
		switch t := w.(type) {
		case T:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return false
		}
	}
}
