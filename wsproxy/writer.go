package wsproxy

import (
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/stickylb/stickylb/stickiness"
)

// A responseWriter is the ResponseWriter that ReverseProxy writes to. It records what was sent, and
// keeps the headers of middleware. Without that, ReverseProxy would send them with the first 1xx,
// and then delete them. A goroutine of the transport writes a 1xx. The handler's goroutine writes
// everything else.
type responseWriter struct {
	http.ResponseWriter
	foreign  http.Header         // the headers of middleware; nil when there are none
	own      http.Header         // used instead of the server's map, see limitGate; nil when it is not
	informer stickiness.Informer // the policy; nil when it does not change 1xx responses
	status   int                 // final status; 0 before
	bytes    int64               // of the body
	err      error               // of the first Write that failed
	flushing sync.Mutex          // held during FlushError, which a waitTimer may call
	cleared  atomic.Bool         // ReverseProxy has cleared the header map after a 1xx
	informed atomic.Bool         // a 1xx other than 100 went out

	unflushed atomic.Bool // the final header or a part of the body has not been flushed
	http10    bool        // the client does not know 1xx responses
	head      bool        // the request's method is HEAD
	upload    *requestBody
	whole     bool // the whole response is at hand when its header is written

	panicked atomic.Pointer[flushPanic]
}

// A flushPanic is a panic in a Flush of middleware. On a timer's goroutine such a panic would end
// the program. So it is recovered there, and the handler's goroutine panics with its value.
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

// Unwrap returns the writer below, whose methods http.ResponseController may call.
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

// writeInformational sends a 1xx with the target's fields, without those of middleware, which
// belong to the final response. The same rules about hop-by-hop fields and cookies apply to it.
func (w *responseWriter) writeInformational(code int) {
	if first := !w.cleared.Swap(true); first {
		w.hideForeign()
	}
	if w.http10 { // the client would take the 1xx for the final response (RFC 9110 section 15.2)
		return
	}
	if code == http.StatusContinue && w.upload.ahead != nil { // the server sent one when the body was read ahead
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

// hideForeign removes the headers of middleware. Values that ReverseProxy has added to them stay.
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

// restore puts back the headers of middleware if ReverseProxy has cleared them after a 1xx. They
// stand before those of the response, as they would without a 1xx.
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

// FlushError implements the method that http.ResponseController calls. It returns errFlush after a
// panic.
func (w *responseWriter) FlushError() (err error) {
	w.flushing.Lock()
	defer w.flushing.Unlock()
	defer func() {
		if v := recover(); v != nil {
			w.panicked.Store(&flushPanic{v})
			err = errFlush
		}
	}()
	if w.status == 0 { // otherwise Flush would write the header without decideClose
		w.WriteHeader(http.StatusOK)
	}
	w.unflushed.Store(false)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// repanic panics on the handler's goroutine if a Flush has panicked on another.
func (w *responseWriter) repanic() {
	if p := w.panicked.Load(); p != nil {
		panic(p.value)
	}
}

// inChain reports whether a writer in the Unwrap chain has T's methods. They may still return an
// error when they are called.
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
