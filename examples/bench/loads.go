package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// A load prepares clients of a proxy. It returns the workers that use them, for a closed loop, and
// a function that closes them. That function returns an error if an answer is missing or wrong.
type load func(ctx context.Context, b *bench, p *proxy) (workers []func() error, end func() error, err error)

// run runs a load in a closed loop, and calls around once, which must call its argument. It returns
// the number of calls and the duration.
func (l load) run(ctx context.Context, b *bench, p *proxy, around func(loop func() error) error) (n int, took time.Duration, err error) {
	workers, end, err := l(ctx, b, p)
	if err != nil {
		return 0, 0, err
	}
	err = around(func() (err error) {
		began := time.Now()
		n, err = closedLoop(ctx, b.slot, workers)
		took = time.Since(began)
		return err
	})
	return n, took, errors.Join(err, end())
}

// perCall measures the CPU time of a call, in microseconds, and the calls per second.
func perCall(l load) measurement {
	return func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
		var used time.Duration
		n, took, err := l.run(ctx, b, p, func(loop func() error) error {
			before, err := cpuTime(p.pids)
			if err != nil {
				return err
			}
			if err := loop(); err != nil {
				return err
			}
			after, err := cpuTime(p.pids)
			used = after - before
			return err
		})
		if err != nil {
			return nil, err
		}
		return []float64{used.Seconds() * 1e6 / float64(n), float64(n) / took.Seconds()}, nil
	}
}

// clients opens n connections and calls ready for each.
func (b *bench) clients(ctx context.Context, p *proxy, secure bool, n int, ready func(*client) error) ([]*client, error) {
	return openAll(b, n, func() (*client, error) { return b.dial(ctx, p, secure) }, ready)
}

// A connection is a [client] or an [h2Client].
type connection interface {
	extend(time.Duration)
	close()
}

// A connectionType is a type of connection whose zero value means none.
type connectionType interface {
	comparable
	connection
}

// openAll opens n connections, several at the same time, and calls ready for each. After an error
// it closes all.
func openAll[C connectionType](b *bench, n int, open func() (C, error), ready func(C) error) ([]C, error) {
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

func closeAll[C connectionType](all []C) {
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
	select {
	case late := <-failed:
		if err == nil {
			err = late
		}
	default:
	}
	return err // the first one; others are often its consequences
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
func inTurn[C connectionType](b *bench, clients []C, do func(C) error) []func() error {
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

// closing returns the end of a load with these clients.
func closing[C connectionType](clients []C) func() error {
	return func() error {
		closeAll(clients)
		return nil
	}
}

// requests makes sticky requests over HTTP/1.1, on that number of connections.
func requests(e exchange, connections int, secure bool) load {
	return func(ctx context.Context, b *bench, p *proxy) ([]func() error, func() error, error) {
		clients, err := b.clients(ctx, p, secure, connections, func(c *client) error {
			return inOrder(c.begin, func() error { return c.do(e) })
		})
		return inTurn(b, clients, func(c *client) error { return c.do(e) }), closing(clients), err
	}
}

// multiplexed makes sticky requests over HTTP/2, on that number of connections with that number of
// requests at the same time on each. Each connection has requests under way when the loop begins,
// and as many when it ends.
func multiplexed(e exchange, connections, streams int) load {
	return func(ctx context.Context, b *bench, p *proxy) ([]func() error, func() error, error) {
		open := func() (*h2Client, error) { return dialHTTP2(ctx, p.listenTLS, b.tls2, streams) }
		clients, err := openAll(b, connections, open, func(c *h2Client) error {
			return inOrder(c.begin, func() error { return c.do(e) })
		})
		end := func() (err error) {
			for _, c := range clients {
				err = errors.Join(err, c.finish())
			}
			closeAll(clients)
			return err
		}
		return inTurn(b, clients, func(c *h2Client) error { return c.do(e) }), end, err
	}
}

// echoes sends small messages over that number of WebSockets.
func echoes(connections int) load {
	return func(ctx context.Context, b *bench, p *proxy) ([]func() error, func() error, error) {
		message := content[:echoSize]
		clients, err := b.clients(ctx, p, false, connections, func(c *client) error {
			return inOrder(c.upgrade, func() error { return c.echo(message) })
		})
		return inTurn(b, clients, func(c *client) error { return c.echo(message) }), closing(clients), err
	}
}

// bulk measures large messages in both directions at the same time. The value is in CPU seconds per
// GB (10^9 octets) of payload.
func bulk(size int) measurement {
	message := content[:size]
	l := func(ctx context.Context, b *bench, p *proxy) ([]func() error, func() error, error) {
		clients, err := b.clients(ctx, p, false, bulkConns, (*client).upgrade)
		return inTurn(b, clients, func(c *client) error { return c.sendBulk(message) }), closing(clients), err
	}
	return func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
		values, err := perCall(l)(ctx, b, p)
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

// churn makes short connections.
func churn(once maker) load {
	return func(ctx context.Context, b *bench, p *proxy) ([]func() error, func() error, error) {
		c, err := b.clients(ctx, p, false, 1, (*client).begin)
		if err != nil {
			return nil, nil, err
		}
		workers := slices.Repeat([]func() error{func() error { return once(ctx, b, p, c[0].session) }}, churners)
		return workers, closing(c), nil
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
