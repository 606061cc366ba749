package balancer_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stretchr/testify/require"
)

// A model tells which targets may serve a request. It implements the pool's rules a second time,
// without an index, a snapshot or atomics.
type model struct {
	zone    string // ours, if picks stay in it
	targets []balancer.Target
	state   map[string]balancer.State
	load    map[string]*[2]int // requests, tunnels
}

func (m *model) target(id string) balancer.Target {
	i := slices.IndexFunc(m.targets, func(t balancer.Target) bool { return t.ID == id })
	return m.targets[i]
}

func kind(tunnel bool) int {
	if tunnel {
		return 1
	}
	return 0
}

func (m *model) full(t balancer.Target, tunnel bool) bool {
	limit := [2]int{t.MaxRequests, t.MaxTunnels}[kind(tunnel)]
	return limit > 0 && m.load[t.ID][kind(tunnel)] >= limit
}

// tier is 0 to 3, or -1 for a target that takes no new sessions.
func (m *model) tier(t balancer.Target) int {
	s := m.state[t.ID]
	if s.Admin != balancer.Ready || s.Health == balancer.Reserved || s.Health == balancer.Unhealthy || !s.EjectedUntil.IsZero() || t.Weight < 0 {
		return -1
	}
	tier := 0
	if s.Health == balancer.HealthUnknown {
		tier++
	}
	if t.Backup {
		tier += 2
	}
	return tier
}

// eligible returns the IDs that may be picked, or the error if there are none.
func (m *model) eligible(tunnel bool, excluded []string) ([]string, error) {
	err := balancer.ErrNoTarget
	for tier := range 4 {
		var all, left []balancer.Target
		for _, t := range m.targets {
			if m.tier(t) == tier {
				all = append(all, t)
				if !slices.Contains(excluded, t.ID) {
					left = append(left, t)
				}
			}
		}
		if len(all) > 0 {
			err = balancer.ErrExcluded
		}
		if len(left) == 0 {
			continue
		}
		var near, far []string
		for _, t := range left {
			if m.full(t, tunnel) {
				continue
			}
			far = append(far, t.ID)
			if t.Zone == m.zone {
				near = append(near, t.ID)
			}
		}
		if m.zone != "" && len(near) > 0 {
			return near, nil
		}
		return far, balancer.ErrFull
	}
	return nil, err
}

// least returns those of the IDs that have the least to do for their weight.
func (m *model) least(ids []string) []string {
	var best []string
	cross := func(a, b string) int { // compares load for weight
		la, lb := m.load[a][0]+m.load[a][1], m.load[b][0]+m.load[b][1]
		return la*m.target(b).Weight - lb*m.target(a).Weight
	}
	for _, id := range ids {
		if len(best) > 0 && cross(id, best[0]) > 0 {
			continue
		}
		if len(best) > 0 && cross(id, best[0]) < 0 {
			best = nil
		}
		best = append(best, id)
	}
	return best
}

// A history applies the same steps to a pool and to a model.
type history struct {
	t      *testing.T
	rand   *rand.Rand
	pool   *balancer.Pool
	model  *model
	leases []balancer.Lease
	check  func(h *history, got string, eligible []string)
}

func newHistory(t *testing.T, source rand.Source, n int, oneZone bool, picker balancer.Picker) *history {
	h := &history{t: t, rand: rand.New(source)}
	h.model = &model{state: map[string]balancer.State{}, load: map[string]*[2]int{}}
	c := balancer.Config{Picker: picker, Zone: "a", OneZone: oneZone}
	if oneZone {
		h.model.zone = "a"
	}
	h.pool = newPool(t, c)
	h.update(n)
	return h
}

func seeded(seed int) rand.Source { return rand.NewPCG(uint64(seed), 1) }

// isLeast checks that least connections is exact.
func isLeast(h *history, got string, eligible []string) {
	require.Contains(h.t, h.model.least(eligible), got)
}

func (h *history) oneIn(n int) bool { return h.rand.IntN(n) == 0 }

// update gives the pool a new set of n targets out of a fixed world of names.
func (h *history) update(n int) {
	var ts []balancer.Target
	for _, i := range h.rand.Perm(n + n/4 + 1)[:n] {
		t := target(fmt.Sprintf("t%02d", i))
		t.Weight = []int{1, 1, 1, 2, 3, -1}[h.rand.IntN(6)]
		t.Zone = []string{"a", "b"}[h.rand.IntN(2)]
		t.Backup = h.oneIn(6)
		if h.oneIn(2) {
			t.MaxRequests, t.MaxTunnels = h.rand.IntN(4), h.rand.IntN(4)
		}
		ts = append(ts, t)
	}
	require.NoError(h.t, h.pool.Update(ts...))
	for _, old := range h.model.targets {
		if !slices.ContainsFunc(ts, func(t balancer.Target) bool { return t.ID == old.ID }) {
			delete(h.model.state, old.ID)
			delete(h.model.load, old.ID)
		}
	}
	for _, t := range ts {
		if h.model.load[t.ID] == nil {
			h.model.load[t.ID] = new([2]int)
		}
	}
	h.model.targets = ts
}

func (h *history) change() {
	if len(h.model.targets) == 0 {
		return
	}
	id := h.model.targets[h.rand.IntN(len(h.model.targets))].ID
	m := member(h.t, h.pool, id)
	s := h.model.state[id]
	switch h.rand.IntN(3) {
	case 0:
		s.Health = balancer.Health(h.rand.IntN(4))
		m.SetHealth(s.Health)
	case 1:
		s.Admin = balancer.Admin(max(0, h.rand.IntN(7)-3))
		m.SetAdmin(s.Admin)
	case 2:
		s.EjectedUntil = time.Time{}
		if h.oneIn(2) {
			s.EjectedUntil = time.Now().Add(time.Hour)
		}
		m.Eject(s.EjectedUntil)
	}
	require.Equal(h.t, s, m.State())
	h.model.state[id] = s
}

func (h *history) acquire() {
	q := &balancer.Request{Tunnel: h.oneIn(3), Key: fmt.Sprint(h.rand.IntN(20)), Client: client(h.rand.IntN(20))}
	var excluded []string
	if h.oneIn(4) {
		for range h.rand.IntN(3) {
			if len(h.model.targets) > 0 {
				id := h.model.targets[h.rand.IntN(len(h.model.targets))].ID
				q.Exclude(member(h.t, h.pool, id))
				excluded = append(excluded, id)
			}
		}
	}
	ids, why := h.model.eligible(q.Tunnel, excluded)
	l, err := h.pool.Acquire(h.t.Context(), q)
	if len(ids) == 0 {
		require.ErrorIs(h.t, err, balancer.ErrNoTarget)
		require.ErrorIs(h.t, err, why)
		return
	}
	require.NoError(h.t, err)
	got := l.Member().ID()
	require.Contains(h.t, ids, got)
	if h.check != nil {
		h.check(h, got, ids)
	}
	h.model.load[got][kind(q.Tunnel)]++
	h.leases = append(h.leases, l)
}

// acquireBound acquires on one target and compares the result with the rules.
func (h *history) acquireBound() {
	if len(h.model.targets) == 0 {
		return
	}
	t := h.model.targets[h.rand.IntN(len(h.model.targets))]
	q := &balancer.Request{Tunnel: h.oneIn(3)}
	l, err := h.pool.AcquireBound(h.t.Context(), t.ID, q)
	require.Equal(h.t, h.model.bound(t, q.Tunnel), err)
	if err == nil {
		h.model.load[t.ID][kind(q.Tunnel)]++
		h.leases = append(h.leases, l)
	}
}

func (m *model) bound(t balancer.Target, tunnel bool) error {
	s := m.state[t.ID]
	switch {
	case s.Admin == balancer.Moving:
		return balancer.ErrMoving
	case s.Admin == balancer.Down, s.Health == balancer.Unhealthy:
		return balancer.ErrDown
	case !s.EjectedUntil.IsZero():
		return balancer.ErrEjected
	case m.full(t, tunnel):
		return balancer.ErrFull
	}
	return nil
}

func (h *history) release() {
	if len(h.leases) == 0 {
		return
	}
	i := h.rand.IntN(len(h.leases))
	l := h.leases[i]
	h.leases = slices.Delete(h.leases, i, i+1)
	m := l.Member()
	tunnels := m.Tunnels()
	l.Release(balancer.Outcome{Latency: time.Duration(h.rand.IntN(50)) * time.Millisecond, Class: balancer.Class(h.rand.IntN(8))})
	if now, ok := h.pool.Member(m.ID()); ok && now == m {
		h.model.load[m.ID()][kind(m.Tunnels() < tunnels)]--
	}
	l.Release(balancer.Outcome{}) // a second time does nothing
}

// live takes random steps. It has periods with more acquires than releases and periods with fewer,
// so that pools become full and empty.
func (h *history) live(steps int) {
	for i := range steps {
		grow := i/50%2 == 0
		switch r := h.rand.IntN(1000); {
		case r < 5:
			h.update(max(0, len(h.model.targets)+h.rand.IntN(3)-1))
		case r < 80:
			h.change()
		case r < 200:
			h.acquireBound()
		case r < 800 == grow:
			h.acquire()
		default:
			h.release()
		}
		if i%20 == 0 {
			h.compare()
		}
	}
	h.compare()
}

// compare checks that the pool counts like the model.
func (h *history) compare() {
	members := h.pool.Members()
	require.Len(h.t, members, len(h.model.targets))
	for i, m := range members {
		require.Equal(h.t, h.model.targets[i], m.Target())
		n := h.model.load[m.ID()]
		require.Equal(h.t, [2]int64{int64(n[0] + n[1]), int64(n[1])}, [2]int64{m.Load(), m.Tunnels()}, m.ID())
	}
}

func client(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
}

// In any history, every picker returns a target that may serve if there is one, and no count is
// lost.
func TestPool_AnyHistory(t *testing.T) {
	each(t, func(t *testing.T, picker balancer.Picker) {
		within(t, time.Minute, func() {
			for seed, n := range []int{1, 2, 3, 8, 40} {
				h := newHistory(t, seeded(seed), n, seed%2 == 1, picker)
				h.live(800)
			}
		})
	})
}

// Least connections is exact: in any history it picks a target that a search of all targets would
// also find. This holds below and above the size from which it keeps an index.
func TestLeastConnections_B1_LikeBruteForce(t *testing.T) {
	for _, n := range []int{1, 2, 5, 6, 7, 20, 70} {
		for _, oneZone := range []bool{false, true} {
			t.Run(fmt.Sprintf("targets=%d/oneZone=%v", n, oneZone), func(t *testing.T) {
				for seed := range 3 {
					h := newHistory(t, seeded(seed), n, oneZone, &balancer.LeastConnections{})
					h.check = isLeast
					h.live(1500)
				}
			})
		}
	}
}

// Of two targets, two choices has to look at both: it never takes the busier one.
func TestTwoChoices_B2_NeverTheBusierOfTwo(t *testing.T) {
	pairs := 0
	for seed := range 40 {
		h := newHistory(t, seeded(seed), 2, false, balancer.TwoChoices{})
		h.check = func(h *history, got string, eligible []string) {
			if len(eligible) == 2 {
				pairs++
				require.Contains(h.t, h.model.least(eligible), got)
			}
		}
		h.live(1500)
	}
	require.Greater(t, pairs, 300)
}

// octets is a random source that returns the octets of a fuzzer first.
type octets struct {
	rest []byte
	then rand.PCG
}

func (o *octets) Uint64() uint64 {
	if len(o.rest) < 8 {
		return o.then.Uint64()
	}
	defer func() { o.rest = o.rest[8:] }()
	return binary.BigEndian.Uint64(o.rest) ^ o.then.Uint64() // never the same for ever
}

// FuzzLeastConnections lives through histories that the fuzzer writes, with an index and
// without.
func FuzzLeastConnections(f *testing.F) {
	for n := range 10 {
		b := make([]byte, 800)
		rand.NewChaCha8([32]byte{byte(n)}).Read(b)
		f.Add(uint8(n), n%2 == 0, b)
	}
	f.Fuzz(func(t *testing.T, n uint8, oneZone bool, b []byte) {
		h := newHistory(t, &octets{rest: b}, int(n%16), oneZone, &balancer.LeastConnections{})
		h.check = isLeast
		h.live(min(len(b)/4, 500))
	})
}
