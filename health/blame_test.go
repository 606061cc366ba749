package health_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/health/wskey"
)

// A deed is one outcome of a test's traffic.
type deed struct {
	balancer.Outcome
	tunnel bool
}

var (
	errBroke = errors.New("connection reset")

	// deeds has the deed of each letter in a text of traffic. The number of the client follows the
	// letter; 0 is an unknown client.
	deeds = map[byte]deed{
		'.': {answered, false},
		'5': {erred, false},
		'g': {aborted, false},
		'n': {balancer.Outcome{Class: balancer.Unjudged, Err: errBroke}, false},
		'c': {refused, false},
		't': {balancer.Outcome{Class: balancer.TLSFailed}, false},
		'l': {balancer.Outcome{Class: balancer.ConnectFailed, Err: fmt.Errorf("dial: %w", os.ErrDeadlineExceeded)}, false}, // late
		'T': {balancer.Outcome{Class: balancer.TLSFailed, Err: fmt.Errorf("handshake: %w", context.DeadlineExceeded)}, false},
		'w': {balancer.Outcome{Class: balancer.WriteFailed, Err: errBroke}, false},
		'h': {balancer.Outcome{Class: balancer.HeaderFailed, Err: errBroke}, false},
		's': {balancer.Outcome{Class: balancer.HeaderTimeout, Latency: time.Minute}, false}, // slow
		'b': {balancer.Outcome{Class: balancer.BodyFailed, Status: 200, Err: errBroke}, false},
		'o': {balancer.Outcome{Status: 101}, true},
		'd': {balancer.Outcome{Status: 403}, true}, // declined
		'u': {balancer.Outcome{Class: balancer.UpgradeFailed}, true},
		'e': {balancer.Outcome{Class: balancer.TunnelEarly, Status: 101}, true},
		'x': {balancer.Outcome{Class: balancer.HeaderFailed, Err: errBroke}, true},
		'C': {refused, true},
	}
)

// do makes the target take traffic until it is ejected. "h1 h2" is a failed header for client 1,
// and then one for client 2.
func do(t testing.TB, pool *balancer.Pool, id, traffic string) {
	t.Helper()
	for word := range strings.FieldsSeq(traffic) {
		if ejected(t, pool, id) {
			return
		}
		d := deeds[word[0]]
		o := from(int(word[1]-'0'), d.Outcome)
		o.Began = time.Now()
		lease, err := pool.AcquireBound(context.Background(), id, &balancer.Request{Tunnel: d.tunnel})
		require.NoError(t, err)
		lease.Release(o)
	}
}

func times(n int, traffic string) string { return strings.Repeat(traffic+" ", n) }

// No number of failures that one visitor can cause may eject a target. The target's own failures
// must eject it, even if only one client sees them.
func TestPassive_B5_BlameNeedsProof(t *testing.T) {
	tests := []struct {
		name    string
		traffic string
		want    bool
	}{
		{"refused connections count always", times(5, "c1"), true},
		{"and those of upgrades", times(5, "C1"), true},
		{"and TLS", times(5, "t1"), true},
		{"connections not made in time, one client", times(200, "l1"), false},
		{"nor handshakes", times(200, "T1"), false},
		{"connections not made in time, two clients", "l1 l2 T1 l1 l1", true},
		{"headers, one client", times(200, "h1"), false},
		{"headers, unknown clients", times(200, "h0"), false},
		{"timeouts, one client", times(20, "s1"), false},
		{"timeouts among answers, one client", times(200, "s1 .2"), false},
		{"bodies, one client", times(200, "b1"), false},
		{"writes, one client", times(200, "w1"), false},
		{"all kinds, one client", times(100, "w1 h1 s1 b1"), false},
		{"requests that teach nothing", times(200, "n1 n2 g1 g2"), false},
		{"headers, two clients", "h1 h1 h1 h1 h2", true},
		{"headers, a known and an unknown client", "h1 h0 h1 h1 h1", true},
		{"timeouts, two clients", "s1 s2 s1 s2 s1", true},
		{"writes and bodies, two clients", "w1 b2 w1 b2 w1", true},
		{"four of two clients", "h1 h2 h1 h2", false},
		{"more than enough of one, then another", times(20, "h1") + "h2", true},
		{"the other one's came before a success", "h2 .3 " + times(17, "h1"), false},
		{"some of the target's own among one client's", "c1 h1 h1 h1 c1 h1 h1 h1", false},
		{"what the target alone is to blame for is enough", "c1 h1 c1 h1 c1 h1 c1 h1 c1", true},

		{"half of twenty, one client", times(20, "h1 .2"), false},
		{"half of twenty, two clients", times(10, "h1 .2 h3 .2"), true},
		{"the target's own half", times(20, "c1 .2"), true},
		{"the target's own, less than half", times(20, "c1 h1 .2 .2"), false},

		{"upgrades, plain requests do well", ".1 " + times(200, "u1"), false},
		{"upgrades of many, plain requests do well", times(50, "u1 u2 u3 .1"), false},
		{"upgrades answered by a reset, plain requests do well", ".1 " + times(200, "x1"), false},
		{"tunnels that end early, plain requests do well", ".1 " + times(200, "e1"), false},
		{"upgrades of two, no plain request since", ".1 u1 u2 u1 u2 u1", true},
		{"upgrades alone", times(5, "u1"), true},
		{"resets alone", times(5, "x1"), true},
		{"early ends alone", times(5, "e1"), true},
		{"upgrades alone, of which some succeed", times(20, "u1 o2"), true}, // half of the upgrades succeed
		{"upgrades alone, of which most succeed", times(20, "u1 o2 o2"), false},
		{"upgrades that are declined", times(200, "d1"), false},
		{"a declined upgrade is an answer", times(20, "u1 u1 d1 d1 d1"), false},
		{"upgrades do not add to requests", "h1 h2 h1 h2 u1 u2 u1 u2", false},
		{"nor requests to upgrades", "u1 u2 u1 u2 h1 h2 h1 h2", false},
		{"a tunnel that was opened since ends a row of requests", "h1 h2 h1 h2 o1 h1 h2 h1 h2", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool, _ := passively(t, nil)
				for word := range strings.FieldsSeq(tt.traffic) {
					time.Sleep(time.Millisecond)
					do(t, pool, "a", word)
				}
				require.Equal(t, tt.want, ejected(t, pool, "a"))
			})
		})
	}
}

// An IPv6 client can use any number of addresses.
func TestPassive_B5_WhatIsOneClient(t *testing.T) {
	tests := []struct {
		name, a, b string
		want       bool
	}{
		{"two addresses of IPv4", "192.0.2.1", "192.0.2.2", true},
		{"one, mapped", "192.0.2.1", "::ffff:192.0.2.1", false},
		{"a /64", "2001:db8:0:1::1", "2001:db8:0:1:ffff::2", false},
		{"two /64", "2001:db8:0:1::1", "2001:db8:0:2::1", true},
		{"two zones", "fe80::1%a", "fe80::1%b", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pool, _ := passively(t, nil)
			for i := range 10 {
				if !ejected(t, pool, "a") {
					finish(t, pool, "a", balancer.Outcome{Class: balancer.HeaderFailed,
						Client: netip.MustParseAddr([]string{tt.a, tt.b}[i%2])})
				}
			}
			require.Equal(t, tt.want, ejected(t, pool, "a"))
		})
	}
}

// The failure of the other client must also be in the window.
func TestPassive_B5_RatioNeedsTwoClientsInTheWindow(t *testing.T) {
	for _, apart := range []time.Duration{5 * time.Second, 11 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			pool, _ := passively(t, nil)
			do(t, pool, "a", "h2")
			time.Sleep(apart)
			do(t, pool, "a", times(20, "h1 .3"))
			require.Equal(t, apart < 10*time.Second, ejected(t, pool, "a"))
		})
	}
}

// checked runs a registry whose check of "a" fails while sick does, and returns how often it ran.
func checked(t *testing.T, r *health.Registry) (pool *balancer.Pool, sick *atomic.Bool, probes *atomic.Int64) {
	t.Helper()
	sick, probes = new(atomic.Bool), new(atomic.Int64)
	pool = newPool(t, target("a"), target("b"), target("c"), target("d"))
	r.Pool = pool
	r.Check = health.Func(func(_ context.Context, tg balancer.Target) error {
		if tg.ID != "a" {
			return nil
		}
		probes.Add(1)
		time.Sleep(time.Millisecond) // on the bubble's clock: it does not end before the test waits
		if sick.Load() {
			return errSick
		}
		return nil
	})
	run(t, r)
	require.NoError(t, r.Ready(t.Context()))
	synctest.Wait()
	return pool, sick, probes
}

// If all clients are behind one address, a failing check is the proof. The check is requested as
// soon as a proof is needed.
func TestPassive_B5_AFailingCheckIsProof(t *testing.T) {
	for _, traffic := range []string{times(5, "h1"), times(5, "s0"), times(5, "l1"), times(5, "b1"), times(5, "w1"), ".1 " + times(5, "u1")} {
		t.Run(traffic, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &health.Registry{Interval: time.Minute}
				pool, sick, probes := checked(t, r)
				do(t, pool, "b", traffic)
				time.Sleep(10 * time.Second)
				sick.Store(true)
				before := probes.Load()
				do(t, pool, "a", traffic)
				require.False(t, ejected(t, pool, "a"))
				time.Sleep(time.Second)
				synctest.Wait()
				require.True(t, ejected(t, pool, "a"), "at once, not a minute later")
				require.Equal(t, before+1, probes.Load())
				require.False(t, ejected(t, pool, "b"), "its check passes")
				require.Contains(t, r.Status().Targets[0].Passive.Reason, "a check failed too: sick")
				require.Equal(t, balancer.Healthy, member(t, pool, "a").State().Health, "one check is no fall")
			})
		})
	}
	t.Run("it failed before", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			pool, sick, _ := checked(t, &health.Registry{Interval: time.Minute, Fall: 100})
			sick.Store(true)
			time.Sleep(3 * time.Minute)
			synctest.Wait()
			do(t, pool, "a", times(4, "h1"))
			require.False(t, ejected(t, pool, "a"))
			do(t, pool, "a", "h1")
			require.True(t, ejected(t, pool, "a"))
		})
	})
}

// A check that passes clears the target, for as long as the visitor continues. The visitor can
// cause at most one check a second. The regular checks keep their times.
func TestPassive_B5_APassingCheckAcquits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, _, probes := checked(t, &health.Registry{Interval: 10 * time.Second, Jitter: -1})
		time.Sleep(time.Minute)
		synctest.Wait()
		before := probes.Load()
		for range 1000 {
			do(t, pool, "a", "h1")
			time.Sleep(10 * time.Millisecond)
		}
		require.False(t, ejected(t, pool, "a"))
		require.InDelta(t, 10, probes.Load()-before, 2)
		do(t, pool, "a", ".2")
		time.Sleep(2 * time.Second)
		before = probes.Load()
		time.Sleep(time.Minute)
		synctest.Wait()
		require.InDelta(t, 6, probes.Load()-before, 1)
	})
}

// A request that succeeds ends the suspicion.
func TestPassive_B5_ASuccessEndsTheSuspicion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, sick, _ := checked(t, &health.Registry{Interval: time.Minute})
		sick.Store(true)
		do(t, pool, "a", times(5, "h1")+".2")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.False(t, ejected(t, pool, "a"))
	})
}

// A probe that was under way during the failures cannot clear the target, but can prove the
// failures.
func TestPassive_B5_AProbeUnderWay(t *testing.T) {
	for _, first := range []error{nil, errSick} {
		for _, second := range []error{nil, errSick} {
			synctest.Test(t, func(t *testing.T) {
				pool := newPool(t, target("a"), target("b"))
				results := make(chan error)
				r := &health.Registry{Pool: pool, Interval: time.Hour, Timeout: time.Minute, Check: health.Func(
					func(_ context.Context, tg balancer.Target) error {
						if tg.ID != "a" {
							return nil
						}
						return <-results
					})}
				run(t, r)
				synctest.Wait()
				member(t, pool, "a").SetHealth(balancer.Healthy)
				time.Sleep(time.Millisecond)
				do(t, pool, "a", times(5, "h1"))
				time.Sleep(10 * time.Second)
				results <- first
				synctest.Wait()
				require.Equal(t, first != nil, ejected(t, pool, "a"))
				results <- second // for the early probe
				synctest.Wait()
				require.Equal(t, first != nil || second != nil, ejected(t, pool, "a"))
			})
		}
	}
}

// On trial, a failure that needs proof ejects the target only with that proof.
func TestPassive_B5_TrialNeedsProof(t *testing.T) {
	tests := []struct {
		name    string
		traffic string
		sick    bool
		want    bool
	}{
		{"the target's own failure", "c1", false, true},
		{"one client", times(4, "h1"), false, false},
		{"two clients", "h1 h2", false, true},
		{"one client and a check", "h1", true, true},
		{"what teaches nothing does not end it", "n1 g1 c1", false, true},
		{"one client's does not end it", "h1 c1", false, true},
		{"a success does", "h1 .1 c1 c1 c1 c1", false, false},
		{"a declined upgrade does", "d1 c1 c1 c1 c1", false, false},
		{"an upgrade of one client", ".1 u1", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool, sick, _ := checked(t, &health.Registry{Interval: time.Hour})
				do(t, pool, "a", times(5, "c1"))
				require.True(t, ejected(t, pool, "a"))
				time.Sleep(31 * time.Second)
				synctest.Wait()
				sick.Store(tt.sick)
				do(t, pool, "a", tt.traffic)
				time.Sleep(time.Second)
				synctest.Wait()
				require.Equal(t, tt.want, ejected(t, pool, "a"))
			})
		})
	}
	t.Run("upgrades alone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			pool, _ := passively(t, nil)
			do(t, pool, "a", times(5, "u1"))
			time.Sleep(31 * time.Second)
			synctest.Wait()
			do(t, pool, "a", "u1")
			require.True(t, ejected(t, pool, "a"))
		})
	})
}

// The end of a tunnel or of a long answer that began before the ejection decides nothing after it.
func TestPassive_B5_WhatBeganBeforeDecidesNothing(t *testing.T) {
	for _, o := range []balancer.Outcome{{Class: balancer.OK}, {Class: balancer.ConnectFailed}} {
		synctest.Test(t, func(t *testing.T) {
			pool, _ := passively(t, nil)
			began := time.Now()
			do(t, pool, "a", times(5, "c1"))
			time.Sleep(31 * time.Second)
			synctest.Wait()
			o.Began = began
			finish(t, pool, "a", o)
			require.False(t, ejected(t, pool, "a"))
			do(t, pool, "a", "c1")
			require.True(t, ejected(t, pool, "a"), "still on trial")
		})
	}
}

// A tunnel that was opened before the failures ends well when its client leaves. That shows nothing
// about the target's present state.
func TestPassive_B5_OldTunnelsAreNoSignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, _ := passively(t, nil)
		began := time.Now()
		time.Sleep(time.Hour)
		for range 5 {
			do(t, pool, "a", "c1")
			lease, err := pool.AcquireBound(t.Context(), "a", &balancer.Request{Tunnel: true})
			if err != nil {
				break
			}
			lease.Release(balancer.Outcome{Status: 101, Began: began})
		}
		require.True(t, ejected(t, pool, "a"))
	})
}

// A failure that the hook reports needs proof if a client may have caused it. An outcome that the
// hook does not report as a failure does not count.
func TestPassive_B5_OwnFailed(t *testing.T) {
	status := func(o balancer.Outcome) bool { return o.Class != balancer.OK || o.Status >= 500 }
	never := func(balancer.Outcome) bool { return false }
	tests := []struct {
		name    string
		failed  func(balancer.Outcome) bool
		traffic string
		want    bool
	}{
		{"500, one client", status, times(20, "51"), false},
		{"500, two clients", status, "51 52 51 52 51", true},
		{"never", never, times(20, "c1"), false},
		{"teaches nothing", func(o balancer.Outcome) bool { return o.Class != balancer.HeaderFailed && status(o) }, "c1 c1 h1 c1 c1 h1 c1", true},
		{"what is not judged is not asked about", func(o balancer.Outcome) bool {
			if o.Class == balancer.ClientGone || o.Class == balancer.Unjudged {
				panic("asked")
			}
			return true
		}, times(20, "g1 n1"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool, _ := passively(t, &health.Passive{Failed: tt.failed})
				do(t, pool, "a", tt.traffic)
				require.Equal(t, tt.want, ejected(t, pool, "a"))
			})
		})
	}
}

// A visitor sends 20 requests at once to a page that is slower than the header's limit, again and
// again, while others use the target.
func TestPassive_B5_OneSlowPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, sick, _ := checked(t, &health.Registry{})
		for range 5 {
			var slow []balancer.Lease
			for range 20 {
				slow = append(slow, acquire(t, pool, "a"))
			}
			for range 12 {
				time.Sleep(5 * time.Second)
				do(t, pool, "a", ".2 .3")
			}
			for i := range slow {
				slow[i].Release(from(1, balancer.Outcome{Class: balancer.HeaderTimeout, Latency: time.Minute}))
			}
			time.Sleep(time.Second)
			synctest.Wait()
			require.False(t, ejected(t, pool, "a"))
		}
		sick.Store(true)
		do(t, pool, "a", times(5, "s1"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.True(t, ejected(t, pool, "a"), "when the whole target is slow")
	})
}

// serveChecks is a DialFunc whose target answers each request as answer says.
func serveChecks(answer string) health.DialFunc {
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			r, err := http.ReadRequest(bufio.NewReader(server))
			if err != nil {
				return
			}
			fmt.Fprintf(server, answer, wskey.Accept(r.Header.Get("Sec-WebSocket-Key")))
		}()
		return client, nil
	}
}

// A check that gets a page or opens a WebSocket counts like a request that succeeded.
func TestPassive_B5_ChecksOfRequestsSpeakForUpgrades(t *testing.T) {
	page := serveChecks("HTTP/1.1 200 OK\r\nX: %.0s\r\nContent-Length: 0\r\n\r\n")
	socket := serveChecks("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n")
	for name, check := range map[string]health.Check{
		"HTTP": health.HTTP{Dial: page}, "*HTTP": &health.HTTP{Dial: page},
		"WebSocket": health.WebSocket{Dial: socket}, "*WebSocket": &health.WebSocket{Dial: socket},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool := newPool(t, target("a"), target("b"))
				r := &health.Registry{Pool: pool, Check: check}
				run(t, r)
				require.NoError(t, r.Ready(t.Context()))
				require.Equal(t, balancer.Healthy, member(t, pool, "a").State().Health, r.Status().Targets[0].Check.Error)
				for range 200 {
					do(t, pool, "a", "u1 e1 x1")
					time.Sleep(100 * time.Millisecond)
				}
				require.False(t, ejected(t, pool, "a"))
				do(t, pool, "a", times(3, "u1 u2"))
				require.True(t, ejected(t, pool, "a"), "two clients, since the last check")
			})
		})
	}
}

// The caller's code may panic on goroutines of the registry. The stack is logged, and the registry
// continues.
func TestRegistry_PanicsAreContained(t *testing.T) {
	var log lines
	pool := newPool(t, target("a"), target("b"))
	r := &health.Registry{
		Pool: pool, Interval: time.Millisecond, Fall: 1, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Check: health.Func(func(_ context.Context, tg balancer.Target) error {
			if tg.ID == "b" {
				panic("the check's own")
			}
			return nil
		}),
		Passive: &health.Passive{Failed: func(balancer.Outcome) bool { panic("the hook's own") }},
	}
	run(t, r)
	require.NoError(t, r.Ready(t.Context()))
	require.Equal(t, balancer.Healthy, member(t, pool, "a").State().Health)
	require.Equal(t, balancer.Unhealthy, member(t, pool, "b").State().Health)
	require.Equal(t, "the check has panicked: the check's own", r.Status().Targets[1].Check.Error)
	finish(t, pool, "a", answered)
	require.False(t, ejected(t, pool, "a"))
	for range 5 {
		finish(t, pool, "a", refused)
	}
	require.Zero(t, r.Status().Targets[0].Passive.Ejections, "the last that serves")
	require.Equal(t, int64(1), r.Status().Targets[0].Passive.Refused, "as without the hook")
	require.Contains(t, log.String(), "the check's own")
	require.Contains(t, log.String(), "the hook's own")
	require.Contains(t, log.String(), "blame_test.go")
}

// If a logger panics, only the line is lost.
func TestRegistry_ALoggerThatPanics(t *testing.T) {
	pool := newPool(t, target("a"))
	r := &health.Registry{Pool: pool, Interval: -1, Logger: slog.New(panicking{})}
	run(t, r)
	require.NoError(t, r.Ready(t.Context()))
	for range 10 {
		member(t, pool, "a").SetAdmin(balancer.Draining)
		member(t, pool, "a").SetAdmin(balancer.Ready)
	}
	require.True(t, r.Status().Running)
}

type panicking struct{ slog.Handler }

func (panicking) Enabled(context.Context, slog.Level) bool  { return true }
func (panicking) Handle(context.Context, slog.Record) error { panic("the logger's own") }

// lines is a log that may be read while it is written to.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
