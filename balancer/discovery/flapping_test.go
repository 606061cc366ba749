package discovery_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/balancer/discovery"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// duration returns the duration of SOAK, or short if it is not set.
func duration(t *testing.T, short time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv("SOAK")
	if text == "" {
		return short
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return d
}

// backends starts n servers on addresses of this machine and one port. Each answers with its
// address.
func backends(t *testing.T, n int) (port uint16, addrs []string) {
	t.Helper()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		io.WriteString(w, local.String())
	})
	for range 10 { // another process may have the port on one of the addresses
		var listeners []net.Listener
		port = 0
		for i := range n {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.7.%d:%d", i+1, port))
			if err != nil {
				break
			}
			listeners = append(listeners, l)
			port = netip.MustParseAddrPort(l.Addr().String()).Port()
		}
		if len(listeners) < n {
			for _, l := range listeners {
				l.Close()
			}
			continue
		}
		for _, l := range listeners {
			server := &httptest.Server{Listener: l, Config: &http.Server{Handler: handler}}
			server.Start()
			t.Cleanup(server.Close)
			addrs = append(addrs, netip.MustParseAddrPort(l.Addr().String()).Addr().String())
		}
		return port, addrs
	}
	require.Fail(t, "no port is free on all addresses")
	return 0, nil
}

// A listed knows since when addresses are in the registry's list, or are not.
type listed struct {
	mu    sync.Mutex
	since map[string]time.Time
	gone  map[string]time.Time
}

// replace keeps the times before and after the registry's list changes.
func (p *listed) replace(targets []balancer.Target, change func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := time.Now()
	now := make(map[string]bool)
	for _, t := range targets {
		now[t.ID] = true
	}
	for id := range p.since {
		if !now[id] {
			delete(p.since, id)
			p.gone[id] = before
		}
	}
	err := change()
	after := time.Now()
	for id := range now {
		if _, ok := p.since[id]; !ok {
			p.since[id] = after
		}
	}
	return err
}

// mayLeave returns an error if a session that was served by addr at the first time must still have
// been there at the second one.
func (p *listed) mayLeave(addr string, served, left time.Time, grace time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	since, is := p.since[addr]
	gone, was := p.gone[addr]
	switch {
	case is && since.Before(served), !was:
		return fmt.Errorf("a session has left %s, which was there all the time", addr)
	case left.Sub(gone) < grace:
		return fmt.Errorf("a session has left %s after %v", addr, left.Sub(gone))
	}
	return nil
}

// The addresses of a name come and go while sticky clients send requests. No request is lost. Only
// sessions of removed addresses move, when the grace of their drain is over.
func TestDNS_AddressesFlipUnderStickyClients(t *testing.T) {
	t.Parallel()
	const grace, clients = 300 * time.Millisecond, 100
	port, addrs := backends(t, 6)
	z := &zone{}
	z.set("app.test.", addrs[:4]...)
	p := &listed{since: map[string]time.Time{}, gone: map[string]time.Time{}}

	quiet := slog.New(slog.DiscardHandler)
	pool, err := balancer.New(balancer.Config{Logger: quiet})
	require.NoError(t, err)
	registry := &health.Registry{Pool: pool, Interval: -1, Logger: quiet}
	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{})
	require.NoError(t, err)
	lb := &wsproxy.Proxy{Pool: pool, Policy: policy, Logger: quiet}
	require.NoError(t, lb.Validate())
	source := &discovery.DNS{
		Name: "app.test", Port: port, Resolver: z.server(t), Interval: time.Second, Hold: -1, Logger: quiet,
		Report: func(targets []balancer.Target) error {
			return p.replace(targets, func() error { return registry.Replace(targets, health.Drain{Grace: grace}) })
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { registry.Run(ctx) })
	running.Go(func() { source.Run(ctx) })
	require.NoError(t, source.Ready(t.Context()))
	front := httptest.NewServer(lb)

	var requests, moves atomic.Int64
	errs := make(chan error, clients)
	stop := make(chan struct{})
	var visits sync.WaitGroup
	for range clients {
		visits.Go(func() {
			if err := visit(front.URL, p, grace, stop, &requests, &moves); err != nil {
				errs <- err
			}
		})
	}
	flips := time.NewTicker(2 * time.Second)
	defer flips.Stop()
	end := time.After(duration(t, 2500*time.Millisecond))
	for i := 1; ; i++ {
		select {
		case <-flips.C:
			z.set("app.test.", addrs[i%2*2:i%2*2+4]...) // two stay, two go, two come
			continue
		case <-end:
		}
		break
	}
	for pause := time.Tick(10 * time.Millisecond); moves.Load() == 0 && len(errs) == 0; {
		<-pause // the addresses that are gone are not noticed yet
	}
	close(stop)
	visits.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	t.Logf("%d requests, %d sessions moved, %d lookups", requests.Load(), moves.Load(), z.count("A app.test."))
	require.Positive(t, moves.Load())
	front.Close()
	require.NoError(t, lb.Shutdown(t.Context()))
	cancel()
	running.Wait()
}

// visit sends requests of one session until stop is closed.
func visit(url string, p *listed, grace time.Duration, stop <-chan struct{}, requests, moves *atomic.Int64) error {
	jar, _ := cookiejar.New(nil)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Jar: jar, Transport: transport}
	pause := time.NewTicker(50 * time.Millisecond)
	defer pause.Stop()
	last, served := "", time.Time{}
	for {
		select {
		case <-stop:
			return nil
		case <-pause.C:
		}
		began := time.Now()
		response, err := client.Get(url)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %q (%v)", response.Status, body, err)
		}
		requests.Add(1)
		addr := string(body) // the target's ID
		if last != "" && addr != last {
			moves.Add(1)
			if err := p.mayLeave(last, served, time.Now(), grace); err != nil {
				return err
			}
		}
		last, served = addr, began
	}
}

// Everything that a source reads changes at once, and the sources begin and end.
func TestSources_Flapping(t *testing.T) {
	t.Parallel()
	z := &zone{}
	z.set("app.test.", addresses(0, 5)...)
	z.set("_http._tcp.test.", "SRV 1 1 80 app.test.", "SRV 2 5 81 app.test.")
	resolver := z.server(t)
	path := filepath.Join(t.TempDir(), "targets")
	write(t, path, "a=http://10.0.0.1\n")
	quiet := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithTimeout(t.Context(), duration(t, 2*time.Second))
	defer cancel()
	var reports atomic.Int64
	reported := make(chan struct{}, 1)
	report := func(targets []balancer.Target) error {
		reports.Add(1)
		select {
		case reported <- struct{}{}:
		default:
		}
		if ctx.Err() == nil && rand.IntN(4) == 0 {
			return fmt.Errorf("not now")
		}
		_, err := balancer.New(balancer.Config{Targets: targets})
		return err
	}
	sources := []runner{
		&discovery.DNS{Name: "app.test", Port: 80, Resolver: resolver, Interval: 1, Hold: -1, EmptyHold: -1, Report: report, Logger: quiet},
		&discovery.DNS{Name: "_http._tcp.test", Resolver: resolver, Interval: 1, Timeout: 200 * time.Millisecond, Report: report, Logger: quiet},
		&discovery.File{Path: path, Interval: 1, Report: report, Logger: quiet},
	}
	var tasks sync.WaitGroup
	repeat := func(task func()) {
		tasks.Go(func() {
			for ctx.Err() == nil {
				task()
			}
		})
	}
	for _, s := range sources {
		repeat(func() {
			run, stop := context.WithTimeout(ctx, time.Duration(rand.Int64N(int64(1500*time.Millisecond))))
			defer stop()
			s.Run(run)
		})
		repeat(func() {
			wait, stop := context.WithTimeout(ctx, 50*time.Millisecond)
			defer stop()
			if s.Ready(wait) == nil {
				<-wait.Done()
			}
		})
	}
	pause := func() {
		wait, stop := context.WithTimeout(ctx, 20*time.Millisecond)
		defer stop()
		<-wait.Done()
	}
	repeat(func() {
		z.set("app.test.", addresses(rand.IntN(10), rand.IntN(10))...)
		z.set("_http._tcp.test.", fmt.Sprintf("SRV %d %d 80 app.test.", rand.IntN(3), rand.IntN(3)), "SRV 1 1 81 gone.test.")
		codes := []dnsmessage.RCode{0, 0, 0, dnsmessage.RCodeServerFailure, dnsmessage.RCodeRefused, silent}
		for _, q := range []string{"A app.test.", "AAAA app.test.", "SRV _http._tcp.test."} {
			z.answerWith(codes[rand.IntN(len(codes))], q)
		}
		pause()
	})
	repeat(func() {
		switch rand.IntN(4) {
		case 0:
			os.Remove(path)
		case 1:
			os.WriteFile(path, []byte("a=http://10.0.0.1\nb=htt"), 0o600)
		default:
			os.WriteFile(path, fmt.Appendf(nil, "a=http://10.0.0.%d\n", rand.IntN(3)), 0o600)
		}
		pause()
	})
	tasks.Wait()
	t.Logf("%d reports", reports.Load())

	z.set("app.test.", addresses(0, 5)...)
	z.answerWith(0, "A app.test.", "AAAA app.test.", "SRV _http._tcp.test.")
	write(t, path, "a=http://10.0.0.1\n")
	for _, s := range sources { // each works again
		select {
		case <-reported:
		default:
		}
		run, stop := context.WithCancel(t.Context())
		tasks.Go(func() { s.Run(run) })
		<-reported
		require.NoError(t, s.Ready(t.Context()))
		stop()
		tasks.Wait()
	}
}
