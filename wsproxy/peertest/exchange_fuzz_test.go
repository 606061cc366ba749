package peertest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
	"github.com/stickylb/stickylb/wsproxy/internal/logtest"
)

// A manner is what a backend does with every request of a fuzzed exchange.
type manner struct {
	early  bool   // answers before it has read the body
	answer string // with LF for CRLF; empty: none
	ends   bool   // closes the connection then
}

var manners = []manner{
	{answer: plain},
	{answer: refusal, early: true},
	{answer: refusalClose, early: true, ends: true},
	{answer: unauthorized, early: true},
	{answer: "HTTP/1.1 200 OK\nContent-Length: 100\n\n@hello", ends: true},
	{answer: "HTTP/1.1 103 Early Hints\nLink: </s>\n\nHTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\n@ok\n0\nX-Sum: 1\n\n"},
	{ends: true},
	{early: true, ends: true},
	{answer: switching},
}

// A fuzzedProxy is a Proxy behind a server and in front of one backend, for one exchange: what comes late is not taken
// for the next one's.
type fuzzedProxy struct {
	front net.Listener
	pool  *balancer.Pool
	log   logtest.Buffer

	manner   manner
	mu       sync.Mutex
	requests []*message // that the backend has been asked
	bad      []string   // what it got that is no request
}

func newFuzzedProxy(t *testing.T, how manner, transport http.RoundTripper) *fuzzedProxy {
	front, back := newListener(t), newListener(t)
	p := &fuzzedProxy{front: front, manner: how}
	var err error
	target := balancer.Target{ID: "a", URL: &url.URL{Scheme: "http", Host: back.Addr().String()}}
	p.pool, err = balancer.New(balancer.Config{Targets: []balancer.Target{target}})
	require.NoError(t, err)
	proxy := &wsproxy.Proxy{Pool: p.pool, Transport: transport, Logger: slog.New(slog.DiscardHandler)}
	srv := &http.Server{Handler: proxy, ErrorLog: log.New(&p.log, "", 0)}
	go srv.Serve(front)
	go func() {
		for {
			c, err := back.Accept()
			if err != nil {
				return
			}
			go p.serveBackend(c)
		}
	}()
	t.Cleanup(func() {
		srv.Close()
		back.Close()
		proxy.Shutdown(context.Background())
		if tr, ok := transport.(*http.Transport); ok {
			tr.CloseIdleConnections()
		}
	})
	return p
}

func (p *fuzzedProxy) serveBackend(c net.Conn) {
	defer c.Close()
	br := bufio.NewReader(c)
	for {
		m, err := readHead(br)
		p.mu.Lock()
		if err == nil {
			p.requests = append(p.requests, m)
		} else if !isConnectionError(err) {
			p.bad = append(p.bad, err.Error())
		}
		p.mu.Unlock()
		if err != nil {
			return
		}
		manner := p.manner
		if !manner.early && m.readBody(br) != nil {
			return
		}
		io.WriteString(c, strings.ReplaceAll(manner.answer, "\n", "\r\n"))
		if manner.answer == switching && m.has("Upgrade", "websocket") {
			io.Copy(io.Discard, br)
			return
		}
		if manner.ends || manner.early && m.readBody(br) != nil {
			return
		}
	}
}

// isConnectionError reports whether an error is of the connection, and not of what it carries.
func isConnectionError(err error) bool {
	var broken net.Error
	return err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &broken)
}

// ask sends what a client sends, and returns what the backend was asked.
func (p *fuzzedProxy) ask(t *testing.T, sent []byte, strict []*message, bad error) ([]*message, []string) {
	c, err := net.Dial("tcp", p.front.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	var writing sync.WaitGroup
	writing.Go(func() { c.Write(sent) })
	// A client that is in the middle of a request, or has switched protocols, is not answered: it has to go.
	patience := 50 * time.Millisecond
	if n := len(strict); n > 0 && !strict[n-1].whole && errors.Is(bad, io.ErrUnexpectedEOF) {
		patience = 10 * time.Millisecond
	}
	goes := time.AfterFunc(patience, func() { c.(*net.TCPConn).CloseWrite() })
	defer goes.Stop()
	c.SetReadDeadline(time.Now().Add(patience + 30*time.Second))
	_, err = io.Copy(io.Discard, c)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the proxy does not let go of the connection")
	c.Close()
	writing.Wait()
	m := p.pool.Members()[0]
	require.True(t, leaktest.Polled(func() bool { return m.Load() == 0 && m.Tunnels() == 0 }), "a request is left")
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests, p.bad
}

// excess says what the backend was asked without a client that asked; empty when there is nothing.
func excess(asked, strict []*message, how manner) string {
	i := 0
	for n, m := range asked {
		if n > 0 && (how.ends || how.early) && m.method == asked[n-1].method && m.target == asked[n-1].target {
			continue // asked again: the kept connection had been closed before a byte of an answer
		}
		for i < len(strict) && (strict[i].method != m.method || strings.Contains(strict[i].target, "smuggled") != strings.Contains(m.target, "smuggled")) {
			i++
		}
		if i == len(strict) {
			return fmt.Sprintf("request %d, %s %q, is none of the client's", n+1, m.method, m.target)
		}
		i++
	}
	return ""
}

// FuzzExchange sends a client's bytes to a Proxy whose backend behaves in one of several manners. Whatever the bytes are,
// the backend is asked what a strict parser finds in them and no more, gets nothing but requests, the server's log has no
// panic, and nothing is left behind.
func FuzzExchange(f *testing.F) {
	for _, table := range tables {
		for i := range table {
			var sent []byte
			for _, s := range table[i].client {
				if s.do == doSend {
					sent = append(sent, s.text...)
				}
			}
			if len(sent) > 0 && len(sent) < 100_000 {
				for how := range manners {
					if how == 0 || i%len(manners) == how {
						f.Add(sent, byte(how+len(manners)*(i%2)))
					}
				}
			}
		}
	}
	base, inputs := runtime.NumGoroutine(), 0
	f.Fuzz(func(t *testing.T, sent []byte, how byte) {
		if len(sent) > 1<<20 {
			return
		}
		m := manners[int(how)%len(manners)]
		var transport http.RoundTripper // the Proxy's own
		if int(how)/len(manners)%2 == 1 {
			transport = &http.Transport{}
		}
		p := newFuzzedProxy(t, m, transport)
		all := append(append([]byte(nil), sent...), strings.ReplaceAll(probe, "\n", "\r\n")...)
		strict, err := parseRequests(all)
		asked, bad := p.ask(t, all, strict, err)
		require.Empty(t, bad, "the backend got what is no request")
		require.Empty(t, excess(asked, strict, m), "strict parser: %v", err)
		require.NotContains(t, p.log.String(), "panic")
		if inputs++; inputs%500 == 0 {
			require.True(t, leaktest.Polled(func() bool { return runtime.NumGoroutine() < base+150 }), "goroutines are left")
		}
	})
}
