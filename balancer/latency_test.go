package balancer_test

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stretchr/testify/require"
)

// report has the target answer once with that outcome.
func report(t *testing.T, p *balancer.Pool, id string, o balancer.Outcome) {
	l := bound(t, p, id)
	l.Release(o)
}

func TestMember_B2_LatencyIsAMovingPeak(t *testing.T) {
	const ms = time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, balancer.Config{Targets: targets(1)})
		m := member(t, p, "t00")
		near := func(want time.Duration) {
			t.Helper()
			require.InDelta(t, float64(want), float64(m.Latency()), float64(want)/50+1000)
		}
		require.Zero(t, m.Latency(), "nothing is known")
		report(t, p, "t00", balancer.Outcome{})
		report(t, p, "t00", balancer.Outcome{Latency: -ms})
		report(t, p, "t00", balancer.Outcome{Class: balancer.ClientGone, Latency: time.Hour})
		require.Zero(t, m.Latency(), "nothing is learnt from these")

		report(t, p, "t00", balancer.Outcome{Latency: 10 * ms})
		near(10 * ms)
		report(t, p, "t00", balancer.Outcome{Latency: 100 * ms})
		near(100 * ms) // up at once
		report(t, p, "t00", balancer.Outcome{Latency: 10 * ms})
		near(100 * ms) // but not down

		for range 100 { // down with time
			time.Sleep(time.Second)
			report(t, p, "t00", balancer.Outcome{Latency: 10 * ms})
		}
		near(10 * ms)

		report(t, p, "t00", balancer.Outcome{Latency: 100 * ms})
		time.Sleep(10 * time.Second)
		near(36788 * time.Microsecond) // sinks without samples too: it is worth another try
		time.Sleep(10 * time.Minute)
		require.Less(t, m.Latency(), time.Microsecond)
		report(t, p, "t00", balancer.Outcome{Latency: 200 * time.Nanosecond})
		require.Positive(t, m.Latency(), "a latency is never nothing")
	})
}

func TestMember_B2_FailuresCountAsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, balancer.Config{Targets: targets(1)})
		m := member(t, p, "t00")
		fail := balancer.Outcome{Class: balancer.ConnectFailed, Latency: time.Microsecond}
		for _, want := range []int{1, 2, 4, 8, 16, 32, 60, 60} {
			report(t, p, "t00", fail)
			require.Equal(t, time.Duration(want)*time.Second, m.Latency())
		}
		fail.Latency = 2 * time.Minute // it took longer, really
		report(t, p, "t00", fail)
		require.Equal(t, 2*time.Minute, m.Latency())
		p = newPool(t, balancer.Config{Targets: targets(1)})
		report(t, p, "t00", balancer.Outcome{Class: balancer.TLSFailed})
		require.Equal(t, time.Second, p.Members()[0].Latency())
	})
}

// A failure that one client may have caused makes a target look slow only if another client had one
// too. An outcome that shows nothing never does.
func TestMember_B5_LatencyNeedsProof(t *testing.T) {
	tests := []struct {
		name  string
		other netip.Addr
		after time.Duration
		want  time.Duration
	}{
		{"the same client", netip.MustParseAddr("192.0.2.1"), time.Second, 0},
		{"another client", netip.MustParseAddr("192.0.2.2"), time.Second, time.Minute},
		{"an unknown client", netip.Addr{}, time.Second, time.Minute},
		{"another client, later", netip.MustParseAddr("192.0.2.2"), 10 * time.Second, 0},
	}
	for _, o := range []balancer.Outcome{
		{Class: balancer.WriteFailed}, {Class: balancer.HeaderFailed}, {Class: balancer.HeaderTimeout}, {Class: balancer.BodyFailed},
		{Class: balancer.UpgradeFailed}, {Class: balancer.TunnelEarly},
		{Class: balancer.ConnectFailed, Err: os.ErrDeadlineExceeded}, {Class: balancer.TLSFailed, Err: os.ErrDeadlineExceeded},
	} {
		for _, tt := range tests {
			t.Run(o.Class.String()+", "+tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPool(t, balancer.Config{Targets: targets(1)})
					m := member(t, p, "t00")
					o := o
					o.Latency, o.Client = time.Minute, netip.MustParseAddr("192.0.2.1")
					for range 3 {
						report(t, p, "t00", o)
						require.Zero(t, m.Latency())
					}
					time.Sleep(tt.after)
					o.Client = tt.other
					report(t, p, "t00", o)
					require.Equal(t, tt.want, m.Latency())
				})
			})
		}
	}
	for _, o := range []balancer.Outcome{
		{Class: balancer.ClientGone, Latency: 24 * time.Second},
		{Class: balancer.Unjudged, Latency: 24 * time.Second},
		{Class: balancer.ConnectFailed, Latency: time.Minute, Err: &net.OpError{Op: "dial", Err: syscall.EADDRNOTAVAIL}},
	} {
		p := newPool(t, balancer.Config{Targets: targets(1)})
		report(t, p, "t00", o)
		require.Zero(t, p.Members()[0].Latency(), o.Class)
	}
}

// A target that fails at once looks idle. It must not attract all requests.
func TestLatencyTwoChoices_B2_FastFailureDoesNotAttract(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, balancer.Config{Picker: balancer.LatencyTwoChoices{}, Targets: targets(4)})
		got := map[string]int{}
		var busy []balancer.Lease
		for range 5000 {
			l := acquire(t, p, &balancer.Request{})
			id := l.Member().ID()
			got[id]++
			if id == "t02" {
				l.Release(balancer.Outcome{Class: balancer.ConnectFailed, Latency: 100 * time.Microsecond})
			} else if busy = append(busy, l); len(busy) > 12 {
				busy[0].Release(balancer.Outcome{Latency: 20 * time.Millisecond})
				busy = busy[1:]
			}
			time.Sleep(2 * time.Millisecond)
		}
		require.Less(t, got["t02"], 100, "of 5000, all but a dozen or two at first: %v", got)
		require.Positive(t, got["t02"])
		for _, id := range []string{"t00", "t01", "t03"} {
			require.Greater(t, got[id], 1000)
		}
	})
}

// A slow target gets fewer requests, and its whole share again when it is fast again.
func TestLatencyTwoChoices_B2_SlowGetsLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, balancer.Config{Picker: balancer.LatencyTwoChoices{}, Targets: targets(3)})
		share := func(slow time.Duration) float64 {
			got := 0
			for range 3000 {
				l := acquire(t, p, &balancer.Request{})
				latency := 10 * time.Millisecond
				if l.Member().ID() == "t00" {
					got++
					latency = slow
				}
				l.Release(balancer.Outcome{Latency: latency})
				time.Sleep(50 * time.Millisecond)
			}
			return float64(got) / 3000
		}
		require.Less(t, share(200*time.Millisecond), 0.05)
		require.Greater(t, share(10*time.Millisecond), 0.2)
	})
}

// Of two it takes the one with the lower product of latency and what it has to do.
func TestLatencyTwoChoices_B2_Cost(t *testing.T) {
	tests := map[string]struct {
		latency [2]time.Duration
		load    [2]int
		weight  [2]int
		want    string
	}{
		"faster":                         {[2]time.Duration{10e6, 20e6}, [2]int{0, 0}, [2]int{1, 1}, "t00"},
		"faster but busier":              {[2]time.Duration{10e6, 20e6}, [2]int{2, 0}, [2]int{1, 1}, "t01"},
		"faster and busier by less":      {[2]time.Duration{10e6, 50e6}, [2]int{3, 0}, [2]int{1, 1}, "t00"},
		"heavier":                        {[2]time.Duration{10e6, 10e6}, [2]int{1, 1}, [2]int{1, 2}, "t01"},
		"one unknown, so load decides":   {[2]time.Duration{0, 1e6}, [2]int{1, 0}, [2]int{1, 1}, "t01"},
		"other unknown, so load decides": {[2]time.Duration{50e6, 0}, [2]int{0, 1}, [2]int{1, 1}, "t00"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, balancer.Config{Picker: balancer.LatencyTwoChoices{}, Targets: weighted(tt.weight[:]...)})
				for i, m := range p.Members() {
					report(t, p, m.ID(), balancer.Outcome{Latency: tt.latency[i]})
					for range tt.load[i] {
						bound(t, p, m.ID())
					}
				}
				for range 100 {
					require.Equal(t, tt.want, pick(t, p, &balancer.Request{}))
				}
			})
		})
	}
}
