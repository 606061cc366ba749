package upstream

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync"
	"time"
)

// A sending sends the body of a request on its own goroutine: the target may answer before it has
// the whole body, and the caller may produce the body only after it has the answer.
type sending struct {
	c       *conn
	header  []byte // to be written first; nil once it is written
	body    io.ReadCloser
	length  int64       // -1 if chunked
	trailer http.Header // has its values at the end of the body
	trace   *httptrace.ClientTrace
	proceed chan bool     // receives whether to send the body; nil without "Expect: 100-continue"
	asked   bool          // a 100 has come; used by the reader only
	done    chan struct{} // closed when the goroutine ends

	mu        sync.Mutex
	outside   bool // the goroutine runs the caller's code, which may block
	abandoned bool // the result no longer matters
	answered  bool // the final header has come; from then on only the reader sets deadlines
	written   bool // at least one byte was written
	ended     bool
	err       error
}

// A bodyError is an error of the caller's body.
type bodyError struct{ error }

// bufferSize is the size of a buffer for a piece of the body with its chunked framing.
const (
	bufferSize = frontRoom + 32<<10 + backRoom
	frontRoom  = len("12345678\r\n")
	backRoom   = len("\r\n0\r\n\r\n")
)

// run sends the body. If the header is not written yet, it comes first.
func (s *sending) run() {
	defer close(s.done)
	err := s.sendSafely()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended, s.err = true, err
	_, callers := err.(bodyError)
	switch {
	case callers: // the target waits for bytes that will never come
		s.c.nc.Close()
	case s.abandoned || s.answered:
	case err != nil:
		s.c.setDeadline(time.Now().Add(lastWords))
	default:
		s.c.expectHeader()
	}
}

// sendSafely is send, but turns a panic of the caller's body or trace into an error of the body. On
// this goroutine a panic would end the process.
func (s *sending) sendSafely() (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = bodyError{fmt.Errorf("upstream: the request's body has panicked: %v", v)}
		}
	}()
	return s.send()
}

func (s *sending) send() (err error) {
	defer func() {
		if e, ok := err.(bodyError); ok {
			tellRequest(s.trace, e.error)
		} else {
			tellRequest(s.trace, err)
		}
	}()
	if s.header != nil {
		err = s.write(s.header)
		s.header = nil
	}
	if err == nil && !s.mayProceed() {
		err = errNotSent
	}
	if s.body == nil {
		return err
	}
	defer s.closeBody()
	if err != nil {
		return err
	}
	buf, ok := s.c.t.buffers.Get().(*[bufferSize]byte)
	if !ok {
		buf = new([bufferSize]byte)
	}
	defer s.c.t.buffers.Put(buf)
	if s.length < 0 {
		return s.sendChunked(buf)
	}
	return s.sendCounted(buf[:])
}

// mayProceed waits, with "Expect: 100-continue", until the target asks for the body or has had time
// to refuse it.
func (s *sending) mayProceed() bool {
	if s.proceed == nil {
		return true
	}
	if s.trace != nil && s.trace.Wait100Continue != nil {
		s.trace.Wait100Continue()
	}
	timer := time.NewTimer(orDefault(s.c.t.ContinueTimeout, time.Second))
	defer timer.Stop()
	select {
	case ok := <-s.proceed:
		return ok
	case <-timer.C:
		return true
	}
}

// sendCounted sends a body of known length. A body that is longer is an error, as one that is
// shorter: the target must not get a request that does not match its length.
func (s *sending) sendCounted(buf []byte) error {
	left := s.length
	for {
		p := buf
		if left < int64(len(p)) {
			p = p[:max(left, 1)]
		}
		n, err := s.read(p)
		if int64(n) > left {
			return bodyError{errBodyTooLong}
		}
		if n > 0 {
			left -= int64(n)
			if err := s.write(p[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF && left > 0:
			return bodyError{errBodyTooShort}
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// sendChunked sends a body of unknown length, each piece as soon as it is read (RFC 9112 section
// 7.1).
func (s *sending) sendChunked(buf *[bufferSize]byte) error {
	for {
		n, err := s.read(buf[frontRoom : bufferSize-backRoom])
		if err != nil && err != io.EOF {
			if n > 0 { // send it, as if the error had come with the next Read
				s.write(chunk(buf, n))
			}
			return err
		}
		out := chunk(buf, n)
		if err == io.EOF {
			out = append(out, "0\r\n"...)
			if len(s.trailer) == 0 {
				return s.write(append(out, "\r\n"...))
			}
			return s.sendTrailer(out)
		}
		if n > 0 {
			if err := s.write(out); err != nil {
				return err
			}
		}
	}
}

// chunk adds the chunked framing to n bytes that start at frontRoom in buf.
func chunk(buf *[bufferSize]byte, n int) []byte {
	if n == 0 {
		return buf[:0]
	}
	var digits [8]byte
	size := strconv.AppendInt(digits[:0], int64(n), 16)
	start := frontRoom - len(size) - 2
	copy(buf[start:], size)
	copy(buf[frontRoom-2:], "\r\n")
	return append(buf[start:frontRoom+n], "\r\n"...)
}

// sendTrailer sends the rest of the last chunk and the trailer section.
func (s *sending) sendTrailer(out []byte) error {
	if err := checkFields("trailer", s.trailer); err != nil {
		return bodyError{err}
	}
	out = append([]byte(nil), out...)
	for _, f := range appendSorted(nil, s.trailer) {
		for _, v := range f.values {
			out = appendField(out, f.name, v)
		}
	}
	return s.write(append(out, "\r\n"...))
}

// read reads from the caller's body, unless the result no longer matters.
func (s *sending) read(p []byte) (int, error) {
	if !s.beginOutside() {
		return 0, errNotSent
	}
	n, err := s.body.Read(p)
	if !s.endOutside() {
		return 0, errNotSent
	}
	if err != nil && err != io.EOF {
		err = bodyError{err}
	}
	return n, err
}

func (s *sending) closeBody() {
	s.beginOutside()
	s.body.Close()
	s.endOutside()
}

// beginOutside is called before the caller's code. It reports false if that code must not be
// called.
func (s *sending) beginOutside() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outside = true
	return !s.abandoned
}

// endOutside is called after the caller's code. It reports whether its result still matters.
func (s *sending) endOutside() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outside = false
	return !s.abandoned
}

func (s *sending) write(p []byte) error {
	n, err := s.c.write(p)
	if n > 0 {
		s.mu.Lock()
		s.written = true
		s.mu.Unlock()
	}
	return err
}

// goOn records that the target wants the body. It reports whether somebody was waiting for that.
func (s *sending) goOn() bool {
	if s.proceed == nil || s.asked {
		return false
	}
	s.asked = true
	s.proceed <- true
	return true
}

// answer records that the final header has come. If the request still waits for a 100, its body is
// not sent and the connection ends: reading the body might ask the caller's client for it.
func (s *sending) answer() {
	s.mu.Lock()
	s.answered = true
	s.mu.Unlock()
	s.refuse()
}

// refuse ends the wait for a 100 if it has not ended yet.
func (s *sending) refuse() {
	select {
	case s.proceed <- false:
	default:
	}
}

// failure returns the [Error] of a body that could not be sent. It returns nil if the body was sent
// or may still be sent.
func (s *sending) failure() error {
	if err := s.callers(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil || s.err == errNotSent {
		return nil
	}
	return &Error{StageWrite, s.err}
}

// callers returns the error of a body that could not be read, or nil.
func (s *sending) callers() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.err.(bodyError); ok {
		return e.error
	}
	return nil
}

// abandon is called after the connection has been closed. It waits for the goroutine unless that
// runs the caller's code, which may block for as long as a client sends nothing. It reports whether
// anything was written.
func (s *sending) abandon() bool {
	s.refuse()
	s.mu.Lock()
	s.abandoned = true
	wait := !s.outside && !s.ended
	s.mu.Unlock()
	if wait {
		<-s.done
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written
}

// sendPatience is how long to wait for the end of the request after the end of the response.
const sendPatience = 50 * time.Millisecond

// finished reports whether the whole request was sent. If it is almost sent, finished waits.
func (s *sending) finished() bool {
	select {
	case <-s.done:
	default:
		timer := time.NewTimer(sendPatience)
		defer timer.Stop()
		select {
		case <-s.done:
		case <-timer.C:
			return false
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err == nil
}
