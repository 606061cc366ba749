package health_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// A listModel has the expected state of a pool that discovery, operators and clients change at
// random.
type listModel struct {
	t        *testing.T
	pool     *balancer.Pool
	registry *health.Registry
	drains   context.Context // of the operators
	draining sync.WaitGroup

	listed   map[string]bool             // IDs, by the last list
	wanted   map[string]balancer.Admin   // the states that operators have set by hand; absent: ready
	drained  map[string]bool             // by operators, and not made ready since
	members  map[string]*balancer.Member // as they were seen last
	override map[string]bool             // made ready by an operator since the last list
	leases   []balancer.Lease

	mu   sync.Mutex
	gone map[*balancer.Member]time.Time
}

const modelIDs = "abcd"

// Released implements [balancer.Observer].
func (w *listModel) Released(*balancer.Member, balancer.Outcome) {}

// Changed implements [balancer.Observer].
func (w *listModel) Changed(m *balancer.Member, _ balancer.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.gone[m]; m.Removed() && !known {
		w.gone[m] = time.Now()
	}
}

// replace calls Replace with the IDs in set and the endpoints in moves.
func (w *listModel) replace(set, moves byte, d health.Drain) {
	clear(w.listed)
	clear(w.override)
	var word strings.Builder
	for i, c := range modelIDs {
		if set>>i&1 == 1 {
			word.WriteString(string(c))
			w.listed[string(c)] = true
			if moves>>i&1 == 1 {
				word.WriteString("2")
			}
		}
	}
	before := w.members
	require.NoError(w.t, w.registry.Replace(targetsOf(word.String()), d))
	w.members = map[string]*balancer.Member{}
	for id := range w.listed {
		m := member(w.t, w.pool, id)
		w.members[id] = m
		old := before[id]
		if old != nil && old != m && w.forgets(old, m) {
			delete(w.wanted, id)
			delete(w.drained, id)
		}
		switch now := m.State().Admin; {
		case w.drained[id]:
			require.NotEqual(w.t, balancer.Ready, now, "an operator has drained %s", id)
		default:
			require.Equal(w.t, w.wanted[id], now, "an operator wants it of %s", id)
		}
	}
	for id, m := range before {
		if w.members[id] == nil {
			w.members[id] = m
		}
	}
}

// forgets reports whether the successor of a member does not keep its administrative state.
func (w *listModel) forgets(old, now *balancer.Member) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return old.Target().URL.Host != now.Target().URL.Host || time.Since(w.gone[old]) > 5*time.Minute
}

// set sets a state, as an operator does by hand.
func (w *listModel) set(id string, a balancer.Admin) {
	m, ok := w.pool.Member(id)
	if !ok || m.State().Admin == a {
		return // it changes nothing
	}
	m.SetAdmin(a)
	if a == balancer.Ready {
		delete(w.drained, id)
		w.override[id] = true
	}
	if !w.drained[id] {
		w.wanted[id] = a
	}
}

// drain drains a target, as an operator does.
func (w *listModel) drain(id string, d health.Drain) {
	_, ok := w.pool.Member(id)
	result := make(chan error, 1)
	w.draining.Go(func() { result <- w.registry.Drain(w.drains, id, d) })
	synctest.Wait()
	select {
	case err := <-result:
		ok = ok && !errors.Is(err, health.ErrDraining)
	default:
	}
	if ok {
		w.drained[id] = true
	}
}

// check checks the conditions that must always hold.
func (w *listModel) check() {
	synctest.Wait()
	loads := map[*balancer.Member]int64{}
	for i := range w.leases {
		loads[w.leases[i].Member()]++
	}
	for _, m := range w.pool.Members() {
		require.Equal(w.t, loads[m], m.Load())
		delete(loads, m)
		if m.State().Admin == balancer.Ready {
			require.True(w.t, w.listed[m.ID()] || w.override[m.ID()], "%s is missing and ready", m.ID())
		}
	}
	leaving := w.pool.Leaving()
	require.Len(w.t, leaving, len(loads), "whoever has leases and is not in the set is leaving")
	for _, m := range leaving {
		require.Equal(w.t, loads[m], m.Load())
	}
	require.Len(w.t, w.registry.Status().Leaving, len(leaving))
}

func (w *listModel) step(op, arg byte) {
	d := health.Drain{Grace: []time.Duration{-1, time.Second, time.Minute}[arg>>4%3], Limit: time.Duration(arg&1) * 2 * time.Minute}
	id := string(modelIDs[int(arg>>2)%len(modelIDs)])
	switch op % 8 {
	case 0, 1:
		w.replace(arg&15, 0, d)
	case 2:
		w.replace(arg&15, arg>>4, d)
	case 3:
		w.set(id, balancer.Admin(arg&3))
	case 4:
		w.drain(id, d)
	case 5:
		if lease, err := w.pool.AcquireBound(w.t.Context(), id, &balancer.Request{Tunnel: arg&1 == 1}); err == nil {
			w.leases = append(w.leases, lease)
		}
	case 6:
		if n := len(w.leases); n > 0 {
			i := int(arg) % n
			w.leases[i].Release(answered)
			w.leases = append(w.leases[:i], w.leases[i+1:]...)
		}
	case 7:
		time.Sleep([]time.Duration{50 * time.Millisecond, time.Second, 30 * time.Second, 3 * time.Minute, 6 * time.Minute}[int(arg)%5])
	}
}

// end replaces the list a last time and releases all leases. It checks that only the targets of
// that list are left.
func (w *listModel) end(cancel func()) {
	cancel()
	w.draining.Wait()
	w.replace(0b0110, 0, health.Drain{Grace: time.Minute})
	w.check()
	for i := range w.leases {
		w.leases[i].Release(answered)
	}
	w.leases = nil
	ctx, stop := context.WithTimeout(w.t.Context(), 6*time.Minute)
	defer stop()
	require.NoError(w.t, w.registry.Settled(ctx))
	w.check()
	var ids strings.Builder
	for _, m := range w.pool.Members() {
		ids.WriteString(m.ID())
	}
	require.Equal(w.t, "bc", ids.String())
	for _, t := range w.registry.Status().Targets {
		require.Zero(w.t, t.Drain)
	}
	require.Zero(w.t, goroutinesOf("Registry).retire"))
}

func playList(t *testing.T, ops []byte) {
	synctest.Test(t, func(t *testing.T) {
		pool := newPool(t, targetsOf(modelIDs)...)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := &listModel{
			t: t, pool: pool, registry: unprobed(pool), drains: ctx,
			listed: map[string]bool{}, wanted: map[string]balancer.Admin{}, drained: map[string]bool{},
			members: map[string]*balancer.Member{}, override: map[string]bool{}, gone: map[*balancer.Member]time.Time{},
		}
		defer pool.Observe(w)()
		stop := start(t, w.registry)
		defer stop()
		synctest.Wait()
		w.replace(15, 0, health.Drain{})
		for i := 0; i+1 < len(ops); i += 2 {
			w.step(ops[i], ops[i+1])
			w.check()
		}
		w.end(cancel)
		stop()
	})
}

// Discovery, operators and clients act in any order. The last list decides about the targets, no
// state of an operator is undone, and no member with leases is forgotten.
func TestReplace_S22_Model(t *testing.T) {
	for seed := range uint64(100) {
		random := rand.New(rand.NewPCG(seed, 16))
		ops := make([]byte, 2*(1+random.IntN(40)))
		for i := range ops {
			ops[i] = byte(random.Uint32())
		}
		if !t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { playList(t, ops) }) {
			return
		}
	}
}

func FuzzReplace(f *testing.F) {
	f.Add([]byte{0, 0b1110, 7, 3, 0, 0b1111})
	f.Add([]byte{5, 0, 0, 0b1110, 4, 0, 7, 2, 0, 0b1111, 3, 0})
	f.Add([]byte{3, 3, 0, 0b1110, 7, 0, 0, 0b1111, 2, 0b0001_1111})
	f.Fuzz(func(t *testing.T, ops []byte) { playList(t, ops[:min(len(ops), 100)]) })
}
