package upstream_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A response may come before the request has been sent; the rest of the body is sent nevertheless.
func TestTransport_EarlyResponse(t *testing.T) {
	alike(t, usual, func(t *testing.T, rt transport) {
		b := newBackend(t, func(p *peer) {
			p.header()
			p.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n")
			body, err := io.ReadAll(io.LimitReader(p.r, int64(len("4\r\nlate\r\n0\r\n\r\n"))))
			if err == nil {
				p.say(fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body))
			}
			p.gone()
		})
		r, w := io.Pipe()
		res, err := rt.RoundTrip(newRequest(t, http.MethodPost, b.url, r))
		require.NoError(t, err)
		defer res.Body.Close()
		early := make([]byte, 5)
		_, err = io.ReadFull(res.Body, early)
		require.NoError(t, err)
		require.Equal(t, "early", string(early))
		go func() {
			io.WriteString(w, "late")
			w.Close()
		}()
		rest, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, "4\r\nlate\r\n0\r\n\r\n", string(rest))
	})
}

// A refusal that is complete before the request is does not wait for a body that nobody gives, and the connection is
// of no use afterwards.
func TestTransport_RefusedBeforeTheBody(t *testing.T) {
	alikeInTime(t, usual, func(t *testing.T, rt transport) {
		b := newBackend(t, func(p *peer) {
			p.header()
			p.say("HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
			p.gone()
		})
		r, w := io.Pipe()
		defer w.Close()
		res, body := ask(t, rt, newRequest(t, http.MethodPost, b.url, r))
		require.Equal(t, 413, res.StatusCode)
		require.Equal(t, "no", body)
		require.NotZero(t, b.conns.Load())
		res, _ = ask(t, rt, newRequest(t, http.MethodPost, b.url, nil))
		require.Equal(t, 413, res.StatusCode)
		require.EqualValues(t, 2, b.conns.Load())
	})
}

// Both directions flow at once, and more than the sockets hold.
func TestTransport_FullDuplex(t *testing.T) {
	text := long(8 << 20)
	alike(t, usual, func(t *testing.T, rt transport) {
		b := newBackend(t, func(p *peer) {
			for {
				req, err := http.ReadRequest(p.r)
				if err != nil {
					return
				}
				p.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(text)))
				io.Copy(p.Conn, req.Body)
			}
		})
		_, body := ask(t, rt, newRequest(t, http.MethodPost, b.url, bodyOf(text)))
		require.True(t, body == text)
		req := newRequest(t, http.MethodPost, b.url, bodyOf(text))
		req.ContentLength = int64(len(text))
		_, body = ask(t, rt, req)
		require.True(t, body == text)
	})
}

// A body that breaks off, or has not the length that it was to have, fails the request with its own error, and is never
// sent as a complete one.
func TestTransport_BrokenBodies(t *testing.T) {
	broken := reader(func([]byte) (int, error) { return 0, errWhy })
	text := func(s string) func() io.Reader { return func() io.Reader { return strings.NewReader(s) } }
	breaking := func(s string) func() io.Reader {
		return func() io.Reader { return io.MultiReader(strings.NewReader(s), broken) }
	}
	tests := map[string]struct {
		body   func() io.Reader
		length int64
		own    bool
	}{
		"breaks off, counted": {breaking("part"), 9, true},
		"breaks off, chunked": {breaking("part"), -1, true},
		"breaks with data": {func() io.Reader {
			return reader(func(p []byte) (int, error) { return copy(p, "part"), errWhy })
		}, -1, true},
		"breaks at once": {breaking(""), 9, true},
		"unexpected end": {func() io.Reader {
			return reader(func([]byte) (int, error) { return 0, io.ErrUnexpectedEOF })
		}, 9, false},
		"too short":            {text("part"), 9, false},
		"too short by all":     {text(""), 9, false},
		"too long":             {text("part"), 3, false},
		"too long for buffers": {text(long(100_000)), 99_999, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			alike(t, usual, func(t *testing.T, rt transport) {
				b := newBackend(t, func(p *peer) {
					if p.request() != nil && !strings.HasPrefix(name, "too long") {
						t.Error("a complete request came")
					}
					if rest, _ := io.ReadAll(p.r); len(rest) > 0 {
						t.Errorf("%q came after the request", rest)
					}
				})
				body := newClosing(tt.body())
				req := newRequest(t, http.MethodPost, b.url, body)
				req.ContentLength = tt.length
				_, err := rt.RoundTrip(req)
				require.Error(t, err)
				require.Equal(t, tt.own, errors.Is(err, errWhy))
				wait(t, body.closed, "close")
			})
		})
	}
}

// A panic of the caller's body or trace fails the request: on the goroutine that sends it would end the process.
func TestTransport_PanicsOfTheCaller(t *testing.T) {
	panics := reader(func([]byte) (int, error) { panic("why") })
	for name, tt := range map[string]struct {
		method string
		body   io.ReadCloser
		trace  *httptrace.ClientTrace
	}{
		"at once":      {http.MethodPost, io.NopCloser(panics), nil},
		"later":        {http.MethodPost, io.NopCloser(io.MultiReader(strings.NewReader("part"), panics)), nil},
		"in the probe": {http.MethodGet, io.NopCloser(panics), nil},
		"in Close":     {http.MethodPost, panicsInClose{strings.NewReader("all")}, nil},
		"in the trace": {http.MethodPost, io.NopCloser(strings.NewReader("all")), &httptrace.ClientTrace{
			WroteRequest: func(httptrace.WroteRequestInfo) { panic("why") },
		}},
	} {
		t.Run(name, func(t *testing.T) {
			rt := transports[1].make(usual)
			t.Cleanup(rt.CloseIdleConnections)
			b := newBackend(t, func(p *peer) {
				p.request()
				p.gone() // no answer
			})
			req := newRequest(t, tt.method, b.url, tt.body)
			req.ContentLength = -1
			if tt.trace != nil {
				req = req.WithContext(httptrace.WithClientTrace(req.Context(), tt.trace))
			}
			_, err := rt.RoundTrip(req)
			require.ErrorContains(t, err, "panicked: why")
		})
	}
}

type panicsInClose struct{ io.Reader }

func (panicsInClose) Close() error { panic("why") }

// A target that refuses, and closes before it has read the body, is heard.
func TestTransport_RefusedAndClosed(t *testing.T) {
	rt := transports[1].make(usual)
	t.Cleanup(rt.CloseIdleConnections)
	b := newBackend(t, func(p *peer) {
		p.header()
		p.say("HTTP/1.1 413 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
		p.Conn.(*net.TCPConn).CloseWrite()
	})
	for range 20 {
		res, body := ask(t, rt, newRequest(t, http.MethodPost, b.url, bodyOf(long(1<<20))))
		require.Equal(t, 413, res.StatusCode)
		require.Equal(t, "no", body)
	}
}

// A body waits for a 100 if the request says so (RFC 9110 section 10.1.1).
func TestTransport_ExpectContinue(t *testing.T) {
	const refusal = "HTTP/1.1 417 No\r\nContent-Length: 0\r\n"
	tests := map[string]struct {
		limits limits
		say    string // after the header
		body   bool   // is sent then
		code   int
	}{
		"asked for":       {usual, "HTTP/1.1 100 Continue\r\n\r\n", true, 200},
		"after a hint":    {usual, "HTTP/1.1 103 Hint\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n", true, 200},
		"asked for twice": {usual, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n", true, 200},
		"no answer":       {limits{idle: 1, expect: time.Millisecond, header: time.Minute}, "", true, 200},
		"refused":         {usual, refusal + "Connection: close\r\n\r\n", false, 417},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			alikeInTime(t, tt.limits, func(t *testing.T, rt transport) {
				got := make(chan string, 1)
				b := newBackend(t, func(p *peer) {
					p.header()
					p.say(tt.say)
					body := make([]byte, 4)
					n, _ := io.ReadFull(p.r, body)
					got <- string(body[:n])
					if tt.code == 200 {
						p.say(empty)
					}
					p.gone()
				})
				req := newRequest(t, http.MethodPost, b.url, nil)
				body := newClosing(strings.NewReader("four"))
				req.Body, req.ContentLength = body, 4
				req.Header.Set("Expect", "100-continue")
				res, _ := ask(t, rt, req)
				require.Equal(t, tt.code, res.StatusCode)
				want := ""
				if tt.body {
					want = "four"
				}
				require.Equal(t, want, wait(t, got, "body"))
				wait(t, body.closed, "close")
			})
		})
	}
}

// A target that refuses the body and keeps the connection gets neither the body, which http.Transport sends then, nor
// another request.
func TestTransport_RefusedBodyIsNotRead(t *testing.T) {
	rt := transports[1].make(usual)
	t.Cleanup(rt.CloseIdleConnections)
	b := newBackend(t, func(p *peer) {
		p.header()
		p.say("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
		p.gone()
	})
	for range 2 {
		four := strings.NewReader("four")
		body := newClosing(four)
		req := newRequest(t, http.MethodPost, b.url, nil)
		req.Body, req.ContentLength = body, 4
		req.Header.Set("Expect", "100-continue")
		res, _ := ask(t, rt, req)
		require.Equal(t, 417, res.StatusCode)
		wait(t, body.closed, "close")
		require.Equal(t, 4, four.Len(), "nobody has read it")
	}
}

// What a httptrace.ClientTrace is told is the same with both transports.
func TestTransport_Trace(t *testing.T) {
	tests := map[string]struct {
		play   func(*peer)
		change func(*http.Request)
		want   []string // only ours is compared with it; nil where the other one will do
	}{
		"GET": {always(ok), func(*http.Request) {}, []string{
			"get", "got reused=false", "field Host 1", "field User-Agent 1", "headers", "wrote <nil>", "first byte", "put <nil>",
			"get", "got reused=true", "field Host 1", "field User-Agent 1", "headers", "wrote <nil>", "first byte", "put <nil>"}},
		"POST": {always(ok), func(r *http.Request) {
			r.Header["X"] = []string{"1", "2"}
			r.Method, r.Body, r.ContentLength = http.MethodPost, bodyOf("four"), 4
		}, nil},
		"trailers": {always(ok), func(r *http.Request) {
			r.Trailer = http.Header{"B": {"b"}, "A": {"a"}}
			r.Method, r.Body, r.ContentLength = http.MethodPost, bodyOf("four"), -1
		}, nil},
		"hints": {always("HTTP/1.1 103 X\r\nLink: a\r\n\r\nHTTP/1.1 100 X\r\n\r\n" + ok), func(*http.Request) {}, nil},
		"close": {always("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), func(*http.Request) {}, nil},
		"expect": {func(p *peer) {
			for p.header() != "" {
				p.say("HTTP/1.1 100 X\r\n\r\n")
				p.r.Discard(4)
				p.say(ok)
			}
		}, func(r *http.Request) {
			r.Header.Set("Expect", "100-Continue")
			r.Method, r.Body, r.ContentLength = http.MethodPost, bodyOf("four"), 4
		}, nil},
	}
	for name, tt := range tests {
		frozen(t, name, func(t *testing.T) {
			var told [2][]string
			for i, tr := range transports {
				rt := tr.make(usual)
				t.Cleanup(rt.CloseIdleConnections)
				b := newBackend(t, tt.play)
				for range 2 {
					var mu sync.Mutex
					tell := func(format string, args ...any) {
						mu.Lock()
						defer mu.Unlock()
						told[i] = append(told[i], fmt.Sprintf(format, args...))
					}
					req := newRequest(t, http.MethodGet, b.url, nil)
					tt.change(req)
					ask(t, rt, req.WithContext(httptrace.WithClientTrace(t.Context(), tracing(tell))))
				}
			}
			if tt.want != nil {
				require.Equal(t, tt.want, told[1])
			}
			require.ElementsMatch(t, told[0], told[1]) // those who write and those who read are not in step
		})
	}
}

func tracing(tell func(string, ...any)) *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn:              func(string) { tell("get") },
		GotConn:              func(i httptrace.GotConnInfo) { tell("got reused=%v", i.Reused) },
		PutIdleConn:          func(err error) { tell("put %v", err) },
		GotFirstResponseByte: func() { tell("first byte") },
		Got100Continue:       func() { tell("100") },
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			tell("1xx %d %v", code, h)
			return nil
		},
		Wait100Continue:  func() { tell("wait") },
		WroteHeaderField: func(name string, values []string) { tell("field %s %d", name, len(values)) },
		WroteHeaders:     func() { tell("headers") },
		WroteRequest:     func(i httptrace.WroteRequestInfo) { tell("wrote %v", i.Err) },
	}
}

// A trace may refuse a 1xx.
func TestTransport_TraceRefuses1xx(t *testing.T) {
	alike(t, usual, func(t *testing.T, rt transport) {
		b := newBackend(t, always("HTTP/1.1 103 X\r\n\r\n"+ok))
		trace := &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { return errWhy }}
		req := newRequest(t, http.MethodGet, b.url, nil)
		_, err := rt.RoundTrip(req.WithContext(httptrace.WithClientTrace(t.Context(), trace)))
		require.ErrorIs(t, err, errWhy)
	})
}

// Who is told of each 1xx has to limit their number: each may be as long as a header.
func TestTransport_LimitOf1xx(t *testing.T) {
	hints := strings.Repeat("HTTP/1.1 103 X\r\nA: "+long(900)+"\r\n\r\n", 20)
	alike(t, limits{idle: 1, header: time.Minute, headerBytes: 6000}, func(t *testing.T, rt transport) {
		b := newBackend(t, always(hints+ok))
		req := newRequest(t, http.MethodGet, b.url, nil)
		_, err := rt.RoundTrip(req)
		require.Error(t, err)
		n := 0
		trace := &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { n++; return nil }}
		ask(t, rt, req.WithContext(httptrace.WithClientTrace(t.Context(), trace)))
		require.Equal(t, 20, n)
	})
}
