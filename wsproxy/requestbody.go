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

// A requestBody stands between the body of an inbound request and everybody who reads it. A
// connection of HTTP/1.x may serve another request only if the body was read to its end, trailers
// included: else the rest of the body would be read as a request. This is the protocol, in order:
//
//  1. The transport reads the body through Read while the request is served, after what was read
//     ahead. An error other than io.EOF ends the body for good.
//  2. Before the final header is written, settle looks at the body. If it is at its end, nothing is
//     left to do but net/http's own check, which also sees through a middleware's replacement of
//     the body. If it is not, but the whole answer is at hand, the rest gets 50 ms to come, so that
//     small bodies keep their connection. Otherwise the header says "Connection: close", and the
//     response goes out while the client still sends.
//  3. The transport may go on reading until the response has ended.
//  4. finish flushes the response and has drop read and drop what still comes. A connection that is
//     closed while data is unread is reset, and a reset may destroy the response before the client
//     has read it (RFC 9112 section 9.6).
//  5. finish then interrupts the Read that is under way by a read deadline in the past, waits for
//     it, and tells net/http to close the connection after the response.
//
// A Read that does not return after the interruption, because a middleware's body does not care for
// read deadlines or has none, is left behind: what it reads is dropped, and it is the last one.
//
// A stream of HTTP/2 ends alone. Its body is closed in finish, which interrupts the Read that is
// under way; net/http ends the response and then resets the stream with NO_ERROR if the client has
// not ended it (RFC 9113 section 8.1). The other streams of the connection go on.
type requestBody struct {
	body    io.ReadCloser // the request's; nil when there is none
	length  int64         // of body; -1 when unknown
	w       *responseWriter
	buffers *bufferPool
	http1   bool
	expects bool          // the client waits for a 100 before it sends the body
	sender  *attemptBody  // through which the body is read for a target; nil when no target wants it
	closing bool          // the connection ends after the response
	dropped chan struct{} // closed when drop has returned; nil before it is started
	gate    limitGate     // nil unless the body is one of http.MaxBytesReader
	ahead   *aheadBuffer  // nil when nothing is read ahead

	interrupted bool // the body has ended because an answer could not wait

	asked atomic.Bool  // there was a Read
	taken atomic.Bool  // nobody but drop may read
	over  atomic.Bool  // nobody may read
	got   atomic.Int64 // bytes read

	mu      sync.Mutex
	reading bool          // body
	read    sync.Cond     // told when that is over
	err     error         // that ended the body
	news    chan struct{} // closed when the body ends, or its sender; nil while nobody waits for that
}

// The bounds of what is read and dropped for a client's sake.
const (
	restPatience = 50 * time.Millisecond  // for the rest of a body, before the header
	dropPatience = 5 * time.Second        // for all that is dropped, after the response
	dropPause    = 250 * time.Millisecond // without a byte, if the client may wait for the response's end
	joinPatience = time.Second            // for the last Read to return
	maxDropped   = 1 << 20                // bytes

	// maxAtHand is how long a response of known length may be to count as at hand before its header
	// is written: about what comes together with the header.
	maxAtHand = 4 << 10
)

// init looks at the request as it came in. The stream of an extended CONNECT is no body.
func (b *requestBody) init(r *http.Request, w *responseWriter, buffers *bufferPool) {
	b.w, b.http1 = w, r.ProtoMajor == 1
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

// begin waits for another Read to return. It reports false when this one must not be.
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

// readOn reads the body if that has not ended, after begin.
func (b *requestBody) readOn(p []byte) (n int, err error) {
	n, err = b.next(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.endRead(err)
	return n, err
}

// next reads the body if that has not ended. Until endRead no other Read begins.
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

// end returns the error that ended the body, io.EOF at its proper end; nil before.
func (b *requestBody) end() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// failure returns why the body could not be read to its end; nil while it may yet be.
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

// tell tells who waits for news. b.mu must be held.
func (b *requestBody) tell() {
	if b.news != nil {
		close(b.news)
		b.news = nil
	}
}

// settle decides, before the final header is written, whether the connection ends after the
// response. whole reports whether the whole answer is at hand.
func (b *requestBody) settle(whole bool) {
	if !b.http1 || !b.closing && (b.body == nil || b.end() == io.EOF) {
		return
	}
	if !b.closing && b.endsSoon(whole) {
		return
	}
	b.closing = true
	b.w.Header().Set("Connection", "close")
	// So that net/http does not read the body before it writes the header. With "Connection: close"
	// it does not anyway, but this is its documented way.
	http.NewResponseController(b.w.ResponseWriter).EnableFullDuplex()
}

// endsSoon waits for the end of the body, and reports whether it came. It asks no client for a body
// that waits for a 100.
func (b *requestBody) endsSoon(whole bool) bool {
	if b.expects && !b.asked.Load() {
		return false
	}
	if !whole && b.got.Load() != b.length { // the end itself takes no time
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

// refuse has the client's body left alone if nobody has asked for it yet: there is an answer.
func (b *requestBody) refuse() {
	if b.expects && !b.asked.Load() {
		b.taken.Store(true)
	}
}

// take has nobody but drop read from now on.
func (b *requestBody) take() {
	if b.dropped == nil {
		b.taken.Store(true)
		b.dropped = make(chan struct{})
		go b.drop()
	}
}

// drop reads and drops what still comes, when the Read that is under way has returned.
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

// finish ends all reading, and has the connection closed where it must not serve another request.
// It is called when nothing else of the request is left to do. hurried reports whether the program
// wants to end.
func (b *requestBody) finish(hurried func() bool) {
	if !b.http1 {
		b.finishStream()
		return
	}
	b.sender = nil
	if b.w.status == 0 { // a hook has panicked, or nothing was written
		b.settle(true)
		if b.gate != nil {
			b.over.Store(true)
			b.enter()
			b.w.handOver()
			b.gate.leave()
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
// has the whole response: if not, a client that pauses may wait for its end, which only net/http
// can write, after the handler.
func (b *requestBody) dropRest(sent bool, hurried func() bool) {
	control := http.NewResponseController(b.w.ResponseWriter)
	if err := b.end(); err != nil {
		if !upstream.IsTimeout(err) || b.interrupted { // else the client has had its time
			// Behind a limit of middleware there may be more. net/http reads that when the response
			// is out.
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

// finishStream ends the reading of an HTTP/2 stream.
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

// closeAfterReply tells net/http's server to close the connection when the response is out, and to
// give the client a moment before that. Where no server of net/http is at the end of the Unwrap
// chain, it does nothing.
func closeAfterReply(w http.ResponseWriter) {
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = wrapper.Unwrap()
	}
	// A limit that is passed is the only way to say so after the header.
	http.MaxBytesReader(w, io.NopCloser(strings.NewReader("x")), 0).Read(make([]byte, 1))
}

// complete reports whether the client has the whole response after a Flush: whether that has a
// Content-Length, and so many bytes went out. A middleware that changes bodies removes it.
func (w *responseWriter) complete() bool {
	if w.status == http.StatusNoContent || w.status == http.StatusNotModified {
		return true
	}
	length, err := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64)
	return err == nil && (length == w.bytes || w.head)
}

// A bodyPanic is what a body of middleware, or of a hook, has panicked with. It is read on
// goroutines of the transports, where a panic would end the process.
type bodyPanic struct {
	value any
	stack []byte
}

func (e *bodyPanic) Error() string {
	return fmt.Sprintf("the request's body has panicked: %v", e.value)
}

// readSafely is r's Read, with a panic turned into an error. A count that cannot be is one, too:
// whoever cuts p there would panic, on a goroutine of ours.
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

// A safeBody is a body whose panics are errors.
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
