package upstream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// probePatience is how long probe waits for the first byte of a body before it takes the body for
// one that comes later.
const probePatience = 200 * time.Millisecond

func usuallyLacksBody(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodOptions, "PROPFIND", "SEARCH":
		return true
	}
	return false
}

// A probed body is a body whose first byte is read by a goroutine.
type probed struct {
	io.ReadCloser
	first chan firstByte // nil once Read has taken the first byte
}

type firstByte struct {
	b   [1]byte
	n   int
	err error
}

// probe finds out whether a body of unknown length has any bytes: many servers do not expect a GET
// with a body, even an empty one. It returns the body to send, or nil if the body is empty. Like
// http.Transport, it does not wait for long.
func probe(ctx context.Context, body io.ReadCloser) io.ReadCloser {
	read := make(chan firstByte, 1)
	go func() {
		var f firstByte
		defer func() {
			if v := recover(); v != nil {
				f.n, f.err = 0, fmt.Errorf("upstream: the request's body has panicked: %v", v)
			}
			read <- f
		}()
		f.n, f.err = body.Read(f.b[:])
	}()
	timer := time.NewTimer(probePatience)
	defer timer.Stop()
	select {
	case f := <-read:
		if f.n == 0 && f.err == io.EOF {
			return nil
		}
		read <- f
	case <-timer.C:
	case <-ctx.Done():
	}
	return &probed{ReadCloser: body, first: read}
}

// Read implements io.Reader.
func (p *probed) Read(b []byte) (int, error) {
	if p.first == nil {
		return p.ReadCloser.Read(b)
	}
	if len(b) == 0 {
		return 0, nil
	}
	f := <-p.first
	if f.err != nil {
		p.first <- firstByte{err: f.err} // the next Read returns it too
	} else {
		p.first = nil
	}
	if f.n == 0 {
		return 0, f.err
	}
	return copy(b, f.b[:]), nil
}
