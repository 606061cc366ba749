package wsproxy

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// A requestBody is the body of an inbound request. Nobody reads the body except through it. A
// connection of HTTP/1.x may serve another request only if the body was read to its end, trailers
// included. Otherwise the server would take the rest of the body for a request. The body passes
// through these steps, in this order:
//
//  1. The transport reads the body through Read while the request is served. Read returns first
//     what was read ahead. An error other than io.EOF ends the body for good.
//  2. Before the final header is written, decideClose looks at the body. If it has ended, the
//     connection stays. net/http still makes its own check, which notices when a middleware has
//     replaced the body. If it has not ended, but the whole answer is at hand, the rest gets 50 ms
//     to come, so that small bodies keep their connection. Otherwise the header says "Connection:
//     close", and the response goes out while the client still sends.
//  3. The transport may go on reading until the response has ended.
//  4. finish flushes the response, and drop reads and drops what still comes. A connection that is
//     closed while data is unread is reset, and a reset may destroy the response before the client
//     has read it (RFC 9112 section 9.6).
//  5. finish then interrupts the last Read by a read deadline in the past, waits for it, and tells
//     net/http to close the connection after the response.
//
// A middleware's body may not support read deadlines. Then the last Read does not return, and
// finish stops waiting for it. The bytes that this Read returns later are dropped, and no other
// Read follows.
//
// A stream of HTTP/2 ends without its connection. finish closes its body, which interrupts the last
// Read. net/http ends the response, and resets the stream with NO_ERROR if the client has not ended
// it (RFC 9113 section 8.1).
type requestBody struct {
	request *http.Request // as the server has it
	body    io.ReadCloser // the request's; nil when there is none
	length  int64         // of body; -1 when unknown
	w       *responseWriter
	buffers *bufferPool
	http1   bool
	expects bool          // the client waits for a 100 before it sends the body
	sender  *attemptBody  // reads the body for a target; nil when no target wants it
	closing bool          // the connection ends after the response
	dropped chan struct{} // closed when drop has returned; nil before drop has started
	gate    limitGate     // nil unless the body is one of http.MaxBytesReader
	ahead   *aheadBuffer  // nil when nothing is read ahead

	interrupted bool // lockHeader has ended the body, because an answer could not wait for it

	asked atomic.Bool  // there was a Read
	taken atomic.Bool  // nobody but drop may read
	over  atomic.Bool  // nobody may read
	got   atomic.Int64 // bytes read

	mu      sync.Mutex
	reading bool          // a Read of body runs
	read    sync.Cond     // signals its end
	err     error         // the error that ended the body; nil before
	news    chan struct{} // closed when the body or its sender ends; nil while nobody waits for that
}

// The limits of reading and dropping the rest of a body, which is done so that the client gets its
// response.
const (
	restPatience = 50 * time.Millisecond  // the wait for the rest of a body, before the header
	dropPatience = 5 * time.Second        // the time in which bytes are dropped, after the response
	dropPause    = 250 * time.Millisecond // a pause that ends the dropping, if the client may wait for the response's end
	joinPatience = time.Second            // the wait for the last Read
	maxDropped   = 1 << 20                // bytes

	// maxAtHand is the largest Content-Length of a response that counts as at hand before its
	// header is written. A body of this size usually comes together with the header.
	maxAtHand = 4 << 10
)

// init sets the body of the request that the server has called the handler with. The stream of an
// extended CONNECT is no body.
func (b *requestBody) init(r *http.Request, w *responseWriter, buffers *bufferPool) {
	b.request, b.w, b.http1 = r, w, r.ProtoMajor == 1
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody || r.Method == http.MethodConnect && !b.http1 {
		return
	}
	b.body, b.length, b.buffers, b.read.L = r.Body, r.ContentLength, buffers, &b.mu
	b.expects = b.http1 && len(r.Header["Expect"]) > 0
	if b.http1 {
		if b.gate = newLimitGate(r.Body); b.gate != nil {
			w.own = http.Header{}
			maps.Copy(w.own, w.ResponseWriter.Header())
		}
	}
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	if b.ahead != nil {
		if n := b.giveAhead(p); n > 0 {
			return n, nil
		}
	}
	if !b.begin(false) {
		return 0, errAbandoned
	}
	return b.readOn(p)
}

// sendThrough notes that a target reads the body through s from now on; nil means that none does.
func (b *requestBody) sendThrough(s *attemptBody) { b.sender = s }

// begin starts a Read, when no other runs. It reports false when the body must not be read any
// more. drop reports whether the caller is drop.
func (b *requestBody) begin(drop bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.reading {
		b.read.Wait()
	}
	b.reading = !b.over.Load() && (drop || !b.taken.Load())
	return b.reading
}

// Close implements io.Closer. It does nothing: net/http closes the body when it is done with it.
func (b *requestBody) Close() error { return nil }

// readOn reads the body after begin, if the body has not ended.
func (b *requestBody) readOn(p []byte) (n int, err error) {
	n, err = b.next(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.endRead(err)
	return n, err
}

// next reads the body if it has not ended. No other Read begins before endRead.
func (b *requestBody) next(p []byte) (n int, err error) {
	if err = b.end(); err == nil {
		b.asked.Store(true)
		n, err = b.readWithin(p)
		b.got.Add(int64(n))
	}
	return n, err
}

// endRead ends a Read that has returned err. b.mu is held.
func (b *requestBody) endRead(err error) {
	b.reading, b.err = false, err
	b.read.Broadcast()
	if err != nil {
		b.tell()
	}
}

// end returns the error that ended the body, which is io.EOF at its proper end. It returns nil
// before.
func (b *requestBody) end() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// failure returns the error for which the body could not be read to its end. It returns nil while
// there is none.
func (b *requestBody) failure() error {
	if err := b.end(); err != io.EOF {
		return err
	}
	return nil
}

// wake is called when the body's sender wants no more of it.
func (b *requestBody) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tell()
}

// tell wakes whoever waits for news. b.mu is held.
func (b *requestBody) tell() {
	if b.news != nil {
		close(b.news)
		b.news = nil
	}
}

// trailer returns the request's trailers, when the body has ended. quic-go's server sets a new map
// then, which copies of the request do not have.
func (b *requestBody) trailer() http.Header { return b.request.Trailer }

// decideClose decides whether the connection ends after the response. It is called before the final
// header is written. whole reports whether the whole answer is at hand.
func (b *requestBody) decideClose(whole bool) {
	if !b.http1 || !b.closing && (b.body == nil || b.end() == io.EOF) {
		return
	}
	if !b.closing && b.endsSoon(whole) {
		return
	}
	b.closing = true
	b.w.Header().Set("Connection", "close")
	// With full duplex, net/http does not read the body before it writes the header. With
	// "Connection: close" it does not either, but that is not documented.
	http.NewResponseController(b.w.ResponseWriter).EnableFullDuplex()
}

// endsSoon waits for the end of the body, and reports whether it came. It reads nothing from a
// client that waits for a 100, because that would ask for the body.
func (b *requestBody) endsSoon(whole bool) bool {
	if b.expects && !b.asked.Load() {
		return false
	}
	if !whole && b.got.Load() != b.length { // when all bytes are read, the end comes at once
		return false
	}
	timer := time.NewTimer(restPatience)
	defer timer.Stop()
	for {
		b.mu.Lock()
		err, news := b.err, make(chan struct{})
		b.news = news
		b.mu.Unlock()
		if err != nil {
			return err == io.EOF
		}
		if b.sender == nil || b.sender.closed.Load() {
			b.take()
		}
		select {
		case <-news:
		case <-timer.C:
			return b.end() == io.EOF
		}
	}
}

// refuse keeps everybody from reading a body that the client has not been asked for, because there
// is an answer already.
func (b *requestBody) refuse() {
	if b.expects && !b.asked.Load() {
		b.taken.Store(true)
	}
}

// take starts drop, if it has not started. Nobody else may read from now on.
func (b *requestBody) take() {
	if b.dropped == nil {
		b.taken.Store(true)
		b.dropped = make(chan struct{})
		go b.drop()
	}
}

// drop reads the rest of the body, and drops it. It waits for a Read that runs.
func (b *requestBody) drop() {
	defer close(b.dropped)
	buf := b.buffers.Get()
	defer b.buffers.Put(buf)
	for limit := b.got.Load() + maxDropped; b.got.Load() < limit && b.begin(true); {
		if _, err := b.readOn(buf); err != nil {
			return
		}
	}
}

// finish ends all reading, and closes the connection if it must not serve another request. It is
// called last, when the rest of the walk is over. hurried reports whether the program wants to end.
func (b *requestBody) finish(hurried func() bool) {
	if !b.http1 {
		b.finishStream()
		return
	}
	b.sender = nil
	if b.w.status == 0 { // a hook has panicked, or nothing was written
		b.decideClose(true)
		if b.gate != nil {
			b.over.Store(true)
			b.lockHeader()
			b.w.handOver()
			b.gate.unlock()
		}
	}
	if !b.closing {
		return
	}
	if b.body != nil {
		sent := b.w.status != 0 && b.w.FlushError() == nil && b.w.complete()
		b.dropRest(sent, hurried)
	}
	closeAfterReply(b.w.ResponseWriter)
}

// dropRest drops what the client still sends, and ends all reading. sent reports whether the client
// has the whole response. If it has not, a client that pauses may be waiting for the response's
// end, which net/http writes only after the handler has returned.
func (b *requestBody) dropRest(sent bool, hurried func() bool) {
	control := http.NewResponseController(b.w.ResponseWriter)
	if err := b.end(); err != nil {
		if !upstream.IsTimeout(err) || b.interrupted { // otherwise the client's time is over
			// The body may have ended at a limit of middleware. net/http reads the rest after the
			// response, and needs a new deadline for that.
			control.SetReadDeadline(time.Now().Add(dropPatience))
		}
		return
	}
	answered := b.w.status != 0
	b.over.Store(!answered)
	b.take()
	until := time.NewTimer(dropPatience)
	defer until.Stop()
	pause := time.NewTicker(dropPause)
	defer pause.Stop()
	late := false
	for last, waiting := b.got.Load(), answered; waiting && !late; {
		select {
		case <-b.dropped:
			waiting = false
		case <-until.C:
			late = true
		case <-pause.C:
			now := b.got.Load()
			waiting = (sent || now != last) && !hurried()
			last = now
		}
	}
	b.over.Store(true)
	if control.SetReadDeadline(longAgo) == nil || late {
		until.Reset(joinPatience)
	}
	select {
	case <-b.dropped:
	case <-until.C:
	}
}

// finishStream is finish for a stream of HTTP/2.
func (b *requestBody) finishStream() {
	if b.body == nil || b.end() != nil {
		return
	}
	b.over.Store(true)
	safeBody{b.body}.Close()
	b.take()
	timer := time.NewTimer(joinPatience)
	defer timer.Stop()
	select {
	case <-b.dropped:
	case <-timer.C:
	}
}

// closeAfterReply makes net/http's server close the connection a moment after the response. It does
// nothing when the last writer of the Unwrap chain is not a server's.
func closeAfterReply(w http.ResponseWriter) {
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = wrapper.Unwrap()
	}
	// Once the header is written, only a MaxBytesReader whose limit is exceeded makes the server
	// close the connection.
	http.MaxBytesReader(w, io.NopCloser(strings.NewReader("x")), 0).Read(make([]byte, 1))
}

// complete reports whether the client has the whole response after a Flush. It is false for a
// response without a Content-Length. A middleware that changes bodies removes that.
func (w *responseWriter) complete() bool {
	if w.status == http.StatusNoContent || w.status == http.StatusNotModified {
		return true
	}
	length, err := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64)
	return err == nil && (length == w.bytes || w.head)
}

// A bodyPanic is the panic of a body that middleware or a hook has set. Such a body is read on
// goroutines of the transports, where a panic would end the process.
type bodyPanic struct {
	value any
	stack []byte
}

func (e *bodyPanic) Error() string {
	return fmt.Sprintf("the request's body has panicked: %v", e.value)
}

// readSafely calls r.Read, and returns a panic as an error. A count that is impossible is an error,
// too, because whoever slices p with it would panic.
func readSafely(r io.Reader, p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			n, err = 0, &bodyPanic{v, debug.Stack()}
		}
	}()
	if n, err = r.Read(p); n < 0 || n > len(p) {
		panic(fmt.Sprintf("%T read %d of %d bytes", r, n, len(p)))
	}
	return n, err
}

// A safeBody returns the panics of a body as errors.
type safeBody struct{ io.ReadCloser }

// Read implements io.Reader.
func (b safeBody) Read(p []byte) (int, error) { return readSafely(b.ReadCloser, p) }

// Close implements io.Closer.
func (b safeBody) Close() (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &bodyPanic{v, debug.Stack()}
		}
	}()
	return b.ReadCloser.Close()
}
