package wsproxy

import (
	"bufio"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
)

// A stickyWriter is the ResponseWriter that a [Sticky]'s handler gets. It calls begin before the
// final header is written, by any method.
type stickyWriter struct {
	http.ResponseWriter
	v      *visit
	status int   // final status; 0 before
	bytes  int64 // of the body
	err    error // of the first Write that failed because of the client
}

// These writers have the methods of [http.Flusher], [http.Hijacker] and [http.Pusher] that the
// writer below has, because handlers find out by type assertions. All have the same memory layout,
// so that one can be converted into another without an allocation.
type (
	plainWriter               struct{ stickyWriter }
	flushingWriter            struct{ stickyWriter }
	hijackableWriter          struct{ stickyWriter }
	flushingHijackableWriter  struct{ stickyWriter }
	pushingWriter             struct{ stickyWriter }
	flushingPushingWriter     struct{ stickyWriter }
	hijackablePushingWriter   struct{ stickyWriter }
	flushHijackablePushWriter struct{ stickyWriter }
)

func (w *flushingWriter) Flush()            { w.FlushError() }
func (w *flushingHijackableWriter) Flush()  { w.FlushError() }
func (w *flushingPushingWriter) Flush()     { w.FlushError() }
func (w *flushHijackablePushWriter) Flush() { w.FlushError() }

func (w *hijackableWriter) Hijack() (net.Conn, *bufio.ReadWriter, error)         { return w.v.hijack() }
func (w *flushingHijackableWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.v.hijack() }
func (w *hijackablePushingWriter) Hijack() (net.Conn, *bufio.ReadWriter, error)  { return w.v.hijack() }
func (w *flushHijackablePushWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.v.hijack()
}

func (w *pushingWriter) Push(to string, o *http.PushOptions) error             { return w.push(to, o) }
func (w *flushingPushingWriter) Push(to string, o *http.PushOptions) error     { return w.push(to, o) }
func (w *hijackablePushingWriter) Push(to string, o *http.PushOptions) error   { return w.push(to, o) }
func (w *flushHijackablePushWriter) Push(to string, o *http.PushOptions) error { return w.push(to, o) }

// writer returns the writer for the handler.
func (v *visit) writer() http.ResponseWriter {
	w, below := &v.w, v.w.ResponseWriter
	flushes := inChain[http.Flusher](below) || inChain[interface{ FlushError() error }](below)
	hijacks := inChain[http.Hijacker](below)
	_, pushes := below.(http.Pusher)
	switch {
	case flushes && hijacks && pushes:
		return (*flushHijackablePushWriter)(w)
	case hijacks && pushes:
		return (*hijackablePushingWriter)(w)
	case flushes && pushes:
		return (*flushingPushingWriter)(w)
	case pushes:
		return (*pushingWriter)(w)
	case flushes && hijacks:
		return (*flushingHijackableWriter)(w)
	case hijacks:
		return (*hijackableWriter)(w)
	case flushes:
		return (*flushingWriter)(w)
	}
	return w
}

// Unwrap returns the writer below, whose methods http.ResponseController may call.
func (w *stickyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// begin binds the session before the final header, whose status is code. It does nothing if the
// final header was written before.
func (w *stickyWriter) begin(code int) {
	if w.v.isHijacked() || w.status != 0 {
		return
	}
	w.v.begin(w.Header(), code)
	w.v.decide(code)
}

// WriteHeader implements http.ResponseWriter. A 101 is final in HTTP/1 only.
func (w *stickyWriter) WriteHeader(code int) {
	switch final := code >= 200 || code == http.StatusSwitchingProtocols && w.v.in.ProtoMajor == 1; {
	case code < 100 || code > 999: // net/http panics
	case final:
		w.begin(code)
	default:
		w.inform(code)
		return
	}
	w.ResponseWriter.WriteHeader(code)
}

// inform writes a 1xx response without the lines that the policy would remove or rewrite in the
// final header. Then it puts them back into the header.
func (w *stickyWriter) inform(code int) {
	informer := w.v.s.rt.informer
	if informer == nil {
		w.ResponseWriter.WriteHeader(code)
		return
	}
	h := w.Header()
	before := maps.Clone(h)
	informer.Inform(h)
	w.ResponseWriter.WriteHeader(code)
	clear(h)
	maps.Copy(h, before)
}

// Write implements io.Writer.
func (w *stickyWriter) Write(p []byte) (int, error) {
	if w.v.severed.Load() {
		return 0, net.ErrClosed
	}
	w.begin(http.StatusOK)
	n, err := w.ResponseWriter.Write(p)
	w.note(int64(n), err)
	return n, err
}

// WriteString implements io.StringWriter.
func (w *stickyWriter) WriteString(s string) (int, error) {
	if w.v.severed.Load() {
		return 0, net.ErrClosed
	}
	w.begin(http.StatusOK)
	n, err := io.WriteString(w.ResponseWriter, s)
	w.note(int64(n), err)
	return n, err
}

// ReadFrom implements io.ReaderFrom. A body that turns out to be empty writes no header.
func (w *stickyWriter) ReadFrom(src io.Reader) (n int64, err error) {
	if w.status == 0 {
		first := make([]byte, 512)
		for n == 0 {
			m, err := src.Read(first)
			if m > 0 {
				written, failed := w.Write(first[:m])
				if n = int64(written); failed != nil {
					return n, failed
				}
			}
			if err == io.EOF {
				return n, nil
			}
			if err != nil {
				return n, err
			}
		}
	}
	below, ok := w.ResponseWriter.(io.ReaderFrom)
	if !ok {
		rest, err := io.Copy(struct{ io.Writer }{w}, src)
		return n + rest, err
	}
	rest, err := below.ReadFrom(src)
	w.bytes += rest // the error may come from src, so it is not noted
	return n + rest, err
}

// note counts the bytes that were written. An error counts as the client's, unless the handler has
// broken a rule of net/http.
func (w *stickyWriter) note(n int64, err error) {
	w.bytes += n
	switch {
	case err == nil, w.err != nil, errors.Is(err, http.ErrBodyNotAllowed), errors.Is(err, http.ErrContentLength),
		errors.Is(err, http.ErrHijacked):
	default:
		w.err = err
	}
}

// FlushError implements the method that http.ResponseController calls.
func (w *stickyWriter) FlushError() error {
	below := w.ResponseWriter
	if inChain[http.Flusher](below) || inChain[interface{ FlushError() error }](below) {
		w.begin(http.StatusOK)
	}
	return http.NewResponseController(below).Flush()
}

// push implements http.Pusher.
func (w *stickyWriter) push(to string, o *http.PushOptions) error {
	return w.ResponseWriter.(http.Pusher).Push(to, o)
}
