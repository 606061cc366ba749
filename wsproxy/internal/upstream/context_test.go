package upstream_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

var errWhy = errors.New("why")

// A context that ends has its cause returned and the connection closed, whatever is under way.
func TestTransport_ContextEnds(t *testing.T) {
	reached := make(chan struct{}, 1)
	tests := map[string]struct {
		play func(p *peer)
		body func() io.ReadCloser
	}{
		"before a header": {func(p *peer) {
			p.header()
			reached <- struct{}{}
			p.gone()
		}, nil},
		"within a header": {func(p *peer) {
			p.header()
			p.say("HTTP/1.1 200 OK\r\nA: b")
			reached <- struct{}{}
			p.gone()
		}, nil},
		"while the body is written": {func(p *peer) {
			p.header()
			p.r.ReadByte()
			reached <- struct{}{} // and nothing more is read until the end
			<-p.ctx.Done()
		}, func() io.ReadCloser { return endless{} }},
		"while a 100 is waited for": {func(p *peer) {
			p.header()
			reached <- struct{}{}
			p.gone()
		}, func() io.ReadCloser { return bodyOf("four") }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			alikeInTime(t, usual, func(t *testing.T, rt transport) {
				closed := make(chan struct{})
				b := newBackend(t, func(p *peer) {
					tt.play(p)
					io.Copy(io.Discard, p.Conn)
					close(closed)
				})
				req := newRequest(t, http.MethodPost, b.url, nil)
				if tt.body != nil {
					req.Body, req.ContentLength = tt.body(), -1
				}
				if name == "while a 100 is waited for" {
					req.Header.Set("Expect", "100-continue")
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				go func() {
					<-reached
					b.cancelConns()
					cancel(errWhy)
				}()
				_, err := rt.RoundTrip(req.WithContext(ctx))
				require.ErrorIs(t, err, errWhy)
				wait(t, closed, "close")
			})
		})
	}
}

// endless is a body without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
func (endless) Close() error               { return nil }

func TestTransport_ContextEndsBeforehand(t *testing.T) {
	alike(t, usual, func(t *testing.T, rt transport) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errWhy)
		body := newClosing(endless{})
		_, err := rt.RoundTrip(newRequest(t, http.MethodPost, newBackend(t, nil).url, body).WithContext(ctx))
		require.ErrorIs(t, err, errWhy)
		wait(t, body.closed, "close")
	})
}

func TestTransport_ContextEndsWhileDialling(t *testing.T) {
	dialling := make(chan struct{})
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		close(dialling)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	rt := &upstream.Transport{DialContext: dial}
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-dialling
		cancel(errWhy)
	}()
	body := newClosing(endless{})
	_, err := rt.RoundTrip(newRequest(t, http.MethodPost, "http://a.example", body).WithContext(ctx))
	require.ErrorIs(t, err, errWhy)
	wait(t, body.closed, "close")
}

// A response's body ends with its request's context, whether anybody reads it or not.
func TestTransport_ContextEndsWithinAResponse(t *testing.T) {
	for _, text := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart", "HTTP/1.1 200 OK\r\n\r\npart",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"} {
		alikeInTime(t, usual, func(t *testing.T, rt transport) {
			closed := make(chan struct{})
			b := newBackend(t, func(p *peer) {
				p.request()
				p.say(text)
				p.gone()
				close(closed)
			})
			ctx, cancel := context.WithCancelCause(t.Context())
			res, err := rt.RoundTrip(newRequest(t, http.MethodGet, b.url, nil).WithContext(ctx))
			require.NoError(t, err)
			part := make([]byte, 4)
			_, err = io.ReadFull(res.Body, part)
			require.NoError(t, err)
			cancel(errWhy)
			wait(t, closed, "close")
			_, err = res.Body.Read(part)
			require.ErrorIs(t, err, errWhy)
			_, again := res.Body.Read(part)
			require.Error(t, again)
			require.NoError(t, res.Body.Close())
		})
	}
}

// When the response has been read, the context has no say in the connection any more.
func TestTransport_ContextEndsAfterwards(t *testing.T) {
	alike(t, usual, func(t *testing.T, rt transport) {
		b := newBackend(t, always(ok))
		for range 100 {
			ctx, cancel := context.WithCancel(t.Context())
			_, body := ask(t, rt, newRequest(t, http.MethodGet, b.url, nil).WithContext(ctx))
			require.Equal(t, "ok", body)
			cancel()
		}
		require.EqualValues(t, 1, b.conns.Load())
	})
}

// A context that ends together with the response takes no other request's connection away.
func TestTransport_ContextEndsAtTheSameTime(t *testing.T) {
	alike(t, usual, func(t *testing.T, rt transport) {
		b := newBackend(t, always(ok))
		for range 300 {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				cancel()
				close(ended)
			}()
			if res, err := rt.RoundTrip(newRequest(t, http.MethodGet, b.url, nil).WithContext(ctx)); err == nil {
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			} else {
				require.ErrorIs(t, err, context.Canceled)
			}
			require.Equal(t, "ok", get(t, rt, b.url))
			<-ended
		}
	})
}

// A deadline of the context is not the header's.
func TestTransport_ContextDeadline(t *testing.T) {
	alikeInTime(t, usual, func(t *testing.T, rt transport) {
		b := newBackend(t, func(p *peer) {
			p.request()
			p.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			p.gone()
		})
		require.Equal(t, "ok", get(t, rt, b.url), "now there is a connection, and nothing to dial")
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := rt.RoundTrip(newRequest(t, http.MethodGet, b.url, nil).WithContext(ctx))
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// lateContext is one whose deadline has passed, and that does not know it yet.
type lateContext struct{ context.Context }

func (lateContext) Deadline() (time.Time, bool) { return time.Unix(1, 0), true }

// net.Dialer has a timer of its own for the context's deadline, which may be the quicker one.
func TestTransport_ContextDeadlineIsTheDialers(t *testing.T) {
	rt := &upstream.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return nil, os.ErrDeadlineExceeded
	}}
	req := newRequest(t, http.MethodGet, "http://a.example", nil)
	_, err := rt.RoundTrip(req.WithContext(lateContext{t.Context()}))
	require.Equal(t, context.DeadlineExceeded, err)
	_, err = rt.RoundTrip(req)
	failed, ok := errors.AsType[*upstream.Error](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, upstream.StageDial, failed.Stage)
}

// A request whose body nobody gives does not keep a failed RoundTrip from returning.
func TestTransport_ReturnsWhileTheBodyIsSilent(t *testing.T) {
	rt := transports[1].make(limits{})
	r, w := io.Pipe()
	reading := make(chan struct{})
	body := newClosing(reader(func(p []byte) (int, error) {
		close(reading)
		return r.Read(p)
	}))
	ctx, cancel := context.WithCancelCause(t.Context())
	b := newBackend(t, func(p *peer) {
		p.header()
		<-reading
		cancel(errWhy)
		p.gone()
	})
	_, err := rt.RoundTrip(newRequest(t, http.MethodPost, b.url, body).WithContext(ctx))
	require.ErrorIs(t, err, errWhy)
	select {
	case <-body.closed:
		require.Fail(t, "closed while it is read")
	default:
	}
	w.Close()
	wait(t, body.closed, "close")
}
