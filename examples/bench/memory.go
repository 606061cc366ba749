package main

import (
	"context"
	"fmt"
	"time"
)

// A socketClient is a [client] or an [h2Client].
type socketClient interface {
	connection
	upgrade() error            // opens a WebSocket
	echo(message []byte) error // uses all WebSockets of the connection
}

// A socketKind is a way to open WebSockets.
type socketKind struct {
	name    string
	each    int // WebSockets of a connection
	open    func(ctx context.Context, b *bench, p *proxy) (socketClient, error)
	prepare func(b *bench) load // the requests that a process has served before
}

var (
	plainSockets = socketKind{"WebSocket", 1,
		func(ctx context.Context, b *bench, p *proxy) (socketClient, error) { return b.dial(ctx, p, false) },
		func(b *bench) load { return requests(small, b.connections, false) }}
	tlsSockets = socketKind{"TLS WebSocket", 1,
		func(ctx context.Context, b *bench, p *proxy) (socketClient, error) { return b.dial(ctx, p, true) },
		func(b *bench) load { return requests(small, b.connections, true) }}
)

// http2Sockets returns the kind that opens that number of WebSockets on each HTTP/2 connection.
func http2Sockets(each int) socketKind {
	return socketKind{"WebSocket over HTTP/2, " + streamsEach(each), each,
		func(ctx context.Context, b *bench, p *proxy) (socketClient, error) {
			return dialHTTP2(ctx, p.listenTLS, b.tls2, each)
		},
		func(b *bench) load { return multiplexed(small, b.connections, 1) }}
}

// connect opens a connection with all its WebSockets.
func (k socketKind) connect(ctx context.Context, b *bench, p *proxy, n int) ([]socketClient, error) {
	return openAll(b, n/k.each, func() (socketClient, error) { return k.open(ctx, b, p) }, func(c socketClient) error {
		for range k.each {
			if err := c.upgrade(); err != nil {
				return err
			}
		}
		return nil
	})
}

// idle measures the memory of n silent WebSockets, in KB for each. The proxy has served requests
// and WebSockets before, so that memory that it needs anyway is not counted.
func idle(k socketKind, n int) scenario {
	measure := func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
		if err := k.warm(ctx, b, p); err != nil {
			return nil, err
		}
		before, err := residentMemory(p.pids)
		if err != nil {
			return nil, err
		}
		after, err := b.memoryWith(ctx, p, k, n, nil)
		return []float64{float64(after-before) / bytesPerKB / float64(n)}, err
	}
	return scenario{metrics: []metric{{Name: "memory per idle " + k.name, Unit: kilobytes, short: k.name == plainSockets.name}}, targets: usualTargets,
		rounds: memoryRounds, measure: measure}
}

// fresh measures by how much the memory of a process that has served nothing grows from a quarter
// of n silent WebSockets to all, in KB for each.
func fresh(k socketKind, n int) scenario {
	measure := func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
		quarter := max(1, n/4)
		first, err := k.connect(ctx, b, p, quarter)
		if err != nil {
			return nil, err
		}
		defer closeAll(first)
		if err := rest(ctx, b.settle); err != nil {
			return nil, err
		}
		before, err := residentMemory(p.pids)
		if err != nil {
			return nil, err
		}
		after, err := b.memoryWith(ctx, p, k, n-quarter, first)
		return []float64{float64(after-before) / bytesPerKB / float64(n-quarter)}, err
	}
	return scenario{metrics: []metric{{Name: "memory per idle " + k.name + ", fresh process", Unit: kilobytes}}, targets: usualTargets,
		rounds: memoryRounds, measure: measure}
}

// memoryWith returns the memory of a proxy with n more silent WebSockets. It then checks that these
// and the earlier ones are still open, and closes the new ones.
func (b *bench) memoryWith(ctx context.Context, p *proxy, k socketKind, n int, earlier []socketClient) (int64, error) {
	more, err := k.connect(ctx, b, p, n)
	if err != nil {
		return 0, err
	}
	defer closeAll(more)
	if err := rest(ctx, b.settle); err != nil {
		return 0, err
	}
	memory, err := residentMemory(p.pids)
	if err != nil {
		return 0, err
	}
	all := append(earlier[:len(earlier):len(earlier)], more...)
	return memory, parallel(len(all), dialers, func(i int) error {
		all[i].extend(0)
		if err := all[i].echo(content[:echoSize]); err != nil {
			return fmt.Errorf("a WebSocket that was silent: %w", err)
		}
		return nil
	})
}

// warm lets a freshly started proxy serve WebSockets and requests.
func (k socketKind) warm(ctx context.Context, b *bench, p *proxy) error {
	sockets, err := k.connect(ctx, b, p, b.connections)
	if err != nil {
		return err
	}
	err = parallel(len(sockets), dialers, func(i int) error { return sockets[i].echo(content[:echoSize]) })
	closeAll(sockets)
	if err != nil {
		return err
	}
	if _, _, err := k.prepare(b).run(ctx, b, p, func(loop func() error) error { return loop() }); err != nil {
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
