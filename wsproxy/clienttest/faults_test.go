//go:build unix

package clienttest_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
	"github.com/stickylb/stickylb/wsproxy/internal/soaktest"
)

var faultsSeed = flag.Uint64("faults.seed", 0, "of TestFaults; 0: another one each time, which it prints")

const (
	targets  = 5
	visitors = 200
	pace     = 400 * time.Millisecond // of each visitor
)

// A world is what TestFaults plays in.
type world struct {
	t         *testing.T
	apps      []*application
	control   *application // no target, and never in trouble
	balancers []*instance
	visitors  []*visitor
	failed    sync.Map // *wsproxy.Record by Request-Id, of requests that failed
	tunnels   sync.Map // number of tunnels' ends by what ended them

	stopChecks func()
	checks     sync.WaitGroup
}

// An instance is one of two balancers: they share the keys of their cookies and the targets, and
// nothing else. Each finds out by itself how the targets are.
type instance struct {
	history  *history
	pool     *balancer.Pool
	registry *health.Registry
	proxy    *wsproxy.Proxy
	front    *httptest.Server
}

// newWorld starts everything: two balancers, of which the second has little patience and retries
// what it may.
func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t}
	for i := range targets {
		w.apps = append(w.apps, newApplication(t, fmt.Sprintf("app-%d", i+1)))
	}
	w.control = newApplication(t, "control")
	ctx, cancel := context.WithCancel(context.Background())
	w.stopChecks = func() { cancel(); w.checks.Wait() }
	impatient := &http.Transport{ResponseHeaderTimeout: 5 * time.Second, MaxIdleConnsPerHost: 64}
	var urls []string
	for _, p := range []*wsproxy.Proxy{
		{},
		{Transport: impatient, Retry: wsproxy.Retry{Idempotent: true, Max: 2, Buffer: 4 << 10},
			Tunnels: wsproxy.TunnelLimits{Handshake: 5 * time.Second}},
	} {
		b := w.newInstance(ctx, p)
		w.balancers, urls = append(w.balancers, b), append(urls, b.front.URL)
	}
	for n := range visitors {
		w.visitors = append(w.visitors, newVisitor(fmt.Sprintf("v%d", n), urls, seed+uint64(n)))
	}
	return w
}

// newInstance starts a balancer around a proxy. Its checks end with ctx.
func (w *world) newInstance(ctx context.Context, p *wsproxy.Proxy) *instance {
	var all []balancer.Target
	for _, a := range w.apps {
		all = append(all, a.target())
	}
	var err error
	b := &instance{proxy: p}
	b.pool, err = balancer.New(balancer.Config{Targets: all})
	require.NoError(w.t, err)
	b.history = newHistory(b.pool)
	stop := b.pool.Observe(b.history)
	b.registry = &health.Registry{
		Pool:     b.pool,
		Check:    health.HTTP{Path: "/healthz"},
		Interval: 200 * time.Millisecond,
		Timeout:  time.Second,
		Rise:     2,
		Fall:     2,
		Passive:  &health.Passive{Ejection: 500 * time.Millisecond, MaxEjection: 2 * time.Second},
		Logger:   slog.New(slog.DiscardHandler),
	}
	w.checks.Go(func() { b.registry.Run(ctx); stop() })
	w.checks.Go(func() { b.history.watch(ctx, "http://"+w.control.addr+"/healthz") })
	require.NoError(w.t, b.registry.Ready(ctx))

	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Keys: [][]byte{make([]byte, 32)}})
	require.NoError(w.t, err)
	p.Pool, p.Policy, p.Logger = b.pool, policy, slog.New(slog.DiscardHandler)
	p.Tunnels.Window = 500 * time.Millisecond
	p.Trace = &wsproxy.Trace{Done: w.noteFailure, Tunnel: w.noteEnd}
	b.front = httptest.NewUnstartedServer(p)
	b.front.Config.ErrorLog = log.New(io.Discard, "", 0)
	b.front.Start()
	return b
}

// begin and end note a trouble in the histories of both balancers.
func (w *world) begin(id string, what trouble) {
	for _, b := range w.balancers {
		b.history.begin(id, what)
	}
}

func (w *world) end(id string, what trouble) {
	for _, b := range w.balancers {
		b.history.end(id, what)
	}
}

// drain drains a target at both balancers, and ready ends that.
func (w *world) drain(id string, d health.Drain) {
	for _, b := range w.balancers {
		b.registry.Drain(context.Background(), id, d)
	}
}

func (w *world) ready(id string) {
	for _, b := range w.balancers {
		b.member(id).SetAdmin(balancer.Ready)
	}
}

func (w *world) noteFailure(r *http.Request, rec wsproxy.Record) {
	if rec.Err != nil {
		w.failed.Store(r.Header.Get("Request-Id"), &rec)
	}
}

func (w *world) noteEnd(r wsproxy.TunnelRecord) {
	n, _ := w.tunnels.LoadOrStore(r.EndedBy, new(counter))
	n.(*counter).add()
}

type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) add() { c.mu.Lock(); c.n++; c.mu.Unlock() }

// everybody calls do for each visitor at once, and waits.
func (w *world) everybody(do func(v *visitor)) {
	var all sync.WaitGroup
	for _, v := range w.visitors {
		all.Go(func() { do(v) })
	}
	all.Wait()
}

// close ends all that the proxies and the visitors have.
func (w *world) close() {
	for _, v := range w.visitors {
		v.client.CloseIdleConnections()
	}
	for _, b := range w.balancers {
		b.front.Close()
		if tr, ok := b.proxy.Transport.(*http.Transport); ok {
			tr.CloseIdleConnections()
		}
	}
	w.stopChecks()
	for _, a := range append(w.apps, w.control) {
		a.signal(syscall.SIGKILL)
		a.reap()
	}
}

// fit waits until the target serves through both balancers as if nothing had happened.
func (w *world) fit(id string) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if w.balancers[0].fit(id) && w.balancers[1].fit(id) {
			return nil
		}
	}
	return fmt.Errorf("%s does not serve again", id)
}

func (b *instance) fit(id string) bool {
	s := b.member(id).State()
	return s.Health == balancer.Healthy && s.Admin == balancer.Ready && !s.EjectedUntil.After(time.Now())
}

func (b *instance) member(id string) *balancer.Member {
	all := b.pool.Members()
	return all[slices.IndexFunc(all, func(m *balancer.Member) bool { return m.ID() == id })]
}

// faults are what can happen to a target. Each returns when the target serves again; how long it
// takes besides is up to the given generator.
var faults = map[string]func(w *world, a *application, rng *rand.Rand) error{
	"killed": func(w *world, a *application, rng *rand.Rand) error {
		w.begin(a.id, dead)
		a.signal(syscall.SIGKILL)
		a.reap()
		lasts(rng, 200*time.Millisecond, 2*time.Second)
		return w.again(a, dead)
	},
	"restarted": func(w *world, a *application, _ *rand.Rand) error {
		w.begin(a.id, dead)
		a.signal(syscall.SIGTERM)
		a.reap()
		return w.again(a, dead)
	},
	"frozen": func(w *world, a *application, rng *rand.Rand) error {
		w.begin(a.id, frozen)
		a.signal(syscall.SIGSTOP)
		lasts(rng, 300*time.Millisecond, 6*time.Second)
		a.signal(syscall.SIGCONT)
		err := w.fit(a.id)
		w.end(a.id, frozen)
		return err
	},
	"frozen and killed": func(w *world, a *application, rng *rand.Rand) error {
		w.begin(a.id, frozen)
		a.signal(syscall.SIGSTOP)
		lasts(rng, 300*time.Millisecond, 3*time.Second)
		w.begin(a.id, dead)
		a.signal(syscall.SIGKILL)
		a.reap()
		return w.again(a, dead, frozen)
	},
	"drained": func(w *world, a *application, rng *rand.Rand) error {
		w.drain(a.id, health.Drain{
			Grace: 200*time.Millisecond + time.Duration(rng.Int64N(int64(time.Second))), Limit: 3 * time.Second})
		lasts(rng, 0, time.Second)
		w.ready(a.id)
		return w.fit(a.id)
	},
	"frozen and drained": func(w *world, a *application, rng *rand.Rand) error {
		w.begin(a.id, frozen)
		a.signal(syscall.SIGSTOP)
		lasts(rng, 0, time.Second)
		w.drain(a.id, health.Drain{Grace: -1, Limit: 1500 * time.Millisecond})
		a.signal(syscall.SIGCONT)
		w.ready(a.id)
		err := w.fit(a.id)
		w.end(a.id, frozen)
		return err
	},
}

// lasts is how long a fault goes on.
func lasts(rng *rand.Rand, from, to time.Duration) {
	time.Sleep(from + time.Duration(rng.Int64N(int64(to-from))))
}

// again starts a process whose end has been seen, and ends the troubles when it serves.
func (w *world) again(a *application, troubles ...trouble) error {
	err := a.start()
	if err == nil {
		err = w.fit(a.id)
	}
	for _, what := range troubles {
		w.end(a.id, what)
	}
	return err
}

// play lets faults happen for a while, each kind at least once, never to more than three targets at
// a time. It returns how often each has happened when all is well again.
func (w *world) play(d time.Duration, rng *rand.Rand) map[string]int {
	happened := make(map[string]int)
	kinds := slices.Sorted(maps.Keys(faults))
	rng.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	free := make(chan *application, targets)
	for _, i := range rng.Perm(targets) {
		free <- w.apps[i]
	}
	var under sync.WaitGroup
	places := make(chan struct{}, targets-2)
	for end, n := time.Now().Add(d), 0; time.Now().Before(end) || n < len(kinds); n++ {
		places <- struct{}{}
		a := <-free
		kind := kinds[n%len(kinds)]
		if n >= len(kinds) {
			kind = kinds[rng.IntN(len(kinds))]
		}
		happened[kind]++
		own := rand.New(rand.NewPCG(rng.Uint64(), 0))
		under.Go(func() {
			if err := faults[kind](w, a, own); err != nil {
				w.t.Errorf("%s was %s: %v", a.id, kind, err)
			}
			free <- a
			<-places
		})
		lasts(rng, 100*time.Millisecond, time.Second)
	}
	under.Wait()
	return happened
}

// TestFaults has backends killed, restarted, frozen and drained at random while visitors keep
// sessions and WebSockets with them, through two balancers in turn. Each thing that a visitor has
// done is judged by [deed.verdict]; then all is shut down, every WebSocket sees the close frame,
// and nothing is left.
//
//	SOAK=60s go test -run TestFaults -v -faults.seed=7
func TestFaults(t *testing.T) {
	seed := *faultsSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-faults.seed=%d", seed)
	before := leaktest.Settled(t)
	w := newWorld(t, seed)

	ctx, cancel := context.WithCancel(t.Context())
	var playing sync.WaitGroup
	playing.Go(func() { w.everybody(func(v *visitor) { v.visit(ctx, pace) }) })
	happened := w.play(soaktest.For(t, 15*time.Second), rand.New(rand.NewPCG(seed, 1)))
	cancel()
	playing.Wait()
	places := make(chan struct{}, 10) // nobody has a pace any more
	w.everybody(func(v *visitor) {
		places <- struct{}{}
		defer func() { <-places }()
		if err := v.settle(); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		w.report(happened)
		t.FailNow()
	}

	codes := make(chan int, visitors)
	var reading sync.WaitGroup
	reading.Go(func() { w.everybody(func(v *visitor) { codes <- v.farewell() }) })
	for _, b := range w.balancers {
		require.NoError(t, b.proxy.Shutdown(t.Context()))
	}
	reading.Wait()
	for range visitors {
		require.Equal(t, 1001, <-codes)
	}
	for _, b := range w.balancers {
		for _, m := range b.pool.Members() {
			until(t, "nothing is in flight at "+m.ID(), func() bool { return m.Load() == 0 && m.Tunnels() == 0 })
		}
	}
	w.close()
	w.report(happened)
	leaktest.RequireNoMore(t, before)
}

// report judges all deeds, and says what has been.
func (w *world) report(happened map[string]int) {
	t := w.t
	did, bad, starving := make(map[string]int), 0, 0
	for _, v := range w.visitors {
		for _, d := range v.deeds {
			rec, _ := w.failed.Load(d.id)
			failed, _ := rec.(*wsproxy.Record)
			h := w.balancers[d.via].history
			if wrong := d.verdict(h, failed); wrong != "" {
				if bad++; bad <= 20 {
					t.Errorf("%s\n%v\n%q was: %v\n%q was: %v\n%v", wrong, d, d.by, h.spans[d.by], d.bound,
						h.spans[d.bound], failed)
				}
			}
			did[d.summary(failed)]++
			if d.cookie && d.bound != "" {
				did["sessions moved"]++
			}
		}
	}
	for _, a := range w.apps {
		a.mu.Lock()
		for id, times := range a.executed {
			if times > 1 {
				t.Errorf("%s has executed %s %d times", a.id, id, times)
			}
		}
		a.mu.Unlock()
	}
	var lines []string
	for what, n := range did {
		lines = append(lines, fmt.Sprintf("%7d %s", n, what))
	}
	w.tunnels.Range(func(by, n any) bool {
		lines = append(lines, fmt.Sprintf("%7d tunnels ended by: %s", n.(*counter).n, by))
		return true
	})
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[8:], b[8:]) })
	alarms := 0
	for _, b := range w.balancers {
		alarms += b.history.alarms
		for _, s := range b.history.spans[""] {
			if s.what == starved {
				starving++
			}
		}
	}
	t.Logf("targets were: %v, ill without a fault: %d; starved %d times; %d wrong\n%s", happened, alarms, starving, bad,
		strings.Join(lines, "\n"))
	for _, what := range []string{"post 200", "get 200", "load 200", "open 101", "talk", "talk ended with 1012", "sessions moved"} {
		require.NotZero(t, did[what], what)
	}
}

// summary is what is counted together.
func (d *deed) summary(failed *wsproxy.Record) string {
	e, ok := failure(failed)
	switch {
	case d.code > 0:
		return fmt.Sprintf("%s ended with %d", d.what, d.code)
	case d.err != nil:
		return d.what + " broken off"
	case ok:
		return fmt.Sprintf("%s %d, %v", d.what, d.status, e.Class)
	case d.status != 0:
		return fmt.Sprintf("%s %d", d.what, d.status)
	default:
		return d.what
	}
}
