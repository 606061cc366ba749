package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// Sizes of -scale.
const (
	scaleTargets    = 100_000
	scaleSessions   = 1_000_000
	crowdSize       = 10_000 // WebSockets, and as many idle clients
	flapTargets     = 30     // behind programs
	flapsPerSecond  = 100    // in a pool
	scaleRounds     = 2
	contenders      = 64 // goroutines
	contendedPool   = 16 // targets; many pools must fit into the caches
	sampledSessions = 1000
	loginTime       = 150 * time.Second // limit for all sessions
	nanoseconds     = "ns"
	octets          = "B"
	megabytes       = "MB"
	stickyLearned   = "learn=" + appCookie
)

// size returns a size of -scale. With -quick it is a thousandth, and at least 100.
func (o *options) size(n int) int {
	if o.quick {
		return max(100, n/1000)
	}
	return n
}

// scaled returns the scenarios of -scale.
func (b *bench) scaled() []scenario {
	targets, sessions := b.size(scaleTargets), b.size(scaleSessions)
	crowd, processes := b.crowd()
	checks := func(path string) func(*setup) {
		return func(s *setup) { s.checkPath, s.checkEvery = path, flapPeriod/10 }
	}
	latency := func(what string) []metric {
		return []metric{scaleMetric(fmt.Sprintf("latency p99, %d targets, %s", flapTargets, what), milliseconds)}
	}
	all := []scenario{
		{metrics: latency("all up"), targets: flapTargets, setup: checks(pathHealth), rounds: scaleRounds, measure: restless(false)},
		{metrics: latency("each down for a third of the time"), targets: flapTargets, setup: checks(pathFlapping), rounds: scaleRounds,
			measure: restless(true)},
		{metrics: []metric{
			scaleMetric(fmt.Sprintf("memory of %d WebSockets and %d idle clients, %d processes", crowd, crowd, processes), megabytes),
			scaleMetric("latency p99 with these", milliseconds)},
			targets: usualTargets, rounds: 1, measure: crowded(crowd, processes)},
		{metrics: []metric{
			scaleMetric("CPU per request, few learned sessions", microseconds),
			scaleMetric(fmt.Sprintf("CPU per request, %d learned sessions", sessions), microseconds),
			scaleMetric("memory per learned session", octets)},
			targets: usualTargets, setup: func(s *setup) { s.sticky = stickyLearned }, rounds: 1, own: true, measure: learned(sessions)},
		{metrics: []metric{
			scaleMetric(fmt.Sprintf("pick among %d targets, p50", targets), nanoseconds),
			scaleMetric(fmt.Sprintf("pick among %d targets, p99", targets), nanoseconds),
			scaleMetric(fmt.Sprintf("pick while %d targets a second change their health, p99", flapsPerSecond), nanoseconds),
			scaleMetric(fmt.Sprintf("update of one target of %d", targets), milliseconds),
			scaleMetric("memory per target", octets)},
			rounds: scaleRounds, own: true, measure: manyTargets(targets)},
		{metrics: []metric{
			scaleMetric(fmt.Sprintf("pick, %d goroutines, 1 processor", contenders), nanoseconds),
			scaleMetric(fmt.Sprintf("pick, %d goroutines, 2 processors, a pool each", contenders), nanoseconds),
			scaleMetric(fmt.Sprintf("pick, %d goroutines, 2 processors, one pool", contenders), nanoseconds),
			scaleMetric("transfer of a cache line between 2 processors", nanoseconds),
			scaleMetric("cache lines transferred per pick, calculated", "lines"),
			scaleMetric(fmt.Sprintf("picks a second with %d processors on one pool, calculated", contenders), perSecond)},
			rounds: scaleRounds, own: true, measure: contention},
	}
	all[len(all)-1].metrics[5].More = true
	return all
}

func scaleMetric(name, unit string) metric { return metric{Name: name, Unit: unit, scale: true} }

// flapTime returns for how long requests are made while targets flap.
func (o *options) flapTime() time.Duration {
	if o.quick {
		return 2 * flapPeriod
	}
	return 2 * flapPhases * flapPeriod
}

// restless measures the latency of requests while the checks of the targets fail now and then.
// Sessions of a target that is down move to another one. If no session moves, nothing was measured.
func restless(flapping bool) measurement {
	return func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
		switch p.name {
		case nameReverseProxy:
			return nil, absent("it has one target")
		case "nginx":
			return nil, absent("it has no active checks")
		}
		clients, err := b.clients(ctx, p, false, b.connections, func(c *client) error {
			c.moves = flapping
			return c.begin()
		})
		if err != nil {
			return nil, err
		}
		defer closeAll(clients)
		values, err := b.openLoopLatency(ctx, clients, b.flapTime())
		if err != nil {
			return nil, err
		}
		moved := 0
		for _, c := range clients {
			moved += c.moved
		}
		if flapping && moved == 0 {
			return nil, errors.New("no session moved, although every target was down for some time")
		}
		return values[1:], nil
	}
}

// crowd returns the number of WebSockets, and of idle clients, that are open at once. All are in
// this process, whose descriptors may not suffice for more. It also returns over how many processes
// of a proxy they are distributed: a WebSocket needs two descriptors there, and HAProxy keeps two
// for each client.
func (b *bench) crowd() (n, processes int) {
	n = min(b.size(crowdSize), (b.descriptors-spareDescriptors)/2)
	each := (b.descriptors - spareDescriptors) / 4
	return n, (n + each - 1) / each
}

// crowded measures the memory of n WebSockets and n clients that keep an idle connection, all at
// once, in MB of 2^20 octets. They are distributed over so many processes of the proxy. Then it
// measures the latency of other clients of one of these.
func crowded(n, processes int) measurement {
	return func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
		all, pids := []*proxy{p}, slices.Clone(p.pids)
		for len(all) < processes {
			another, err := b.startProgram(ctx, p.program, b.backends[:usualTargets], nil)
			if err != nil {
				return nil, err
			}
			defer another.process.stop()
			all, pids = append(all, another), append(pids, another.pids...)
		}
		before, err := residentMemory(pids)
		if err != nil {
			return nil, err
		}
		idle, err := b.spread(ctx, all, n, (*client).begin)
		if err != nil {
			return nil, err
		}
		defer closeAll(idle)
		sockets, err := b.spread(ctx, all, n, (*client).upgrade)
		if err != nil {
			return nil, err
		}
		defer closeAll(sockets)
		if err := rest(ctx, b.settle); err != nil {
			return nil, err
		}
		after, err := residentMemory(pids)
		if err != nil {
			return nil, err
		}
		took, err := latency(ctx, b, p)
		if err != nil {
			return nil, err
		}
		err = parallel(n, dialers, func(i int) error {
			idle[i].extend(0)
			sockets[i].extend(0)
			return inOrder(func() error { return idle[i].do(small) }, func() error { return sockets[i].echo(content[:echoSize]) })
		})
		return []float64{float64(after-before) / bytesPerKB / bytesPerKB, took[1]}, err
	}
}

// spread opens n connections, to the proxies in turn.
func (b *bench) spread(ctx context.Context, proxies []*proxy, n int, ready func(*client) error) ([]*client, error) {
	var turn atomic.Int64
	return openAll(b, n, func() (*client, error) {
		return b.dial(ctx, proxies[int(turn.Add(1))%len(proxies)], false)
	}, ready)
}

// learned lets the library's proxy learn n sessions of the application, with a request for each. It
// measures requests of some sessions before and after, and the memory.
func learned(n int) measurement {
	return func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
		few, err := perCall(withSessions(nil))(ctx, b, p)
		if err != nil {
			return nil, err
		}
		before, err := residentMemory(p.pids)
		if err != nil {
			return nil, err
		}
		sessions, err := b.logins(ctx, p, n)
		if err != nil {
			return nil, err
		}
		if err := rest(ctx, b.settle); err != nil {
			return nil, err
		}
		after, err := residentMemory(p.pids)
		if err != nil {
			return nil, err
		}
		many, err := perCall(withSessions(sessions))(ctx, b, p)
		if err != nil {
			return nil, err
		}
		return []float64{few[0], many[0], float64(after-before) / float64(n)}, nil
	}
}

// logins begins n sessions, which may not take too long. It returns some of the last half of them:
// a store that is full may forget the first ones.
func (b *bench) logins(ctx context.Context, p *proxy, n int) ([]session, error) {
	clients, err := b.clients(ctx, p, false, b.connections, func(*client) error { return nil })
	if err != nil {
		return nil, err
	}
	defer closeAll(clients)
	late := time.Now().Add(loginTime)
	var mu sync.Mutex
	var kept []session
	every := max(1, n/2/sampledSessions)
	var next atomic.Int64
	err = parallel(len(clients), len(clients), func(i int) error {
		c := clients[i]
		for turn := 0; ctx.Err() == nil; turn++ {
			id := int(next.Add(1))
			if id > n {
				return nil
			}
			if turn%100 == 0 {
				if time.Now().After(late) {
					return absent(fmt.Sprintf("only %d of %d sessions have begun in %v", id, n, loginTime))
				}
				c.extend(0)
			}
			if err := c.start(login(fmt.Sprintf("%016x", rand.Uint64()))); err != nil {
				return err
			}
			if id > n/2 && id%every == 0 {
				mu.Lock()
				kept = append(kept, c.session)
				mu.Unlock()
			}
		}
		return context.Cause(ctx)
	})
	return kept, err
}

// withSessions makes requests of these sessions in turn, on the usual number of connections.
// Without sessions each connection begins one.
func withSessions(sessions []session) load {
	return func(ctx context.Context, b *bench, p *proxy) ([]func() error, func() error, error) {
		clients, err := b.clients(ctx, p, false, b.connections, func(c *client) error { return c.start(p.entry()) })
		var next atomic.Int64
		do := func(c *client) error {
			if len(sessions) > 0 {
				c.session, c.sent = sessions[int(next.Add(1))%len(sessions)], exchange{}
			}
			return c.do(small)
		}
		return inTurn(b, clients, do), closing(clients), err
	}
}

// manyTargets measures a pool of n targets: picks with and without changes of their health, updates
// that replace a target, and the memory.
func manyTargets(n int) measurement {
	return func(ctx context.Context, b *bench, _ *proxy) ([]float64, error) {
		empty := heap()
		set := make([]balancer.Target, n)
		for i := range set {
			set[i] = numbered(i)
		}
		pool, err := balancer.New(balancer.Config{Targets: set})
		if err != nil {
			return nil, err
		}
		members := pool.Members()
		for _, m := range members {
			m.SetHealth(balancer.Healthy)
		}
		if _, err := b.pickFor(ctx, pool); err != nil { // then everything is built
			return nil, err
		}
		memory := float64(heap()-empty) / float64(n)
		quiet, err := b.pickFor(ctx, pool)
		if err != nil {
			return nil, err
		}
		stop := make(chan struct{})
		var flaps sync.WaitGroup
		flaps.Go(func() { flap(members, stop) })
		busy, err := b.pickFor(ctx, pool)
		close(stop)
		flaps.Wait()
		if err != nil {
			return nil, err
		}
		ended := make(chan struct{})
		close(ended) // for one update
		var updates histogram
		if err := change(pool, set, ended, &updates); err != nil {
			return nil, err
		}
		runtime.KeepAlive(pool)
		return []float64{float64(quiet.percentile(50)), float64(quiet.percentile(99)), float64(busy.percentile(99)),
			updates.longest.Seconds() * 1e3, memory}, nil
	}
}

// heap returns the octets that are in use on the heap.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// flap lets the health of one member after the other fail and come back until stop is closed.
func flap(members []*balancer.Member, stop <-chan struct{}) {
	ticker := time.NewTicker(time.Second / flapsPerSecond)
	defer ticker.Stop()
	for i := 0; ; i++ {
		members[i%len(members)].SetHealth(balancer.Unhealthy)
		members[(i+len(members)-flapsPerSecond%len(members))%len(members)].SetHealth(balancer.Healthy) // down for a second
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
	}
}

// contention measures what picks of many goroutines from one pool cost, and what the transfer of a
// cache line costs. It calculates from this how many lines one pick transfers: the difference
// between one pool and a pool for each goroutine, divided by the cost of a transfer. On two
// processors, a line is in the other one's cache for half of the accesses, and with many processors
// for nearly all. So with many processors each pick waits for twice as many transfers, and these
// follow one another if they are all of the same line. The last value is the rate that this allows:
// a bound from a calculation and not a measurement. The values are missing (NaN) if no difference
// was measured, which noise can cause.
func contention(ctx context.Context, b *bench, _ *proxy) ([]float64, error) {
	if runtime.NumCPU() < 2 {
		return nil, absent("this machine has one processor")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	shared, err := contendedPools(1)
	if err != nil {
		return nil, err
	}
	own, err := contendedPools(contenders)
	if err != nil {
		return nil, err
	}
	runtime.GOMAXPROCS(1)
	single, err := b.contend(ctx, shared)
	if err != nil {
		return nil, err
	}
	runtime.GOMAXPROCS(2)
	apart, err := b.contend(ctx, own)
	if err != nil {
		return nil, err
	}
	together, err := b.contend(ctx, shared)
	if err != nil {
		return nil, err
	}
	transfer := lineTransfer(b.slot)
	lines, bound := math.NaN(), math.NaN()
	if together > apart && transfer > 0 {
		lines = (together - apart) / transfer
		bound = 1e9 / (2 * (together - apart))
	}
	return []float64{single, apart, together, transfer, lines, bound}, nil
}

func contendedPools(n int) ([]*balancer.Pool, error) {
	set := make([]balancer.Target, contendedPool)
	for i := range set {
		set[i] = numbered(i)
	}
	pools := make([]*balancer.Pool, n)
	for i := range pools {
		var err error
		if pools[i], err = balancer.New(balancer.Config{Targets: set}); err != nil {
			return nil, err
		}
	}
	return pools, nil
}

// contend lets the contenders pick for a slot, each from its pool. It returns the CPU time of a
// pick with its release, in nanoseconds.
func (o *options) contend(ctx context.Context, pools []*balancer.Pool) (float64, error) {
	var total atomic.Int64
	var failed atomic.Pointer[error]
	var work sync.WaitGroup
	self := []int{os.Getpid()}
	before, err := cpuTime(self)
	if err != nil {
		return 0, err
	}
	end := time.Now().Add(o.slot)
	for i := range contenders {
		pool := pools[i%len(pools)]
		work.Go(func() {
			q := balancer.Request{Client: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}
			const batch = 100
			for time.Now().Before(end) && ctx.Err() == nil {
				for range batch {
					lease, err := pool.Acquire(ctx, &q)
					if err != nil {
						failed.Store(&err)
						return
					}
					lease.Release(balancer.Outcome{Latency: time.Millisecond})
				}
				total.Add(batch)
			}
		})
	}
	work.Wait()
	after, err := cpuTime(self)
	if err != nil {
		return 0, err
	}
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	if err := ctx.Err(); err != nil {
		return 0, context.Cause(ctx)
	}
	return float64(after-before) / float64(max(1, total.Load())), nil
}

// lineTransfer returns what it costs to get a cache line from another processor, in nanoseconds:
// two threads hand a number to each other over one line. It returns the fastest of many short runs,
// since a thread that another program interrupts says nothing.
func lineTransfer(d time.Duration) float64 {
	best := math.Inf(1)
	for end := time.Now().Add(d); time.Now().Before(end) || math.IsInf(best, 1); {
		best = min(best, handOver())
	}
	return best
}

// handOver returns how long one of many transfers took, in nanoseconds, from the moment when both
// threads are there.
func handOver() float64 {
	const turns, patient = 200, 10_000
	var ball atomic.Int64
	var took time.Duration
	var players sync.WaitGroup
	play := func(player int64) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var began time.Time
		for turn := player; turn < turns; turn += 2 {
			for tries := 1; ball.Load() != turn; tries++ {
				if tries%patient == 0 {
					runtime.Gosched() // the other one may have no processor
				}
			}
			if turn == 1 {
				began = time.Now()
			}
			ball.Store(turn + 1)
		}
		if player == 1 {
			took = time.Since(began)
		}
	}
	players.Go(func() { play(0) })
	players.Go(func() { play(1) })
	players.Wait()
	return float64(took) / (turns - 2)
}
