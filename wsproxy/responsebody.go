package wsproxy

import (
	"io"
	"net/http"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// A responseBody is the body of the answer, as ReverseProxy reads it. It notes how the body ended.
type responseBody struct {
	io.ReadCloser // the target's
	walk          *walk
	res           *http.Response
	exchange      *exchange
	tells         bool  // the target's body calls KeepsWaiting itself
	begun         bool  // the first Read is over
	err           error // the error with which the body broke off; nil before

	read   time.Time     // when the last Read ended; zero before
	heldUp time.Duration // total time between the Reads, in which the body was written to the client
}

// heldUp is how long a client may delay a response in total. A break after that is not held against
// the target, because it may have a limit for slow readers.
const heldUp = time.Second

func (b *responseBody) init(res *http.Response, k *walk) {
	x := k.last.under
	b.ReadCloser, b.walk, b.res, b.exchange = res.Body, k, res, x
	x.respond(res.Body, &k.w)
	if teller, ok := res.Body.(interface{ OnWait(upstream.Waiter) }); ok {
		b.tells = true
		teller.OnWait(x)
	}
}

// Read implements io.Reader. The first Read is not cut when the target is down: what has come
// together with the header may be the whole answer.
func (b *responseBody) Read(p []byte) (int, error) {
	if b.err == nil && b.begun && b.exchange.member.State().Admin == balancer.Down {
		b.err = errCut
	}
	if b.err != nil {
		return 0, b.breakOff()
	}
	if b.begun {
		b.heldUp += time.Since(b.read)
	}
	b.begun = true
	if !b.tells {
		b.exchange.wait()
	}
	n, err := b.ReadCloser.Read(p)
	if !b.tells {
		b.exchange.proceed()
	}
	b.exchange.w.repanic()
	if err == nil {
		b.read = time.Now()
	}
	if err == nil || err == io.EOF {
		return n, err
	}
	if b.err = err; b.exchange.down.Load() {
		b.err = errCut
	}
	if n > 0 {
		return n, nil // the client gets this part first
	}
	return 0, b.breakOff()
}

// breakOff flushes what the target has sent before the break, and returns the error. ReverseProxy
// then panics, and the server drops everything that was not flushed, even the header.
func (b *responseBody) breakOff() error {
	if w := &b.walk.w; w.unflushed.Load() && b.walk.in.Context().Err() == nil {
		w.FlushError()
		w.repanic()
	}
	return b.err
}

// Close implements io.Closer. It ends the attempt's context first. Otherwise the Close of an HTTP/2
// body would wait for the request's body, and so for a silent client. It filters the trailers last:
// they are complete now, and ReverseProxy reads them after Close.
func (b *responseBody) Close() error {
	b.exchange.end()
	err := b.ReadCloser.Close()
	b.walk.filterTrailer(b.res.Trailer)
	return err
}
