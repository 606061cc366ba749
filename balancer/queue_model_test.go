package balancer_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
)

// A seeker is a request of a small world: bound to one target or for any that it does not exclude.
type seeker struct {
	bound    string
	excluded []string
	tunnel   bool
}

func (s seeker) String() string {
	return fmt.Sprintf("{bound %q, excluded %q, tunnel %v}", s.bound, s.excluded, s.tunnel)
}

// A fate is what became of a seeker.
type fate struct {
	on  string // the target that serves it
	err error
}

// A waitingModel is the model of a pool with a queue. After each event it tries to serve all
// waiting requests: first the bound ones, then the others, both in the order in which they came.
type waitingModel struct {
	model
	seekers []seeker
	fates   []*fate // nil: it waits
}

func (w *waitingModel) settle() {
	for _, bound := range []bool{true, false} {
		for i, s := range w.seekers {
			if w.fates[i] == nil && (s.bound != "") == bound {
				w.fates[i] = w.try(s)
			}
		}
	}
}

func (w *waitingModel) try(s seeker) *fate {
	on, err := w.choose(s)
	switch {
	case err == nil:
		w.load[on][kind(s.tunnel)]++
		return &fate{on: on}
	case err == balancer.ErrFull:
		return nil
	}
	return &fate{err: err}
}

func (w *waitingModel) choose(s seeker) (string, error) {
	if s.bound != "" {
		if w.load[s.bound] == nil {
			return "", balancer.ErrUnknown
		}
		return s.bound, w.bound(w.target(s.bound), s.tunnel)
	}
	ids, err := w.eligible(s.tunnel, s.excluded)
	if len(ids) > 0 {
		return ids[0], nil // as the picker First does
	}
	return "", err
}

// A smallWorld is a pool and its model, with all places taken at first.
type smallWorld struct {
	t       *testing.T
	what    string
	ctx     context.Context
	pool    *balancer.Pool
	model   waitingModel
	held    map[string]*[2]balancer.Lease
	members map[string]*balancer.Member // members that a seeker may exclude, including those that have left
	fates   []*fate                     // written by the seekers' goroutines; never grown
}

// The kinds of targets in small worlds.
const (
	plain  = 'h' // healthy
	unsure = 'u' // of unknown health
	backup = 'b'
)

func newSmallWorld(t *testing.T, ctx context.Context, kinds string) *smallWorld {
	w := &smallWorld{t: t, ctx: ctx, held: map[string]*[2]balancer.Lease{}, members: map[string]*balancer.Member{}}
	w.fates = make([]*fate, 8)
	w.pool = newPool(t, balancer.Config{Picker: balancer.First{}, Queue: 10})
	w.model.state, w.model.load = map[string]balancer.State{}, map[string]*[2]int{}
	for i, k := range kinds {
		w.join(string(rune('a'+i)), k)
	}
	for _, tg := range w.model.targets {
		w.held[tg.ID] = new([2]balancer.Lease)
		for i, tunnel := range []bool{false, true} {
			l, err := w.pool.AcquireBound(ctx, tg.ID, &balancer.Request{Tunnel: tunnel})
			require.NoError(t, err)
			w.held[tg.ID][i] = l
			w.model.load[tg.ID][i]++
		}
	}
	return w
}

func (w *smallWorld) join(id string, k rune) {
	tg := target(id)
	tg.Weight, tg.MaxRequests, tg.MaxTunnels, tg.Backup = 1, 1, 1, k == backup
	w.model.targets = append(w.model.targets, tg)
	w.model.load[id] = new([2]int)
	require.NoError(w.t, w.pool.Update(w.model.targets...))
	m := member(w.t, w.pool, id)
	w.members[id] = m
	if k != unsure {
		// A target that joins has unknown health at first, and waiting requests may have got it
		// already.
		w.settle()
		s := w.model.state[id]
		s.Health = balancer.Healthy
		w.model.state[id] = s
		m.SetHealth(balancer.Healthy)
	}
}

// seek makes one more request.
func (w *smallWorld) seek(s seeker) {
	q := &balancer.Request{Tunnel: s.tunnel}
	for _, id := range s.excluded {
		q.Exclude(w.members[id])
	}
	i := len(w.model.fates)
	w.model.seekers, w.model.fates = append(w.model.seekers, s), append(w.model.fates, nil)
	go func() {
		var f fate
		var l balancer.Lease
		if s.bound != "" {
			l, f.err = w.pool.AcquireBound(w.ctx, s.bound, q)
		} else {
			l, f.err = w.pool.Acquire(w.ctx, q)
		}
		if f.err == nil {
			f.on = l.Member().ID()
		}
		w.fates[i] = &f
	}()
	w.settle()
}

// happen makes an event happen to a target.
func (w *smallWorld) happen(event string) {
	what, id, _ := strings.Cut(event, " ")
	at := slices.IndexFunc(w.model.targets, func(t balancer.Target) bool { return t.ID == id })
	switch what {
	case "join":
		w.join("x", rune(id[0]))
	case "release", "end":
		i := kind(what == "end")
		if l := &w.held[id][i]; l.Member() != nil {
			l.Release(balancer.Outcome{})
			if at >= 0 {
				w.model.load[id][i]--
			}
		}
	case "toggle":
		if at >= 0 {
			s := w.model.state[id]
			s.Admin = balancer.Down - s.Admin
			w.model.state[id] = s
			member(w.t, w.pool, id).SetAdmin(s.Admin)
		}
	case "raise":
		if at >= 0 {
			w.model.targets[at].MaxRequests++
			w.model.targets[at].MaxTunnels++
			require.NoError(w.t, w.pool.Update(w.model.targets...))
		}
	case "leave":
		if at >= 0 {
			w.model.targets = slices.Delete(slices.Clone(w.model.targets), at, at+1)
			delete(w.model.load, id)
			delete(w.model.state, id)
			require.NoError(w.t, w.pool.Update(w.model.targets...))
		}
	}
	w.settle()
}

// settle waits until all goroutines are blocked, and compares the fates with those of the model.
func (w *smallWorld) settle() {
	w.model.settle()
	synctest.Wait()
	for i, want := range w.model.fates {
		got := w.fates[i]
		if same(got, want) {
			continue
		}
		w.t.Fatalf("%s: request %d %v: got %v, want %v", w.what, i, w.model.seekers[i], got, want)
	}
	for id, n := range w.model.load {
		m, _ := w.pool.Member(id)
		if m == nil || m.Load() != int64(n[0]+n[1]) || m.Tunnels() != int64(n[1]) {
			w.t.Fatalf("%s: the load of %s is not %v", w.what, id, n)
		}
	}
}

func same(got, want *fate) bool {
	if got == nil || want == nil {
		return got == want
	}
	if want.err == nil {
		return got.err == nil && got.on == want.on
	}
	// The model knows a more exact reason than the pool returns when it has no target.
	return got.err != nil && (strings.Contains(got.err.Error(), want.err.Error()) ||
		strings.Contains(got.err.Error(), balancer.ErrNoTarget.Error()) && want.err == balancer.ErrExcluded)
}

// tuples calls f with each list of n indices below size.
func tuples(size, n int, f func([]int)) {
	list := make([]int, n)
	var fill func(int)
	fill = func(at int) {
		if at == n {
			f(list)
			return
		}
		for i := range size {
			list[at] = i
			fill(at + 1)
		}
	}
	fill(0)
}

// seekersOf returns every kind of request for n targets.
func seekersOf(n int, tunnel bool) (all []seeker) {
	for set := range 1 << n {
		var s seeker
		for i := range n {
			if set&(1<<i) != 0 {
				s.excluded = append(s.excluded, string(rune('a'+i)))
			}
		}
		all = append(all, s)
	}
	for i := range n {
		all = append(all, seeker{bound: string(rune('a' + i))})
	}
	for i := range all {
		all[i].tunnel = tunnel
	}
	return all
}

func eventsOf(n int, tunnels bool) []string {
	all := []string{"join h", "join u", "join b"}
	for i := range n {
		id := string(rune('a' + i))
		all = append(all, "release "+id, "toggle "+id, "raise "+id, "leave "+id)
		if tunnels {
			all = append(all, "end "+id)
		}
	}
	return all
}

// Every small pool, with every short list of waiting requests and of events, serves the same
// requests as the model. No request waits that could be served.
func TestQueue_B4_LikeAnObviousModel(t *testing.T) {
	sizes := []struct {
		targets, waiters, events int
		kinds                    string
		both                     bool // requests and tunnels mixed
	}{
		{1, 4, 1, "hb", false},
		{1, 2, 2, "hb", true},
		{2, 2, 2, "hb", false},
		{2, 3, 1, "hb", false},
		{2, 2, 1, "hub", true},
		{3, 2, 1, "hb", false},
	}
	for _, size := range sizes {
		t.Run(fmt.Sprintf("%+v", size), func(t *testing.T) {
			t.Parallel()
			seekers := seekersOf(size.targets, false)
			if size.both {
				seekers = append(seekers, seekersOf(size.targets, true)...)
			}
			events := eventsOf(size.targets, size.both)
			synctest.Test(t, func(t *testing.T) {
				worlds := 0
				tuples(len(size.kinds), size.targets, func(kinds []int) {
					tuples(len(seekers), size.waiters, func(waiting []int) {
						tuples(len(events), size.events, func(happening []int) {
							worlds++
							liveThrough(t, size.kinds, kinds, seekers, waiting, events, happening)
						})
					})
				})
				t.Log(worlds, "worlds")
			})
		})
	}
}

func liveThrough(t *testing.T, letters string, kinds []int, seekers []seeker, waiting []int, events []string, happening []int) {
	ctx, cancel := context.WithCancel(t.Context())
	var set strings.Builder
	for _, k := range kinds {
		set.WriteByte(letters[k])
	}
	w := newSmallWorld(t, ctx, set.String())
	w.what = fmt.Sprint(set.String(), " ", waiting, " ", happening)
	for _, i := range waiting {
		w.seek(seekers[i])
	}
	for _, i := range happening {
		if e := events[i]; !strings.HasPrefix(e, "join") || w.members["x"] == nil {
			w.happen(e)
		}
	}
	cancel()
	synctest.Wait()
}

// The first request in the queue may not use the tier that gets room, and the next one may.
func TestQueue_S18_TheFirstIsNotInTheWay(t *testing.T) {
	for name, room := range map[string]func(p *balancer.Pool, ts []balancer.Target){
		"a backup joins": func(p *balancer.Pool, ts []balancer.Target) {
			late := target("late")
			late.Backup = true
			require.NoError(t, p.Update(append(ts, late)...))
		},
		"the backup's limit is raised": func(p *balancer.Pool, ts []balancer.Target) {
			ts[1].MaxRequests = 2
			require.NoError(t, p.Update(ts...))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ts := limited(2)
				ts[1].Backup = true
				p := newPool(t, balancer.Config{Targets: ts, Queue: 10})
				c := newCrowd(t, p)
				places := fill(t, p)
				c.anyone(1)
				c.anyone(2)
				var q balancer.Request
				q.Exclude(member(t, p, "t00"))
				c.wait(3, t.Context(), "", &q)
				c.anyone(4)
				room(p, ts)
				c.requireServed(3)
				places["t00"].Release(balancer.Outcome{})
				c.requireServed(1)
			})
		})
	}
}
