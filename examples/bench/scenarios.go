package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A metric is a row of the table.
type metric struct {
	Name string `json:"name"` // unique
	Unit string `json:"unit"`
	More bool   `json:"more"` // a higher value is better
}

// A scenario measures some metrics of one proxy at a time.
type scenario struct {
	metrics []metric
	targets int // if above zero, a proxy is started for this scenario with that number
	rounds  int // if above zero, the scenario runs in at most that many rounds
	measure func(ctx context.Context, b *bench, p *proxy) ([]float64, error)
}

const (
	memoryRounds  = 2 // starting programs takes long
	churners      = 8 // connections that are being made at the same time
	dialers       = 16
	bulkConns     = 4
	bulkFrames    = 8 // in flight on a connection
	echoSize      = 32
	manyStreams   = 8 // of an HTTP/2 connection
	microseconds  = "us"
	milliseconds  = "ms"
	perSecond     = "1/s"
	kilobytes     = "KB"
	secondsPerGB  = "s/GB"
	smallAnswer   = "100-byte answer"
	bytesPerGB    = 1e9
	bytesPerKB    = 1 << 10
	latencyFactor = 2 // slots that the latency is measured for: percentiles need more samples
)

// Sizes for -grow. The limit of descriptors may allow fewer connections.
var (
	growConnections = []int{10, 100, 1000, 10_000}
	growTargets     = []int{3, 30, 300, 3000}
)

func cpu(of string) metric { return metric{Name: "CPU per " + of, Unit: microseconds} }

// scenarios returns all scenarios, in the order of the table.
func (b *bench) scenarios() []scenario {
	all := []scenario{
		{metrics: []metric{cpu("request, " + smallAnswer), {"requests a second, " + smallAnswer, perSecond, true}},
			measure: requests(small, b.connections, false)},
		{metrics: []metric{cpu("request, 100 KB answer")}, measure: requests(large, b.connections, false)},
		{metrics: []metric{cpu("request, POST of 100 KB")}, measure: requests(upload, b.connections, false)},
		{metrics: []metric{cpu("request over TLS, " + smallAnswer)}, measure: requests(small, b.connections, true)},
		{metrics: []metric{cpu("request over HTTP/2, 1 stream a connection")}, measure: multiplexed(small, b.connections, 1)},
		{metrics: []metric{cpu(fmt.Sprintf("request over HTTP/2, %d streams a connection", manyStreams))},
			measure: multiplexed(small, max(1, b.connections/manyStreams), manyStreams)},
		{metrics: []metric{
			{Name: fmt.Sprintf("latency p50 at %d requests a second", b.rate), Unit: milliseconds},
			{Name: fmt.Sprintf("latency p99 at %d requests a second", b.rate), Unit: milliseconds}}, measure: latency},
		idle("idle WebSocket", b.idle, false),
		idle("idle TLS WebSocket", b.idle, true),
		{metrics: []metric{cpu(fmt.Sprintf("WebSocket echo of %d bytes", echoSize))}, measure: echoes(b.connections)},
		{metrics: []metric{{Name: "CPU for WebSocket bulk, 64 KB messages", Unit: secondsPerGB}}, measure: bulk(64 << 10)},
		{metrics: []metric{{Name: "CPU for WebSocket bulk, 1 MB messages", Unit: secondsPerGB}}, measure: bulk(maxPayload)},
		{metrics: []metric{cpu("new TLS session"), {"new TLS sessions a second", perSecond, true}}, measure: churn(newTLSSession)},
		{metrics: []metric{cpu("new WebSocket"), {"new WebSockets a second", perSecond, true}}, measure: churn(newSocket)},
	}
	if b.grow {
		all = append(all, b.growth()...)
	}
	return slices.DeleteFunc(all, func(s scenario) bool { return !b.wantsRows(s.metrics) })
}

// growth returns the scenarios that show how the main figures change with the number of connections
// and targets.
func (b *bench) growth() (all []scenario) {
	var sizes []int
	for _, n := range growConnections {
		sizes = append(sizes, min(n, b.maxConnections()))
	}
	sizes = slices.Compact(sizes)
	for _, n := range sizes {
		all = append(all, scenario{metrics: []metric{cpu(fmt.Sprintf("request, %d connections", n))}, measure: requests(small, n, false)})
	}
	for _, n := range sizes {
		all = append(all, scenario{metrics: []metric{cpu(fmt.Sprintf("echo, %d WebSockets", n))}, measure: echoes(n)})
	}
	for _, n := range sizes[min(2, len(sizes)):] { // fewer tunnels may fit into memory that the heap has free already
		all = append(all, idle(fmt.Sprintf("idle WebSocket of %d", n), n, false))
	}
	for _, n := range growTargets {
		all = append(all, scenario{
			metrics: []metric{cpu(fmt.Sprintf("request, %d targets", n)), cpu(fmt.Sprintf("new WebSocket, %d targets", n))},
			targets: n, rounds: memoryRounds, measure: requestsAndSockets})
	}
	return all
}

// spend calls do and returns the CPU time that the proxy has used meanwhile.
func spend(p *proxy, do func() error) (cpu, wall time.Duration, err error) {
	before, err := cpuTime(p.pids)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := do(); err != nil {
		return 0, 0, err
	}
	wall = time.Since(began)
	after, err := cpuTime(p.pids)
	return after - before, wall, err
}

// perCall runs the workers in a closed loop. It returns the CPU time of a call, in microseconds,
// and the calls per second.
func (b *bench) perCall(ctx context.Context, p *proxy, workers []func() error) ([]float64, error) {
	n := 0
	cpu, wall, err := spend(p, func() (err error) {
		n, err = closedLoop(ctx, b.slot, workers)
		return err
	})
	if err != nil {
		return nil, err
	}
	return []float64{cpu.Seconds() * 1e6 / float64(n), float64(n) / wall.Seconds()}, nil
}

// clients opens n connections and calls ready for each.
func (b *bench) clients(ctx context.Context, p *proxy, secure bool, n int, ready func(*client) error) ([]*client, error) {
	return openAll(b, n, func() (*client, error) { return b.dial(ctx, p, secure) }, ready)
}

// A connection is a [client] or an [h2Client].
type connection interface {
	comparable
	extend(time.Duration)
	close()
}

// openAll opens n connections, several at the same time, and calls ready for each. After an error
// it closes all.
func openAll[C connection](b *bench, n int, open func() (C, error), ready func(C) error) ([]C, error) {
	all := make([]C, n)
	err := parallel(n, dialers, func(i int) error {
		c, err := open()
		if err != nil {
			return err
		}
		all[i] = c
		return ready(c)
	})
	if err != nil {
		closeAll(all)
		return nil, err
	}
	for _, c := range all {
		c.extend(b.slot * latencyFactor)
	}
	return all, nil
}

func closeAll[C connection](all []C) {
	var none C
	for _, c := range all {
		if c != none {
			c.close()
		}
	}
}

// parallel calls do for 0 to n-1, atATime at once. After an error it begins no more calls.
func parallel(n, atATime int, do func(i int) error) error {
	var work sync.WaitGroup
	next := make(chan int)
	failed := make(chan error, atATime)
	for range min(n, atATime) {
		work.Go(func() {
			for i := range next {
				if err := do(i); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	var err error
	for i := 0; i < n && err == nil; i++ {
		select {
		case next <- i:
		case err = <-failed:
		}
	}
	close(next)
	work.Wait()
	close(failed)
	for late := range failed {
		err = errors.Join(err, late)
	}
	return err
}

// inOrder calls the steps in order until one fails.
func inOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// inTurn returns workers that use the clients in turn. Their number is at most the usual number of
// connections.
func inTurn[C connection](b *bench, clients []C, do func(C) error) []func() error {
	workers := make([]func() error, min(len(clients), b.connections))
	for i := range workers {
		next := i
		workers[i] = func() error {
			c := clients[next]
			if next += len(workers); next >= len(clients) {
				next = i
			}
			return do(c)
		}
	}
	return workers
}

// requests measures sticky requests over HTTP/1.1, on that number of connections. The values are
// those of perCall.
func requests(e exchange, connections int, secure bool) func(context.Context, *bench, *proxy) ([]float64, error) {
	return func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
		clients, err := b.clients(ctx, p, secure, connections, func(c *client) error {
			return inOrder(c.begin, func() error { return c.do(e) })
		})
		if err != nil {
			return nil, err
		}
		defer closeAll(clients)
		return b.perCall(ctx, p, inTurn(b, clients, func(c *client) error { return c.do(e) }))
	}
}

// multiplexed measures sticky requests over HTTP/2, on that number of connections with that number
// of requests at the same time on each. The values are those of perCall. Each connection has
// requests under way when the measurement begins, and as many when it ends.
func multiplexed(e exchange, connections, streams int) func(context.Context, *bench, *proxy) ([]float64, error) {
	return func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
		open := func() (*h2Client, error) { return dialHTTP2(ctx, p.listenTLS, b.tls2, streams) }
		clients, err := openAll(b, connections, open, func(c *h2Client) error {
			return inOrder(c.begin, func() error { return c.do(e) })
		})
		if err != nil {
			return nil, err
		}
		defer closeAll(clients)
		values, err := b.perCall(ctx, p, inTurn(b, clients, func(c *h2Client) error { return c.do(e) }))
		for _, c := range clients {
			err = errors.Join(err, c.finish())
		}
		return values, err
	}
}

// latency measures the 50th and the 99th percentile of requests at a fixed rate, in milliseconds.
func latency(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
	clients, err := b.clients(ctx, p, false, b.connections, (*client).begin)
	if err != nil {
		return nil, err
	}
	defer closeAll(clients)
	s := schedule{start: time.Now(), rate: b.rate, n: max(1, int(b.slot.Seconds()*latencyFactor*float64(b.rate))), sleep: nap}
	took, err := openLoop(ctx, s, inTurn(b, clients, func(c *client) error { return c.do(small) }))
	if err != nil {
		return nil, err
	}
	slices.Sort(took)
	return []float64{percentile(took, 50).Seconds() * 1e3, percentile(took, 99).Seconds() * 1e3}, nil
}

// idle measures the memory of n silent WebSockets, in KB for each. The proxy has served requests
// before, so that memory that it needs anyway is not counted.
func idle(what string, n int, secure bool) scenario {
	measure := func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
		if err := b.warm(ctx, p, secure); err != nil {
			return nil, err
		}
		before, err := residentMemory(p.pids)
		if err != nil {
			return nil, err
		}
		clients, err := b.clients(ctx, p, secure, n, (*client).upgrade)
		if err != nil {
			return nil, err
		}
		defer closeAll(clients)
		if err := rest(ctx, b.settle); err != nil {
			return nil, err
		}
		after, err := residentMemory(p.pids)
		if err != nil {
			return nil, err
		}
		// Check that all are still open.
		err = parallel(n, dialers, func(i int) error {
			clients[i].extend(0)
			return clients[i].echo(content[:echoSize])
		})
		return []float64{float64(after-before) / bytesPerKB / float64(n)}, err
	}
	return scenario{metrics: []metric{{Name: "memory per " + what, Unit: kilobytes}}, targets: usualTargets, rounds: memoryRounds,
		measure: measure}
}

// warm sends a freshly started proxy some requests of each kind.
func (b *bench) warm(ctx context.Context, p *proxy, secure bool) error {
	clients, err := b.clients(ctx, p, secure, b.connections, (*client).begin)
	if err != nil {
		return err
	}
	defer closeAll(clients)
	if _, err := closedLoop(ctx, b.slot, inTurn(b, clients, func(c *client) error { return c.do(small) })); err != nil {
		return err
	}
	err = parallel(len(clients), dialers, func(i int) error { return clients[i].visitSocket() })
	if err != nil {
		return err
	}
	return rest(ctx, b.settle)
}

// rest waits for d. It returns ctx's error if ctx ends first.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// echoes measures echoes of small messages over that number of WebSockets. The values are those of
// perCall.
func echoes(connections int) func(context.Context, *bench, *proxy) ([]float64, error) {
	return func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
		message := content[:echoSize]
		clients, err := b.clients(ctx, p, false, connections, func(c *client) error {
			return inOrder(c.upgrade, func() error { return c.echo(message) })
		})
		if err != nil {
			return nil, err
		}
		defer closeAll(clients)
		return b.perCall(ctx, p, inTurn(b, clients, func(c *client) error { return c.echo(message) }))
	}
}

// bulk measures large messages in both directions at the same time. The value is in CPU seconds per
// GB (10^9 octets) of payload.
func bulk(size int) func(context.Context, *bench, *proxy) ([]float64, error) {
	return func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
		clients, err := b.clients(ctx, p, false, bulkConns, (*client).upgrade)
		if err != nil {
			return nil, err
		}
		defer closeAll(clients)
		message := content[:size]
		values, err := b.perCall(ctx, p, inTurn(b, clients, func(c *client) error { return c.sendBulk(message) }))
		if err != nil {
			return nil, err
		}
		moved := float64(2 * bulkFrames * size) // per call
		return []float64{values[0] / 1e6 / moved * bytesPerGB}, nil
	}
}

// sendBulk sends a large message several times, and reads the echoes at the same time.
func (c *client) sendBulk(message []byte) error {
	sent := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < bulkFrames && err == nil; i++ {
			err = c.send(opBinary, message)
		}
		sent <- err
	}()
	var err error
	for i := 0; i < bulkFrames && err == nil; i++ {
		err = c.receive(opBinary, message)
	}
	if err != nil {
		c.close() // otherwise the sender might wait
	}
	return errors.Join(err, <-sent)
}

// A maker makes a connection of a known session, uses it once, and closes it.
type maker func(ctx context.Context, b *bench, p *proxy, s session) error

// churn measures short connections. The values are those of perCall.
func churn(once maker) func(context.Context, *bench, *proxy) ([]float64, error) {
	return func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
		c, err := b.clients(ctx, p, false, 1, (*client).begin)
		if err != nil {
			return nil, err
		}
		defer closeAll(c)
		workers := slices.Repeat([]func() error{func() error { return once(ctx, b, p, c[0].session) }}, churners)
		return b.perCall(ctx, p, workers)
	}
}

// newTLSSession does a full handshake, without resumption, and one request.
func newTLSSession(ctx context.Context, b *bench, p *proxy, s session) error {
	c, err := b.dial(ctx, p, true)
	if err != nil {
		return err
	}
	defer c.close()
	c.session = s
	return c.do(small)
}

// newSocket opens a WebSocket, sends one message, and does the closing handshake.
func newSocket(ctx context.Context, b *bench, p *proxy, s session) error {
	c, err := b.dial(ctx, p, false)
	if err != nil {
		return err
	}
	defer c.close()
	c.session = s
	return c.visitSocket()
}

// requestsAndSockets measures the CPU time of requests and of new WebSockets.
func requestsAndSockets(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
	first, err := requests(small, b.connections, false)(ctx, b, p)
	if err != nil {
		return nil, err
	}
	second, err := churn(newSocket)(ctx, b, p)
	if err != nil {
		return nil, err
	}
	return []float64{first[0], second[0]}, nil
}
