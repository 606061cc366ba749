package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// A metric is a row of the table.
type metric struct {
	Name string `json:"name"` // unique
	Unit string `json:"unit"`
	More bool   `json:"more"` // a higher value is better

	short  bool // also in the short table
	detail bool // neither in the chart nor in the table of the documentation
	scale  bool // in a table of its own, and not in the chart
}

// A scenario measures some metrics of one proxy at a time.
type scenario struct {
	metrics []metric
	targets int          // if above zero, a proxy is started for this scenario with that number
	setup   func(*setup) // may change the setup of that proxy; nil: the usual one
	rounds  int          // if above zero, the scenario runs in at most that many rounds
	own     bool         // of the library alone
	measure measurement
}

// A measurement returns a value of each metric.
type measurement func(ctx context.Context, b *bench, p *proxy) ([]float64, error)

const (
	memoryRounds  = 2 // starting programs takes long
	callRounds    = 1 // the number of system calls hardly changes
	churners      = 8 // connections that are being made at the same time
	dialers       = 16
	bulkConns     = 4
	bulkFrames    = 8 // in flight on a connection
	echoSize      = 32
	manyStreams   = 8 // of an HTTP/2 connection
	microseconds  = "us"
	milliseconds  = "ms"
	perSecond     = "1/s"
	systemCallsOf = "calls"
	sleepsOf      = "times"
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

// inShort returns the metric for the short table too.
func (m metric) inShort() metric {
	m.short = true
	return m
}

// scenarios returns all scenarios, in the order of the table.
func (b *bench) scenarios() []scenario {
	all := []scenario{
		{metrics: []metric{cpu("request, " + smallAnswer).inShort(), {Name: "requests a second, " + smallAnswer, Unit: perSecond, More: true, detail: true}},
			measure: perCall(requests(small, b.connections, false))},
		{metrics: []metric{cpu("request, 100 KB answer")}, measure: perCall(requests(large, b.connections, false))},
		{metrics: []metric{cpu("request, POST of 100 KB")}, measure: perCall(requests(upload, b.connections, false))},
		{metrics: []metric{cpu("request over TLS, " + smallAnswer).inShort()}, measure: perCall(requests(small, b.connections, true))},
		{metrics: []metric{cpu("request over HTTP/2, " + streamsEach(1))}, measure: perCall(multiplexed(small, b.connections, 1))},
		{metrics: []metric{cpu("request over HTTP/2, " + streamsEach(manyStreams)).inShort()},
			measure: perCall(multiplexed(small, max(1, b.connections/manyStreams), manyStreams))},
		{metrics: []metric{
			{Name: fmt.Sprintf("latency p50 at %d requests a second", b.rate), Unit: milliseconds, detail: true},
			{Name: fmt.Sprintf("latency p99 at %d requests a second", b.rate), Unit: milliseconds, short: true}}, measure: latency},
		idle(plainSockets, b.idle),
		fresh(plainSockets, b.idle),
		idle(tlsSockets, b.idle),
		idle(http2Sockets(1), b.idle),
		idle(http2Sockets(manyStreams), b.idle),
		{metrics: []metric{cpu(fmt.Sprintf("WebSocket echo of %d bytes", echoSize)).inShort()}, measure: perCall(echoes(b.connections))},
		{metrics: []metric{{Name: "CPU for WebSocket bulk, 64 KB messages", Unit: secondsPerGB}}, measure: bulk(64 << 10)},
		{metrics: []metric{{Name: "CPU for WebSocket bulk, 1 MB messages", Unit: secondsPerGB}}, measure: bulk(maxPayload)},
		{metrics: []metric{cpu("new TLS session"), {Name: "new TLS sessions a second", Unit: perSecond, More: true, detail: true}}, measure: perCall(churn(newTLSSession))},
		{metrics: []metric{cpu("new WebSocket").inShort(), {Name: "new WebSockets a second", Unit: perSecond, More: true, detail: true}}, measure: perCall(churn(newSocket))},
	}
	for _, l := range []struct {
		what string
		load load
	}{
		{"request, " + smallAnswer, requests(small, b.connections, false)},
		{"request over TLS", requests(small, b.connections, true)},
		{"request over HTTP/2, " + streamsEach(1), multiplexed(small, b.connections, 1)},
		{"request over HTTP/2, " + streamsEach(manyStreams), multiplexed(small, max(1, b.connections/manyStreams), manyStreams)},
		{"new WebSocket", churn(newSocket)},
	} {
		all = append(all, scenario{metrics: b.callMetrics(l.what), rounds: callRounds, measure: systemCalls(l.load)})
	}
	if b.grow {
		all = append(all, b.growth()...)
	}
	if b.quick { // starting programs takes long
		for i := range all {
			all[i].targets = 0
		}
	}
	if b.scale {
		all = append(all, b.scaled()...)
	}
	return slices.DeleteFunc(all, func(s scenario) bool { return !b.wantsRows(s.metrics) })
}

// callMetrics returns the metrics of [systemCalls].
func (b *bench) callMetrics(of string) []metric {
	sleeps := metric{Name: "sleeps of a thread per " + of, Unit: sleepsOf, detail: true}
	if b.tracer == nil {
		return []metric{sleeps}
	}
	all := []metric{{Name: "system calls per " + of, Unit: systemCallsOf, short: of == "request, "+smallAnswer}, sleeps}
	if b.quick {
		return all
	}
	for _, part := range []string{"read", "write", "wait"} {
		all = append(all, metric{Name: "system calls per " + of + ": to " + part, Unit: systemCallsOf, detail: true})
	}
	return all
}

// streamsEach returns the words for that number of streams on each HTTP/2 connection.
func streamsEach(n int) string {
	if n == 1 {
		return "1 stream a connection"
	}
	return fmt.Sprintf("%d streams a connection", n)
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
		all = append(all, scenario{metrics: []metric{cpu(fmt.Sprintf("request, %d connections", n))}, measure: perCall(requests(small, n, false))})
	}
	for _, n := range sizes {
		all = append(all, scenario{metrics: []metric{cpu(fmt.Sprintf("echo, %d WebSockets", n))}, measure: perCall(echoes(n))})
	}
	for _, n := range sizes[min(2, len(sizes)):] { // fewer tunnels may fit into memory that the heap has free already
		all = append(all, idle(socketKind{fmt.Sprintf("WebSocket of %d", n), 1, plainSockets.open, plainSockets.prepare}, n))
	}
	for _, n := range growTargets {
		all = append(all, scenario{
			metrics: []metric{cpu(fmt.Sprintf("request, %d targets", n)), cpu(fmt.Sprintf("new WebSocket, %d targets", n))},
			targets: n, rounds: memoryRounds, measure: requestsAndSockets})
	}
	return all
}

// latency measures the 50th and the 99th percentile of requests at a fixed rate, in milliseconds.
func latency(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
	clients, err := b.clients(ctx, p, false, b.connections, (*client).begin)
	if err != nil {
		return nil, err
	}
	defer closeAll(clients)
	return b.openLoopLatency(ctx, clients, latencyFactor*b.slot)
}

// openLoopLatency makes requests at the fixed rate for that long.
func (b *bench) openLoopLatency(ctx context.Context, clients []*client, d time.Duration) ([]float64, error) {
	s := schedule{start: time.Now(), rate: b.rate, n: max(1, int(d.Seconds()*float64(b.rate))), sleep: nap}
	took, err := openLoop(ctx, s, inTurn(b, clients, func(c *client) error { return c.do(small) }))
	if err != nil {
		return nil, err
	}
	slices.Sort(took)
	return []float64{percentile(took, 50).Seconds() * 1e3, percentile(took, 99).Seconds() * 1e3}, nil
}

// requestsAndSockets measures the CPU time of requests and of new WebSockets.
func requestsAndSockets(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
	first, err := perCall(requests(small, b.connections, false))(ctx, b, p)
	if err != nil {
		return nil, err
	}
	second, err := perCall(churn(newSocket))(ctx, b, p)
	if err != nil {
		return nil, err
	}
	return []float64{first[0], second[0]}, nil
}
