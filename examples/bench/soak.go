package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

const (
	soakLooks  = 60 // readings of the memory
	soakChurn  = 20 // new sessions a second, TLS and WebSocket in turns
	soakRamp   = 10 // the slope leaves out the first tenth of the time, in which the heap grows to its size
	soakPiece  = time.Second
	soakShares = 4 // a quarter of the highest rate is requests and a quarter is echoes: together half load
)

var errSoaked = errors.New("the time is over")

// A look is the memory of the proxy at one time.
type look struct {
	at  time.Duration // since the beginning
	rss int64         // octets
}

// A soak keeps a proxy at half load.
type soak struct {
	*bench
	proxy *proxy
	rate  int // of requests, and of echoes, a second
	done  [3]atomic.Int64
}

// Counters of a soak.
const (
	soakRequests = iota
	soakEchoes
	soakSessions
)

// runSoak loads the library's proxy for the time of the flags. It prints the memory meanwhile, and
// its growth at the end.
func (b *bench) runSoak(ctx context.Context, out io.Writer) error {
	s := &soak{bench: b, proxy: b.proxies[0]}
	highest, err := perCall(requests(small, b.connections, false))(ctx, b, s.proxy)
	if err != nil {
		return err
	}
	s.rate = max(1, int(highest[1])/soakShares)
	fmt.Fprintf(out, "Highest rate %.0f requests a second. Load for %v: %d requests, %d WebSocket echoes and %d new sessions a second.\n",
		highest[1], b.soak, s.rate, s.rate, soakChurn)

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// A timer and not a deadline of ctx: calls would fail by a deadline a moment before ctx has
	// ended.
	defer time.AfterFunc(b.soak, func() { stop(errSoaked) }).Stop()
	var work sync.WaitGroup
	for _, load := range []func(context.Context) error{s.request, s.talk, s.renew} {
		work.Go(func() {
			if err := load(ctx); err != nil {
				stop(err) // does nothing if err comes from the end of ctx
			}
		})
	}
	looks, err := s.watch(ctx, out)
	if err != nil {
		stop(err)
	}
	work.Wait()
	if cause := context.Cause(ctx); cause != errSoaked {
		return cause
	}
	fmt.Fprintf(out, "\n%d requests, %d echoes, %d sessions, no error\n",
		s.done[soakRequests].Load(), s.done[soakEchoes].Load(), s.done[soakSessions].Load())
	return writeSlope(out, looks, b.soak)
}

// watch reads the memory at intervals until ctx ends.
func (s *soak) watch(ctx context.Context, out io.Writer) (looks []look, err error) {
	began := time.Now()
	tick := time.NewTicker(max(s.soak/soakLooks, time.Second/10))
	defer tick.Stop()
	w := tabwriter.NewWriter(out, 9, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "seconds\tRSS KB\trequests\techoes\tsessions\t")
	for {
		rss, err := residentMemory(s.proxy.pids)
		if err != nil {
			return looks, err
		}
		at := time.Since(began)
		looks = append(looks, look{at, rss})
		fmt.Fprintf(w, "%.1f\t%d\t%d\t%d\t%d\t\n", at.Seconds(), rss/bytesPerKB,
			s.done[soakRequests].Load(), s.done[soakEchoes].Load(), s.done[soakSessions].Load())
		if err := w.Flush(); err != nil {
			return looks, err
		}
		select {
		case <-ctx.Done():
			return looks, nil
		case <-tick.C:
		}
	}
}

// writeSlope prints how fast the memory grew after the ramp.
func writeSlope(out io.Writer, looks []look, total time.Duration) error {
	var minutes, octets []float64
	for _, l := range looks {
		if l.at >= total/soakRamp {
			minutes, octets = append(minutes, l.at.Minutes()), append(octets, float64(l.rss))
		}
	}
	grown := slope(minutes, octets)
	if math.IsNaN(grown) {
		return fmt.Errorf("%v is too short for a slope", total)
	}
	_, err := fmt.Fprintf(out, "RSS slope after the first %v: %.0f bytes a minute (least squares over %d looks)\n",
		total/soakRamp, grown, len(minutes))
	return err
}

// pace lets the clients make calls at the rate until ctx ends, and counts them.
func (s *soak) pace(ctx context.Context, clients []*client, count *atomic.Int64, do func(*client) error) error {
	for _, c := range clients {
		c.extend(s.soak)
	}
	workers := inTurn(s.bench, clients, func(c *client) error {
		defer count.Add(1)
		return do(c)
	})
	for start := time.Now(); ctx.Err() == nil; start = start.Add(soakPiece) {
		if _, err := openLoop(ctx, schedule{start: start, rate: s.rate, n: s.rate, sleep: nap}, workers); err != nil {
			return err
		}
	}
	return nil
}

// request sends sticky requests of all three kinds, most of them small.
func (s *soak) request(ctx context.Context) error {
	clients, err := s.clients(ctx, s.proxy, false, s.connections/2, (*client).begin)
	if err != nil {
		return err
	}
	defer closeAll(clients)
	var turn atomic.Int64
	return s.pace(ctx, clients, &s.done[soakRequests], func(c *client) error {
		switch n := turn.Add(1); {
		case n%100 == 0:
			return c.do(upload)
		case n%50 == 0:
			return c.do(large)
		}
		return c.do(small)
	})
}

// talk sends messages and waits for their echoes.
func (s *soak) talk(ctx context.Context) error {
	clients, err := s.clients(ctx, s.proxy, false, s.connections/2, (*client).upgrade)
	if err != nil {
		return err
	}
	defer closeAll(clients)
	return s.pace(ctx, clients, &s.done[soakEchoes], func(c *client) error { return c.echo(content[:echoSize]) })
}

// renew begins new sessions, each with its own connection.
func (s *soak) renew(ctx context.Context) error {
	tick := time.NewTicker(time.Second / soakChurn)
	defer tick.Stop()
	for i := 0; ; i++ {
		once := newSocket
		if i%2 == 0 {
			once = newTLSSession
		}
		if err := once(ctx, s.bench, s.proxy, session{}); err != nil {
			return err
		}
		s.done[soakSessions].Add(1)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
