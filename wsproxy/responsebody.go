package wsproxy

import (
	"io"
	"net/http"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// A responseBody is the body of the target's response. It remembers how it ended.
type responseBody struct {
	io.ReadCloser
	walk     *walk
	res      *http.Response
	exchange *exchange
	tells    bool  // when a Read has to wait
	begun    bool  // the first Read is over
	err      error // that broke it off

	read   time.Time     // when the last Read ended, if there is to be another
	heldUp time.Duration // total time between Reads, in which the client was written to
}

// heldUp is how long a client may delay a response in total before a break is no longer the
// target's fault. The target may have a limit for slow readers.
const heldUp = time.Second

func (b *responseBody) init(res *http.Response, k *walk) {
	x := k.last.under
	b.ReadCloser, b.walk, b.res, b.exchange = res.Body, k, res, x
	teller, _ := res.Body.(interface{ OnWait(upstream.Waiter) })
	x.w = &k.w
	if x.cancel == nil { // else the header may have been waited for, and whoever cuts looks at x already
		x.body = res.Body
	}
	if b.tells = teller != nil; b.tells {
		teller.OnWait(x)
	}
}

// Read implements io.Reader. What has come together with the header goes to the client even when
// the target is down: cut there, the client would have no answer at all.
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
		return n, nil // goes to the client first
	}
	return 0, b.breakOff()
}

// breakOff flushes what the target has sent before the break, and returns the error. ReverseProxy
// panics next, and then the server drops everything that was not flushed, the header too.
func (b *responseBody) breakOff() error {
	if w := &b.walk.w; w.unflushed.Load() && b.walk.in.Context().Err() == nil {
		w.FlushError()
		w.repanic()
	}
	return b.err
}

// Close implements io.Closer. It ends the attempt's context first, if there is one. Otherwise the
// Close of an HTTP/2 body would wait for the request's body, and so for a silent client. It filters
// the trailers last, because they are complete only now. ReverseProxy reads them after Close.
func (b *responseBody) Close() error {
	b.exchange.end()
	err := b.ReadCloser.Close()
	b.walk.filterTrailer(b.res.Trailer)
	return err
}
