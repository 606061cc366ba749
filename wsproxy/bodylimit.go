package wsproxy

import (
	"io"
	"maps"
	"math"
	"net/http"
	"reflect"
	"time"
)

// A limitGate keeps apart a Read that may write to the response's header map and the handler, which
// does too. Maps do not survive that: the process would end. http.MaxBytesReader writes to the map
// when a Read passes the limit, and the transport reads the body on a goroutine of its own.
//
// A Read that asks for no more than the limit still allows cannot pass it, and needs no gate. The
// Read after that may. It holds the gate until it returns. The handler holds it while the header
// map of the server is in use: for a 1xx, and from the final header until that is flushed. In
// between the handler has a header map of its own.
//
// It is nil when the body is not of http.MaxBytesReader. The limit is not seen inside another body.
type limitGate chan struct{}

// limitType is the type of what http.MaxBytesReader returns.
var limitType = reflect.TypeOf(http.MaxBytesReader(nil, nil, 0))

func newLimitGate(body io.ReadCloser) limitGate {
	if reflect.TypeOf(body) != limitType {
		return nil
	}
	return make(limitGate, 1)
}

func (g limitGate) tryEnter() bool {
	select {
	case g <- struct{}{}:
		return true
	default:
		return false
	}
}

func (g limitGate) leave() { <-g }

// leftOfLimit returns how many bytes the limit still allows: the lowest, where limits are in each
// other. It is 0 where net/http has changed: then each Read counts as one that may pass it.
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

// readWithin reads the body. Where the limit may be passed it waits until the header map is free.
func (b *requestBody) readWithin(p []byte) (int, error) {
	if b.gate != nil {
		if left := leftOfLimit(b.body); left > 0 {
			p = p[:min(int64(len(p)), left)]
		} else {
			b.gate <- struct{}{}
			defer b.gate.leave()
			if b.over.Load() {
				return 0, errAbandoned
			}
		}
	}
	return readSafely(b.body, p)
}

// enter is called before the handler uses the server's header map. A client that has sent as much
// as the limit allows, and then neither more nor the end, is given a moment. Then its body ends, so
// that the answer need not wait. Where there are no read deadlines, the answer waits.
func (b *requestBody) enter() {
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

// A header map of the writer's own stands for the server's until the final header is written.

// Header implements http.ResponseWriter.
func (w *responseWriter) Header() http.Header {
	if w.own != nil {
		return w.own
	}
	return w.ResponseWriter.Header()
}

// handOver has the server's header map say what the writer's own does, and use it from now on.
func (w *responseWriter) handOver() {
	w.fill()
	w.own = nil
}

func (w *responseWriter) fill() {
	h := w.ResponseWriter.Header()
	clear(h)
	maps.Copy(h, w.own)
}

// writeFinal writes the final header and flushes it: from then on net/http's limits leave the map
// alone.
func (w *responseWriter) writeFinal(code int) {
	w.upload.enter()
	defer w.upload.gate.leave()
	w.handOver()
	w.ResponseWriter.WriteHeader(code)
	if w.upload.closing { // else the body has been read
		http.NewResponseController(w.ResponseWriter).Flush()
	}
}

// writeEarly writes a 1xx, unless it would have to wait.
func (w *responseWriter) writeEarly(code int) {
	if !w.upload.gate.tryEnter() {
		return
	}
	defer w.upload.gate.leave()
	w.fill()
	w.ResponseWriter.WriteHeader(code)
	clear(w.ResponseWriter.Header())
}
