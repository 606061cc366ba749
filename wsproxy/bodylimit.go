package wsproxy

import (
	"io"
	"maps"
	"math"
	"net/http"
	"reflect"
	"time"
)

// A limitGate is a lock for the response's header map of the server. http.MaxBytesReader writes to
// that map when a Read exceeds the limit, and the transport reads the body on a goroutine of its
// own. The handler writes to it, too. Two writes at the same time would end the process.
//
// A Read for no more bytes than the limit still allows cannot exceed it, and needs no lock. Any
// other Read holds the gate until it returns. The handler holds it while it uses the server's map:
// for a 1xx, and from the final header until that is flushed. At other times the handler has a
// header map of its own.
//
// It is nil when the body is not one of http.MaxBytesReader. A limit inside another body is not
// seen.
type limitGate chan struct{}

// limitType is the type of what http.MaxBytesReader returns.
var limitType = reflect.TypeOf(http.MaxBytesReader(nil, nil, 0))

func newLimitGate(body io.ReadCloser) limitGate {
	if reflect.TypeOf(body) != limitType {
		return nil
	}
	return make(limitGate, 1)
}

func (g limitGate) tryLock() bool {
	select {
	case g <- struct{}{}:
		return true
	default:
		return false
	}
}

func (g limitGate) unlock() { <-g }

// leftOfLimit returns how many bytes the limit still allows. Of limits that wrap each other, the
// lowest counts. It returns 0 if the fields of net/http's type are not as expected: any Read may
// exceed the limit then.
func leftOfLimit(body io.ReadCloser) int64 {
	left := int64(math.MaxInt64)
	for v := reflect.ValueOf(body); v.IsValid() && v.Type() == limitType; {
		n, under := v.Elem().FieldByName("n"), v.Elem().FieldByName("r")
		if !n.IsValid() || !n.CanInt() || !under.IsValid() || under.Kind() != reflect.Interface {
			return 0
		}
		left, v = min(left, n.Int()), under.Elem()
	}
	return left
}

// readWithin reads the body. If the Read may exceed the limit, it waits for the gate.
func (b *requestBody) readWithin(p []byte) (int, error) {
	if b.gate != nil {
		if left := leftOfLimit(b.body); left > 0 {
			p = p[:min(int64(len(p)), left)]
		} else {
			b.gate <- struct{}{}
			defer b.gate.unlock()
			if b.over.Load() {
				return 0, errAbandoned
			}
		}
	}
	return readSafely(b.body, p)
}

// lockHeader locks the gate for the handler. A Read may hold the gate: the client has sent exactly
// as much as the limit allows, and then neither more nor the end of the body. The client gets a
// moment to go on. Then a read deadline ends its body, so that the answer need not wait. Without
// read deadlines the answer waits.
func (b *requestBody) lockHeader() {
	timer := time.NewTimer(restPatience)
	defer timer.Stop()
	select {
	case b.gate <- struct{}{}:
		return
	case <-timer.C:
	}
	control := http.NewResponseController(b.w.ResponseWriter)
	b.interrupted = control.SetReadDeadline(longAgo) == nil
	b.gate <- struct{}{}
	if b.interrupted {
		control.SetReadDeadline(time.Time{})
	}
}

// Header implements http.ResponseWriter. It returns the writer's own map, if there is one, until
// the final header is written.
func (w *responseWriter) Header() http.Header {
	if w.own != nil {
		return w.own
	}
	return w.ResponseWriter.Header()
}

// handOver copies the writer's own map to the server's, which is used from now on.
func (w *responseWriter) handOver() {
	w.fill()
	w.own = nil
}

// fill makes the server's map a copy of the writer's own.
func (w *responseWriter) fill() {
	h := w.ResponseWriter.Header()
	clear(h)
	maps.Copy(h, w.own)
}

// writeFinal writes the final header and flushes it. net/http's limits do not use the map after
// that.
func (w *responseWriter) writeFinal(code int) {
	w.upload.lockHeader()
	defer w.upload.gate.unlock()
	w.handOver()
	w.ResponseWriter.WriteHeader(code)
	if w.upload.closing { // otherwise no Read follows
		http.NewResponseController(w.ResponseWriter).Flush()
	}
}

// writeEarly writes a 1xx, unless it would have to wait for the gate.
func (w *responseWriter) writeEarly(code int) {
	if !w.upload.gate.tryLock() {
		return
	}
	defer w.upload.gate.unlock()
	w.fill()
	w.ResponseWriter.WriteHeader(code)
	clear(w.ResponseWriter.Header())
}
