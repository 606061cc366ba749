package upstream_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// patience is for what must happen.
const patience = 30 * time.Second

type transport interface {
	http.RoundTripper
	CloseIdleConnections()
}

// transports are ours and its yardstick, set up as alike as they can be.
var transports = []struct {
	name string
	make func(limits) transport
}{
	{"http", func(l limits) transport {
		return &http.Transport{
			DisableCompression:     true,
			DialContext:            (&net.Dialer{Timeout: patience}).DialContext,
			MaxIdleConnsPerHost:    l.idle,
			IdleConnTimeout:        90 * time.Second,
			ResponseHeaderTimeout:  l.header,
			ExpectContinueTimeout:  l.expect,
			MaxResponseHeaderBytes: int64(l.headerBytes),
		}
	}},
	{"upstream", func(l limits) transport {
		return &upstream.Transport{
			DialTimeout: patience, MaxIdlePerTarget: l.idle, HeaderTimeout: l.header, ContinueTimeout: l.expect,
			MaxHeaderBytes: l.headerBytes,
		}
	}},
}

type limits struct {
	idle           int
	header, expect time.Duration
	headerBytes    int
}

var usual = limits{idle: 64, header: time.Minute, expect: time.Minute, headerBytes: 1 << 20}

// alike runs a test with both transports, while time stands still.
func alike(t *testing.T, l limits, test func(t *testing.T, rt transport)) {
	t.Helper()
	alikeIn(t, frozen, l, test)
}

// alikeInTime is alike for what needs time to pass.
func alikeInTime(t *testing.T, l limits, test func(t *testing.T, rt transport)) {
	t.Helper()
	alikeIn(t, func(t *testing.T, name string, test func(*testing.T)) { t.Run(name, test) }, l, test)
}

func alikeIn(t *testing.T, run func(*testing.T, string, func(*testing.T)), l limits, test func(*testing.T, transport)) {
	t.Helper()
	for _, tr := range transports {
		run(t, tr.name, func(t *testing.T) {
			rt := tr.make(l)
			t.Cleanup(rt.CloseIdleConnections)
			test(t, rt)
		})
	}
}

// frozen runs a test while time stands still: it does in a bubble as long as anybody there waits for the network, as a
// backend's listener does. So nobody is too late, on a busy machine either, for the 50 ms that both transports wait for
// the end of a request before they give its connection up, and for the 200 ms that they wait for a body's first byte.
func frozen(t *testing.T, name string, test func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

// A backend plays a part on each connection that it accepts, one after the other or all at once.
type backend struct {
	url   string
	conns atomic.Int64   // that were accepted
	open  sync.WaitGroup // what is left ends with the test
	ctx   context.Context

	cancelConns func() // lets go of the parts that wait for it
}

// A peer is the backend's end of a connection.
type peer struct {
	net.Conn
	ctx context.Context // ends with cancelConns
	r   *bufio.Reader
	n   int64 // 1 for the first connection
}

func newBackend(t testing.TB, play func(p *peer)) *backend {
	t.Helper()
	return newBackendOn(t, net.ListenConfig{}, play)
}

func newBackendOn(t testing.TB, conf net.ListenConfig, play func(p *peer)) *backend {
	t.Helper()
	l, err := conf.Listen(context.Background(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	b := &backend{url: "http://" + l.Addr().String()}
	b.ctx, b.cancelConns = context.WithCancel(ctx)
	b.open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(patience))
			n := b.conns.Add(1)
			stop := context.AfterFunc(ctx, func() { c.Close() })
			b.open.Go(func() {
				defer stop()
				defer c.Close()
				play(&peer{c, b.ctx, bufio.NewReader(c), n})
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		cancel()
		b.open.Wait()
	})
	return b
}

// newPeer plays a part on a connection of the test's own.
func newPeer(c net.Conn) *peer { return &peer{Conn: c, r: bufio.NewReader(c), n: 1} }

// chunked is a chunk.
func chunked(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

// header reads a request's header, as it was sent; empty when there is none to come.
func (p *peer) header() string {
	var raw strings.Builder
	for {
		line, err := p.r.ReadString('\n')
		raw.WriteString(line)
		if err != nil || line == "\r\n" {
			return raw.String()
		}
	}
}

// request reads a request with its body; nil when there is none to come.
func (p *peer) request() *http.Request {
	req, err := http.ReadRequest(p.r)
	if err != nil {
		return nil
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil
	}
	req.Body = io.NopCloser(strings.NewReader(string(body)))
	return req
}

func (p *peer) say(text string) error {
	_, err := io.WriteString(p, text)
	return err
}

// gone waits until the other side has closed.
func (p *peer) gone() { io.Copy(io.Discard, p.r) }

// answering is a part: each request gets the next answer, and after the last one the connection is closed.
func answering(answers ...string) func(*peer) {
	return func(p *peer) {
		for _, a := range answers {
			if p.request() == nil || p.say(a) != nil {
				return
			}
		}
	}
}

// always answers each request with the same.
func always(answer string) func(*peer) {
	return func(p *peer) {
		for p.request() != nil && p.say(answer) == nil {
		}
	}
}

const (
	ok    = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
)

func newRequest(t testing.TB, method, url string, body io.ReadCloser) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	req.Header.Set("User-Agent", "test")
	if body != nil {
		req.Body, req.ContentLength = body, -1
	}
	return req
}

// A result is all that a caller can see of a round trip.
type result struct {
	Failed     bool // RoundTrip did
	Proto      string
	Status     string
	Code       int
	Header     http.Header
	Length     int64
	Coding     []string
	Close      bool
	Body       string
	BodyFailed bool
	Unexpected bool // the body broke off with io.ErrUnexpectedEOF
	Trailer    http.Header
	Switched   bool
}

func resultOf(res *http.Response, err error) result {
	if err != nil {
		return result{Failed: true}
	}
	defer res.Body.Close()
	r := result{Proto: res.Proto, Status: res.Status, Code: res.StatusCode, Header: maps.Clone(res.Header),
		Length: res.ContentLength, Coding: slices.Clone(res.TransferEncoding), Close: res.Close}
	if res.Close { // http.ReadResponse has removed it then, and we have not
		delete(r.Header, "Connection")
	}
	_, r.Switched = res.Body.(io.Writer)
	body, err := io.ReadAll(res.Body)
	r.Body, r.BodyFailed, r.Unexpected = string(body), err != nil, errors.Is(err, io.ErrUnexpectedEOF)
	r.Trailer = maps.Clone(res.Trailer)
	return r
}

// ask makes a round trip that must succeed, and reads the body.
func ask(t testing.TB, rt http.RoundTripper, req *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := rt.RoundTrip(req)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(body)
}

func get(t testing.TB, rt http.RoundTripper, url string) string {
	t.Helper()
	_, body := ask(t, rt, newRequest(t, http.MethodGet, url, nil))
	return body
}

// opaque is a body of which a transport knows nothing.
type opaque struct{ io.Reader }

func (opaque) Close() error { return nil }

func bodyOf(text string) io.ReadCloser { return opaque{strings.NewReader(text)} }

// A closing body notes when it is closed.
type closing struct {
	io.Reader
	closed chan struct{}
	once   sync.Once
}

func newClosing(r io.Reader) *closing { return &closing{Reader: r, closed: make(chan struct{})} }

func (c *closing) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func wait[T any](t testing.TB, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		require.Fail(t, "nothing came", what)
	}
	return v
}

// testWriter is where the log goes.
var testWriter = log.Writer()
