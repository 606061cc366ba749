package wsproxy_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/soaktest"
)

// order picks the first member that is not skipped: attempts go to a, then b, then c.
type order struct{}

func (order) Pick(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
	for _, m := range s.Members() {
		if !q.Skip(m) {
			return m
		}
	}
	return nil
}

func ordered(t *testing.T, ids ...string) *balancer.Pool {
	t.Helper()
	var targets []balancer.Target
	for _, id := range ids {
		targets = append(targets, target(id, "http://"+id+".test"))
	}
	pool, err := balancer.New(balancer.Config{Picker: order{}, Targets: targets})
	require.NoError(t, err)
	return pool
}

var (
	errRefused = &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	errLate    = &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
	errShort   = &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}
	errBroken  = errors.New("connection broke")
)

// script is a transport whose hosts answer in a prepared way. It reads read bytes of the body
// first.
type script struct {
	fail   map[string]error // by host
	status map[string]int   // by host
	read   int              // -1: all

	targets int // 0: 5

	mu    sync.Mutex
	asked []string
	last  []byte // body that the last attempt got
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	host := strings.TrimSuffix(r.URL.Host, ".test")
	s.asked = append(s.asked, host)
	if r.Body != nil {
		defer r.Body.Close()
		n := int64(s.read)
		if s.read < 0 || s.fail[host] == nil {
			n = 1 << 20
		}
		s.last, _ = io.ReadAll(io.LimitReader(r.Body, n))
	}
	if err := s.fail[host]; err != nil {
		return nil, err
	}
	status := s.status[host]
	if status == 0 {
		status = http.StatusOK
	}
	return &http.Response{StatusCode: status, Header: http.Header{"From": {host}}, Body: http.NoBody, Request: r}, nil
}

func TestProxy_W10_Retries(t *testing.T) {
	const body = "0123456789"
	tests := map[string]struct {
		method string
		body   string
		retry  wsproxy.Retry
		script *script
		asked  []string
		status int
	}{
		"the connection was never made": {"POST", body, wsproxy.Retry{},
			&script{fail: map[string]error{"a": errRefused}}, []string{"a", "b"}, 200},
		"three other targets when refused": {"POST", body, wsproxy.Retry{},
			&script{fail: map[string]error{"a": errRefused, "b": errRefused, "c": errRefused}}, []string{"a", "b", "c", "d"}, 200},
		"no more than three, whatever Max is": {"GET", "", wsproxy.Retry{Max: 9},
			&script{fail: map[string]error{"a": errRefused, "b": errRefused, "c": errRefused, "d": errRefused}},
			[]string{"a", "b", "c", "d"}, 502},
		"one other target when late": {"POST", body, wsproxy.Retry{},
			&script{fail: map[string]error{"a": errLate}}, []string{"a", "b"}, 200},
		"no more than one when late": {"GET", "", wsproxy.Retry{Max: 9},
			&script{fail: map[string]error{"a": errLate, "b": errLate}}, []string{"a", "b"}, 504},
		"refused, then late": {"GET", "", wsproxy.Retry{},
			&script{fail: map[string]error{"a": errRefused, "b": errLate}}, []string{"a", "b", "c"}, 200},
		"late, then refused": {"GET", "", wsproxy.Retry{},
			&script{fail: map[string]error{"a": errLate, "b": errRefused}}, []string{"a", "b", "c"}, 200},
		"a shortage on this machine": {"GET", "", wsproxy.Retry{},
			&script{fail: map[string]error{"a": errShort}}, []string{"a"}, 503},
		"no more than one other retry by default": {"GET", "", wsproxy.Retry{Idempotent: true},
			&script{fail: map[string]error{"a": errBroken, "b": errBroken}}, []string{"a", "b"}, 502},
		"two other retries": {"GET", "", wsproxy.Retry{Idempotent: true, Max: 2},
			&script{fail: map[string]error{"a": errBroken, "b": errBroken}}, []string{"a", "b", "c"}, 200},
		"refused ones are counted apart": {"GET", "", wsproxy.Retry{Idempotent: true},
			&script{fail: map[string]error{"a": errBroken, "b": errRefused, "c": errRefused}}, []string{"a", "b", "c", "d"}, 200},
		"without a budget": {"GET", "", wsproxy.Retry{Budget: 1},
			&script{fail: map[string]error{"a": errRefused}}, []string{"a", "b"}, 200},
		"none": {"GET", "", wsproxy.Retry{Max: -1},
			&script{fail: map[string]error{"a": errRefused}}, []string{"a"}, 502},
		"no other target": {"GET", "", wsproxy.Retry{Max: 9},
			&script{fail: map[string]error{"a": errRefused, "b": errRefused, "c": errRefused}, targets: 3}, []string{"a", "b", "c"}, 502},
		"the target may have seen it": {"GET", "", wsproxy.Retry{},
			&script{fail: map[string]error{"a": errBroken}}, []string{"a"}, 502},
		"the target may have seen it, idempotent": {"PUT", "", wsproxy.Retry{Idempotent: true},
			&script{fail: map[string]error{"a": errBroken}}, []string{"a", "b"}, 200},
		"the target may have seen it, not idempotent": {"POST", "", wsproxy.Retry{Idempotent: true},
			&script{fail: map[string]error{"a": errBroken}}, []string{"a"}, 502},
		"body was read": {"PUT", body, wsproxy.Retry{Idempotent: true},
			&script{fail: map[string]error{"a": errBroken}, read: 1}, []string{"a"}, 502},
		"body was read and fits the buffer": {"PUT", body, wsproxy.Retry{Idempotent: true, Buffer: len(body)},
			&script{fail: map[string]error{"a": errBroken}, read: -1}, []string{"a", "b"}, 200},
		"body was read in part and fits the buffer": {"PUT", body, wsproxy.Retry{Idempotent: true, Buffer: len(body)},
			&script{fail: map[string]error{"a": errBroken}, read: 3}, []string{"a", "b"}, 200},
		"body was read and is too long for the buffer": {"PUT", body, wsproxy.Retry{Idempotent: true, Buffer: len(body) - 1},
			&script{fail: map[string]error{"a": errBroken}, read: -1}, []string{"a"}, 502},
		"a status that counts as failure": {"POST", "", wsproxy.Retry{On: []int{503}},
			&script{status: map[string]int{"a": 503}}, []string{"a", "b"}, 200},
		"a status that does not": {"POST", "", wsproxy.Retry{On: []int{503}},
			&script{status: map[string]int{"a": 500}}, []string{"a"}, 500},
		"the last one's status goes to the client": {"GET", "", wsproxy.Retry{On: []int{503}},
			&script{status: map[string]int{"a": 503, "b": 503}}, []string{"a", "b"}, 503},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := &wsproxy.Proxy{Logger: slog.New(slog.DiscardHandler), Pool: ordered(t, []string{"a", "b", "c", "d", "e"}[:cmp.Or(tt.script.targets, 5)]...), Transport: tt.script, Retry: tt.retry}
			var in io.Reader
			if tt.body != "" {
				in = strings.NewReader(tt.body)
			}
			w := httptest.NewRecorder()
			p.ServeHTTP(w, httptest.NewRequest(tt.method, "/", in))
			require.Equal(t, tt.asked, tt.script.asked)
			require.Equal(t, tt.status, w.Code)
			if tt.status == http.StatusOK {
				require.Equal(t, tt.asked[len(tt.asked)-1], w.Header().Get("From"))
				require.Equal(t, tt.body, string(tt.script.last))
			}
			for _, m := range p.Pool.Members() {
				require.Zero(t, m.Load(), m.ID())
			}
		})
	}
}

// A status of Retry.On is given up only when another target takes the request.
func TestProxy_W10_StatusStaysWhenNobodyElseIsThere(t *testing.T) {
	s := &script{status: map[string]int{"a": 503}}
	p := &wsproxy.Proxy{Logger: slog.New(slog.DiscardHandler), Pool: ordered(t, "a"), Transport: s, Retry: wsproxy.Retry{On: []int{503}}}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	require.Equal(t, 503, w.Code)
	require.Equal(t, "a", w.Header().Get("From"), "the target's own answer, not an error page")
}

func TestProxy_W10_NoRetryOnceTheClientIsGone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := &script{fail: map[string]error{"a": errRefused}}
	p := &wsproxy.Proxy{Logger: slog.New(slog.DiscardHandler), Pool: ordered(t, "a", "b"), Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		cancel()
		return s.RoundTrip(r)
	})}
	var rec wsproxy.Record
	p.Trace = &wsproxy.Trace{Done: func(_ *http.Request, r wsproxy.Record) { rec = r }}
	p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/", nil))
	require.Equal(t, []string{"a"}, s.asked)
	failure, ok := errors.AsType[*wsproxy.Error](rec.Err)
	require.True(t, ok)
	require.Equal(t, wsproxy.ClassClientGone, failure.Class)
}

// The budget: with 30 requests in flight, 20% are six that may be retried at a time.
func TestProxy_W10_Budget(t *testing.T) {
	const requests = 30
	var arrived, left sync.WaitGroup
	arrived.Add(requests)
	release := make(chan struct{})
	p := &wsproxy.Proxy{Logger: slog.New(slog.DiscardHandler), Pool: ordered(t, "a", "b"), Retry: wsproxy.Retry{Idempotent: true}, Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Host == "a.test" {
			arrived.Done()
			arrived.Wait() // all are in flight before the first one fails
			return nil, errBroken
		}
		<-release // holds its place in the budget
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	})}
	var mu sync.Mutex
	status := map[int]int{}
	refused := make(chan struct{}, requests)
	for range requests {
		left.Go(func() {
			w := httptest.NewRecorder()
			p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			mu.Lock()
			defer mu.Unlock()
			if status[w.Code]++; w.Code != http.StatusOK {
				refused <- struct{}{}
			}
		})
	}
	for range requests - 6 {
		<-refused
	}
	close(release)
	left.Wait()
	// Requests that were refused are in flight no more, so fewer than six may have been let through
	// at the end.
	require.Equal(t, requests, status[200]+status[502])
	require.GreaterOrEqual(t, status[200], 3)
	require.LessOrEqual(t, status[200], 6)
}

func TestProxy_W10_BudgetAlwaysAllowsThree(t *testing.T) {
	p := &wsproxy.Proxy{Logger: slog.New(slog.DiscardHandler), Pool: ordered(t, "a", "b"), Transport: &script{fail: map[string]error{"a": errBroken}}, Retry: wsproxy.Retry{Idempotent: true}}
	for range 5 { // one after the other: each gives its place back
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		require.Equal(t, http.StatusOK, w.Code)
	}
}

// The client's body that cannot be read is no failure of the target.
func TestProxy_W12_UnreadableBodyBlamesTheClient(t *testing.T) {
	tests := map[string]struct {
		body   io.Reader
		status int
	}{
		"broken":   {io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(io.ErrUnexpectedEOF)), http.StatusBadRequest},
		"too long": {http.MaxBytesReader(nil, io.NopCloser(bytes.NewReader(make([]byte, 100))), 10), http.StatusRequestEntityTooLarge},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			outcomes := &outcomes{}
			p := &wsproxy.Proxy{Logger: slog.New(slog.DiscardHandler), Pool: ordered(t, "a", "b"), Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				_, err := io.ReadAll(r.Body)
				return nil, err
			})}
			defer p.Pool.Observe(outcomes)()
			w := httptest.NewRecorder()
			r := httptest.NewRequest("PUT", "/", tt.body)
			r.ContentLength = 100
			p.ServeHTTP(w, r)
			require.Equal(t, tt.status, w.Code)
			require.Equal(t, []balancer.Class{balancer.ClientGone}, outcomes.classes())
		})
	}
}

// outcomes notes how leases ended.
type outcomes struct {
	mu  sync.Mutex
	all []balancer.Outcome
}

func (o *outcomes) Released(_ *balancer.Member, out balancer.Outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, out)
}

func (o *outcomes) Changed(*balancer.Member, balancer.State) {}

func (o *outcomes) classes() []balancer.Class {
	o.mu.Lock()
	defer o.mu.Unlock()
	var classes []balancer.Class
	for _, out := range o.all {
		classes = append(classes, out.Class)
	}
	return classes
}

// What Target does to the request of one attempt does not show in the next one.
func TestProxy_W10_TargetChangesOneAttempt(t *testing.T) {
	for _, body := range []string{"", "body"} {
		failing := newBackend(t, "a", nil)
		failing.stop()
		other := newBackend(t, "b", nil)
		pool, _ := newPool(t, failing.target(), other.target())
		proxy := &wsproxy.Proxy{Pool: pool, Logger: noLog, Target: func(out *http.Request, m *balancer.Member) {
			if m.ID() == "a" {
				out.Header.Set("Authorization", "for a alone")
				out.Header["X-Own"][0] = "for a alone"
				out.Host, out.Method = "a.example", http.MethodPut
				out.URL.Path, out.URL.RawQuery = "/a", "a"
			}
		}}
		r := httptest.NewRequest(http.MethodPost, "/path?query", io.NopCloser(strings.NewReader(body)))
		r.ContentLength = int64(len(body))
		r.Header.Set("X-Own", "1")
		w := httptest.NewRecorder()
		proxy.ServeHTTP(w, r)
		require.Equal(t, http.StatusOK, w.Code)
		got := other.request()
		require.Empty(t, got.Header["Authorization"], "%q", body)
		require.Equal(t, "1", got.Header.Get("X-Own"))
		require.Equal(t, []string{"example.com", http.MethodPost, "/path?query"}, []string{got.Host, got.Method, got.RequestURI})
	}
}

// A transport that sends a request again on a fresh connection leaves a reader of the first body
// behind. Such a reader gets nothing, and does not stand in the way of another attempt.
func TestProxy_W10_LeftReaderDoesNotHinder(t *testing.T) {
	var reading sync.WaitGroup
	p := &wsproxy.Proxy{Pool: ordered(t, "a", "b"), Logger: noLog}
	p.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Host == "b.test" {
			body, err := io.ReadAll(r.Body)
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(body))}, err
		}
		_, err := r.GetBody()
		require.NoError(t, err)
		over, begun := r.Context().Done(), make(chan struct{}, 4)
		for range cap(begun) {
			reading.Go(func() {
				for {
					n, err := r.Body.Read(make([]byte, 1))
					if n != 0 || err == nil {
						t.Errorf("read %d, %v", n, err)
						return
					}
					select {
					case begun <- struct{}{}:
					case <-over:
						return
					default:
					}
				}
			})
		}
		for range cap(begun) {
			<-begun
		}
		return nil, errRefused
	})
	for range soaktest.Times(50, 300) {
		w := httptest.NewRecorder()
		ctx, cancel := context.WithCancel(t.Context())
		p.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, "/", strings.NewReader("body")))
		cancel()
		require.Equal(t, http.StatusOK, w.Code)
		require.Equal(t, "body", w.Body.String())
	}
	reading.Wait()
}
