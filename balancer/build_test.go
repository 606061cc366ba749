package balancer_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stretchr/testify/require"
)

// A slowIndexer is a picker whose Rebuild goes on only when the test says so.
type slowIndexer struct {
	balancer.Picker
	rebuilds atomic.Int64
	entered  chan *balancer.Snapshot // sent to when a held Rebuild begins
	held     atomic.Bool
	goOn     chan struct{} // received from by a held Rebuild
	exit     atomic.Bool   // the next held Rebuild ends its goroutine
}

func newSlowIndexer(p balancer.Picker) *slowIndexer {
	return &slowIndexer{
		Picker: p, entered: make(chan *balancer.Snapshot, 1000), goOn: make(chan struct{}),
	}
}

func (p *slowIndexer) Rebuild(s *balancer.Snapshot) {
	p.rebuilds.Add(1)
	if p.held.Load() {
		p.entered <- s
		<-p.goOn
		if p.exit.Swap(false) {
			runtime.Goexit()
		}
	}
	if x, ok := p.Picker.(balancer.Indexer); ok {
		x.Rebuild(s)
	}
}

func (p *slowIndexer) Loaded(m *balancer.Member, load int64) {
	if x, ok := p.Picker.(balancer.Indexer); ok {
		x.Loaded(m, load)
	}
}

// hold calls change on a new goroutine and returns when its Rebuild is held. The function release
// lets Rebuild continue, and waits until change returns.
func (p *slowIndexer) hold(change func()) (release func()) {
	p.held.Store(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		change()
	}()
	<-p.entered
	p.held.Store(false)
	return func() {
		p.goOn <- struct{}{}
		<-done
	}
}

// With every picker, picks continue while Rebuild runs, and return members that serve.
func TestPool_B2_NoPickWaitsForRebuild(t *testing.T) {
	each(t, func(t *testing.T, picker balancer.Picker) {
		slow := newSlowIndexer(picker)
		p := newPool(t, balancer.Config{Picker: slow, Targets: targets(20)})
		release := slow.hold(func() { require.NoError(t, p.Update(targets(30)[5:]...)) })
		defer release()
		for i := range 1000 {
			q := &balancer.Request{Key: fmt.Sprint(i), Client: client(i), Tunnel: i%2 == 0}
			id := pick(t, p, q)
			require.GreaterOrEqual(t, id, "t05", "those that left are gone at once")
			require.Less(t, id, "t20", "those that came are not known yet")
		}
	})
}

// While Rebuild is held up, hash pickers send each key where it went before, except for those whose
// target is gone.
func TestHash_B2_OldTableServesMeanwhile(t *testing.T) {
	for name, make := range hashPickers {
		t.Run(name, func(t *testing.T) {
			slow := newSlowIndexer(make())
			p := newPool(t, balancer.Config{Picker: slow, Targets: targets(10)})
			before := placement(t, p, 2000)
			all := targets(11)
			release := slow.hold(func() { require.NoError(t, p.Update(slices.Concat(all[:3], all[4:])...)) })
			others, own := moved(before, placement(t, p, 2000), "t03")
			release()
			require.Zero(t, others)
			require.NotZero(t, own)
			fresh := newPool(t, balancer.Config{Picker: make(), Targets: slices.Concat(all[:3], all[4:])})
			require.Equal(t, placement(t, fresh, 2000), placement(t, p, 2000))
		})
	}
}

// takeOut are the ways to take a member out of service.
var takeOut = map[string]func(t *testing.T, p *balancer.Pool, m *balancer.Member){
	"unhealthy": func(_ *testing.T, _ *balancer.Pool, m *balancer.Member) { m.SetHealth(balancer.Unhealthy) },
	"reserved":  func(_ *testing.T, _ *balancer.Pool, m *balancer.Member) { m.SetHealth(balancer.Reserved) },
	"draining":  func(_ *testing.T, _ *balancer.Pool, m *balancer.Member) { m.SetAdmin(balancer.Draining) },
	"moving":    func(_ *testing.T, _ *balancer.Pool, m *balancer.Member) { m.SetAdmin(balancer.Moving) },
	"down":      func(_ *testing.T, _ *balancer.Pool, m *balancer.Member) { m.SetAdmin(balancer.Down) },
	"ejected": func(_ *testing.T, _ *balancer.Pool, m *balancer.Member) {
		m.Eject(time.Now().Add(time.Hour))
	},
	"removed": func(_ *testing.T, p *balancer.Pool, m *balancer.Member) { p.Remove(m) },
	"weight below zero": func(t *testing.T, p *balancer.Pool, m *balancer.Member) {
		var ts []balancer.Target
		for _, other := range p.Members() {
			target := other.Target()
			if other == m {
				target.Weight = -1
			}
			ts = append(ts, target)
		}
		require.NoError(t, p.Update(ts...))
	},
}

// A member is taken out of service while another goroutine is in Rebuild. It is not picked after
// that call has returned. The call does not wait for ever.
func TestPool_B6_TakenOutWhileRebuilding(t *testing.T) {
	for how, out := range takeOut {
		t.Run(how, func(t *testing.T) {
			each(t, func(t *testing.T, picker balancer.Picker) {
				synctest.Test(t, func(t *testing.T) {
					slow := newSlowIndexer(picker)
					p := newPool(t, balancer.Config{Picker: slow, Targets: targets(9)})
					pick(t, p, &balancer.Request{})
					release := slow.hold(func() { member(t, p, "t08").SetHealth(balancer.Unhealthy) })
					for _, id := range []string{"t00", "t03", "t07"} {
						out(t, p, member(t, p, id))
						for i := range 60 {
							got := pick(t, p, &balancer.Request{Key: fmt.Sprint(i), Client: client(i)})
							require.NotEqual(t, id, got)
							require.NotEqual(t, "t08", got)
						}
					}
					release()
					got := keys(picks(t, p, 600))
					require.Subset(t, []string{"t01", "t02", "t04", "t05", "t06"}, got)
				})
			})
		})
	}
}

// When all members of the published snapshot are gone, a pick finds newer members without a wait
// for Rebuild.
func TestPool_B6_NobodyLeftWhileRebuilding(t *testing.T) {
	each(t, func(t *testing.T, picker balancer.Picker) {
		synctest.Test(t, func(t *testing.T) {
			slow := newSlowIndexer(picker)
			ts := targets(12)
			for i := range ts[8:] {
				ts[8+i].Backup = true
			}
			p := newPool(t, balancer.Config{Picker: slow, Targets: ts})
			member(t, p, "t07").SetAdmin(balancer.Down)
			release := slow.hold(func() { member(t, p, "t00").SetHealth(balancer.Unhealthy) })
			for i := range 6 {
				member(t, p, fmt.Sprintf("t%02d", i+1)).SetAdmin(balancer.Draining)
			}
			require.GreaterOrEqual(t, pick(t, p, &balancer.Request{Client: client(1)}), "t08", "backups are in the snapshot")
			member(t, p, "t07").SetAdmin(balancer.Ready)
			for i := range 4 {
				member(t, p, fmt.Sprintf("t%02d", i+8)).SetAdmin(balancer.Down)
			}
			require.Equal(t, "t07", pick(t, p, &balancer.Request{Client: client(1)}))
			require.NoError(t, p.Update(target("new")))
			require.Equal(t, "new", pick(t, p, &balancer.Request{Client: client(1)}))
			require.NoError(t, p.Update())
			_, err := p.Acquire(t.Context(), &balancer.Request{})
			require.Equal(t, balancer.ErrNoTarget, err)
			require.NoError(t, p.Update(target("newer")))
			release()
			require.Equal(t, "newer", pick(t, p, &balancer.Request{Client: client(1)}))
		})
	})
}

// A panic mode that begins while Rebuild is held has its effect at once.
func TestPool_PanicBeginsWhileRebuilding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := newSlowIndexer(&balancer.LeastConnections{})
		p := newPool(t, balancer.Config{Picker: slow, Targets: targets(8), Panic: balancer.PanicOpen})
		release := slow.hold(func() { member(t, p, "t00").SetHealth(balancer.Unhealthy) })
		for _, m := range p.Members() {
			m.SetHealth(balancer.Unhealthy)
		}
		require.Equal(t, balancer.PanicOpen, p.Panicking())
		require.Len(t, picks(t, p, 400), 8)
		release()
		require.Len(t, picks(t, p, 400), 8)
	})
}

// All changes that come during one Rebuild are published together by one more, and their callers do
// not wait long.
func TestIndexer_B2_ChangesMeanwhileComeTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := newSlowIndexer(&balancer.Maglev{})
		p := newPool(t, balancer.Config{Picker: slow, Targets: targets(20)})
		n := slow.rebuilds.Load()
		release := slow.hold(func() { require.NoError(t, p.Update(targets(21)...)) })
		began := time.Now()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				m := member(t, p, fmt.Sprintf("t%02d", i%20))
				m.SetHealth(balancer.Health(i % 4))
				m.SetAdmin(balancer.Admin(i / 4 % 4))
				m.Eject(time.Now().Add(time.Duration(i%3) * time.Hour))
				require.NoError(t, m.SetShare(float64(i%3)/2))
				require.NoError(t, p.Update(targets(21+i%3)...))
			})
		}
		wg.Wait()
		require.LessOrEqual(t, time.Since(began), 100*time.Millisecond)
		require.Equal(t, n+1, slow.rebuilds.Load())
		release()
		require.Equal(t, n+2, slow.rebuilds.Load())
		require.Equal(t, readyIDs(p), keys(picks(t, p, 20_000)))
	})
}

// readyIDs returns the IDs of the members that take new sessions, sorted. There are no backups.
func readyIDs(p *balancer.Pool) (ids []string) {
	for _, healthy := range []balancer.Health{balancer.Healthy, balancer.HealthUnknown} {
		for _, m := range p.Members() {
			if s := m.State(); s.Admin == balancer.Ready && s.Health == healthy && s.EjectedUntil.IsZero() {
				ids = append(ids, m.ID())
			}
		}
		if len(ids) > 0 {
			break
		}
	}
	slices.Sort(ids)
	return ids
}

// Two changes that wait for a Rebuild return when the next Rebuild has published both.
func TestPool_B3_ChangeIsKnownWhenItsCallReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := newSlowIndexer(&balancer.RoundRobin{})
		p := newPool(t, balancer.Config{Picker: slow, Targets: targets(3)})
		n := slow.rebuilds.Load()
		release := slow.hold(func() { member(t, p, "t00").SetHealth(balancer.Healthy) })
		var wg sync.WaitGroup
		var turns sync.Mutex
		for _, id := range []string{"t01", "t02"} {
			wg.Go(func() {
				member(t, p, id).SetHealth(balancer.Healthy)
				turns.Lock()
				defer turns.Unlock()
				require.Contains(t, picks(t, p, 3), id)
			})
		}
		synctest.Wait() // both wait
		release()
		wg.Wait()
		require.Equal(t, n+2, slow.rebuilds.Load())
		require.Len(t, picks(t, p, 3), 3)
	})
}

// An observer is told of a change once picks know it, and in the order of the changes.
func TestObserver_ChangedComesAfterPublication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events log
		slow := newSlowIndexer(&balancer.RoundRobin{})
		p := newPool(t, balancer.Config{Picker: slow, Targets: targets(3)})
		p.Observe(&events)
		release := slow.hold(func() { member(t, p, "t02").SetHealth(balancer.Healthy) })
		require.Empty(t, events.take())
		go member(t, p, "t01").SetHealth(balancer.Healthy)
		synctest.Wait()
		require.Empty(t, events.take())
		release()
		synctest.Wait()
		require.Equal(t, []string{"t02 healthy ready", "t01 healthy ready"}, events.take())

		release = slow.hold(func() { member(t, p, "t02").SetAdmin(balancer.Down) })
		time.Sleep(time.Hour)
		require.Empty(t, events.take())
		member(t, p, "t01").SetAdmin(balancer.Down) // the call stops waiting for Rebuild
		require.Equal(t, []string{"t02 healthy down", "t01 healthy down"}, events.take())
		release()
		require.Empty(t, events.take())
	})
}

// A Rebuild that panics is logged, and the pool goes on, without the index.
func TestIndexer_PanicOfRebuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text strings.Builder
		picker := &brokenIndexer{}
		p := newPool(t, balancer.Config{
			Picker: picker, Targets: targets(8), Logger: slog.New(slog.NewTextHandler(&text, nil)),
		})
		require.Equal(t, 1, strings.Count(text.String(), "Indexer.Rebuild has panicked"))
		require.Len(t, picks(t, p, 500), 8)
		member(t, p, "t03").Eject(time.Now().Add(time.Minute))
		require.NotContains(t, picks(t, p, 500), "t03")
		time.Sleep(time.Hour) // the timer's goroutine
		require.Len(t, picks(t, p, 500), 8)
		require.Equal(t, 3, strings.Count(text.String(), "Indexer.Rebuild has panicked"))
	})
}

type brokenIndexer struct{ balancer.LeastConnections }

func (*brokenIndexer) Rebuild(*balancer.Snapshot) { panic("no index today") }

// A Rebuild that ends its goroutine leaves a pool that works.
func TestIndexer_GoexitInRebuild(t *testing.T) {
	picker := &leaver{}
	p := newPool(t, balancer.Config{Picker: picker, Targets: targets(3)})
	picker.leave.Store(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Remove(member(t, p, "t01"))
	}()
	<-done
	picker.leave.Store(false)
	require.Equal(t, []string{"t00", "t02"}, keys(picks(t, p, 100)))
	require.NoError(t, p.Update(targets(4)...))
	require.Len(t, picks(t, p, 400), 4)
}

type leaver struct {
	balancer.LeastConnections
	leave atomic.Bool
}

func (p *leaver) Rebuild(*balancer.Snapshot) {
	if p.leave.Load() {
		runtime.Goexit()
	}
}

// A Rebuild may call the pool, and even change it.
func TestIndexer_RebuildCallsThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		picker := &caller{}
		p := newPool(t, balancer.Config{Picker: picker, Targets: targets(3)})
		picker.call = func() {
			picker.call = nil
			require.Len(t, p.Members(), 3)
			member(t, p, "t01").SetHealth(balancer.Unhealthy)
			require.NotEqual(t, "t01", pick(t, p, &balancer.Request{}))
		}
		member(t, p, "t00").SetHealth(balancer.Unhealthy)
		require.Equal(t, []string{"t02"}, keys(picks(t, p, 10)))
	})
}

type caller struct {
	balancer.LeastConnections
	call func()
}

func (p *caller) Rebuild(*balancer.Snapshot) {
	if p.call != nil {
		p.call()
	}
}

// Rebuild may also call the pool while New runs, on any goroutine. The first snapshot is not
// published yet, so picks do without an index.
func TestNew_RebuildCallsThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events log
		picker := &firstCaller{}
		picker.call = func(s *balancer.Snapshot) {
			picker.call = nil
			m := s.Members()[0]
			p := m.Pool()
			p.Observe(&events)
			done := make(chan struct{})
			go func() {
				defer close(done)
				require.Equal(t, balancer.PanicOff, p.Panicking())
				require.Equal(t, []string{"t00", "t01", "t02"}, keys(picks(t, p, 100)))
				m.SetHealth(balancer.Unhealthy)
				require.Equal(t, []string{"t01", "t02"}, keys(picks(t, p, 100)))
				require.NoError(t, p.Update(targets(4)...))
				require.Equal(t, []string{"t01", "t02", "t03"}, keys(picks(t, p, 100)))
			}()
			<-done
		}
		p := newPool(t, balancer.Config{Picker: picker, Targets: targets(3)})
		require.Nil(t, picker.call)
		require.Equal(t, []string{"t01", "t02", "t03"}, keys(picks(t, p, 100)))
		require.Contains(t, events.take(), "t00 unhealthy ready")
	})
}

type firstCaller struct {
	balancer.LeastConnections
	call func(*balancer.Snapshot)
}

func (p *firstCaller) Rebuild(s *balancer.Snapshot) {
	if p.call != nil {
		p.call(s)
	}
	p.LeastConnections.Rebuild(s)
}

// A Rebuild ends its goroutine. Other changes came meanwhile, and their callers have not waited.
// The pool's timer publishes them.
func TestIndexer_GoexitInRebuildAfterOtherChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events log
		slow := newSlowIndexer(&balancer.LeastConnections{})
		p := newPool(t, balancer.Config{Picker: slow, Targets: targets(3)})
		p.Observe(&events)
		slow.held.Store(true)
		go member(t, p, "t00").SetAdmin(balancer.Down)
		<-slow.entered
		slow.held.Store(false)
		require.NoError(t, p.Update(targets(4)...)) // the call stops waiting for Rebuild
		events.take()
		slow.exit.Store(true)
		slow.goOn <- struct{}{}
		time.Sleep(time.Second)
		require.Equal(t, []string{"t01", "t02", "t03"}, keys(picks(t, p, 100)))
		slow.exit.Store(true)
		go func() {
			slow.held.Store(true)
			member(t, p, "t01").SetAdmin(balancer.Down)
		}()
		<-slow.entered
		slow.held.Store(false)
		slow.goOn <- struct{}{}
		time.Sleep(time.Second)
		require.Equal(t, []string{"t01 unknown down"}, events.take())
	})
}

// New calls Rebuild, so that the first pick does not have to. It does so for an empty set too.
func TestNew_B2_RebuildsBeforeTheFirstPick(t *testing.T) {
	for _, n := range []int{0, 1, 10} {
		var picker spy
		p := newPool(t, balancer.Config{Picker: &picker, Targets: targets(n)})
		require.Len(t, picker.rebuilt(), 1)
		require.Len(t, picker.rebuilt()[0].Members(), n)
		_, _ = p.Acquire(t.Context(), &balancer.Request{})
		require.Len(t, picker.rebuilt(), 1)
	}
}

// A great many changes before the first pick cost some snapshots, not as many as there are
// changes, and the pick knows them all. A change of the set is never left to the pick.
func TestPool_ChangesWithoutPicksComeTogether(t *testing.T) {
	var picker spy
	var events log
	p := newPool(t, balancer.Config{Picker: &picker, Targets: targets(1000)})
	p.Observe(&events)
	for _, m := range p.Members()[1:] {
		m.SetHealth(balancer.Unhealthy)
	}
	require.Less(t, len(picker.rebuilt()), 100)
	require.Len(t, events.take(), 999)
	require.Equal(t, balancer.PanicOff, p.Panicking())
	require.Equal(t, "t00", pick(t, p, &balancer.Request{}))

	for _, m := range p.Members()[1:] {
		m.SetHealth(balancer.Healthy)
	}
	n := len(picker.rebuilt())
	require.NoError(t, p.Update(targets(999)...))
	require.Len(t, picker.rebuilt(), n+1)
	require.Len(t, picker.rebuilt()[n].Members(), 998)
	pick(t, p, &balancer.Request{})
	require.Len(t, picker.rebuilt(), n+1)
}

// A goroutine whose change is published does not build the changes of others for ever.
func TestPool_NobodyIsHeldByTheChangesOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := newSlowIndexer(&balancer.LeastConnections{})
		p := newPool(t, balancer.Config{Picker: slow, Targets: targets(8)})
		slow.held.Store(true)
		done := make(chan struct{})
		go func() {
			defer close(done)
			member(t, p, "t00").SetHealth(balancer.Unhealthy)
		}()
		m := member(t, p, "t01")
		for i := range 101 { // each Rebuild takes longer than a caller waits
			<-slow.entered
			m.SetHealth(balancer.Health(1 - i%2))
			slow.goOn <- struct{}{}
		}
		<-done
		<-slow.entered
		slow.held.Store(false)
		slow.goOn <- struct{}{}
		time.Sleep(time.Second)
		require.Equal(t, "t01", pick(t, p, &balancer.Request{}), "the only one that is healthy")
	})
}

// A picker that two pools share, against the contract, gives each pool members of its own.
func TestPicker_SharedByTwoPools(t *testing.T) {
	for name, make := range everyPicker {
		t.Run(name, func(t *testing.T) {
			picker := make()
			a := newPool(t, balancer.Config{Picker: picker, Targets: targets(10)})
			b := newPool(t, balancer.Config{Picker: picker, Targets: targets(20)[10:]})
			var wg sync.WaitGroup
			for _, p := range []*balancer.Pool{a, b} {
				wg.Go(func() {
					for i := range 200 {
						p.Members()[i%5].SetAdmin(balancer.Admin(i / 5 % 2))
						l := acquire(t, p, &balancer.Request{Client: client(i)})
						own, ok := p.Member(l.Member().ID())
						require.True(t, ok && own == l.Member())
						l.Release(balancer.Outcome{})
					}
				})
			}
			wg.Wait()
		})
	}
}

// Many goroutines change members, each its own. After a goroutine has taken its member out, its own
// picks do not return the member. When all changes are over, keys go to the same targets as in a
// new pool with the same states.
func TestPool_B6_FlappingFromManyGoroutines(t *testing.T) {
	const flappers, extra = 6, 10
	all := targets(flappers + extra)
	for name, make := range everyPicker {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, balancer.Config{Picker: make(), Targets: all[:flappers+1]})
			var picking, changing sync.WaitGroup
			var stop atomic.Bool
			for i := range 2 {
				picking.Go(func() {
					for n := i; !stop.Load(); n++ {
						q := &balancer.Request{Key: fmt.Sprint(n), Client: client(n), Tunnel: n%3 == 0}
						if l, err := p.Acquire(t.Context(), q); err == nil {
							l.Release(balancer.Outcome{})
						}
						runtime.Gosched() // or each change waits for all time slices, where processors are few
					}
				})
			}
			for i := range flappers {
				changing.Go(func() { flap(t, p, all[i].ID, uint64(i)) })
			}
			changing.Go(func() { // the last one of the first set stays
				for i := range 20 {
					require.NoError(t, p.Update(all[:flappers+1+i%extra]...))
				}
			})
			changing.Wait()
			stop.Store(true)
			picking.Wait()
			requireLikeNew(t, p, make())
		})
	}
}

// flap puts a member into service and takes it out, several times.
func flap(t *testing.T, p *balancer.Pool, id string, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 2))
	for n := range 150 {
		m := member(t, p, id)
		switch r.IntN(3) {
		case 0:
			m.SetHealth(balancer.Health(r.IntN(4)))
		case 1:
			m.SetAdmin(balancer.Admin(r.IntN(4)))
		case 2:
			m.Eject(time.Now().Add(time.Duration(r.IntN(2)) * time.Hour))
		}
		s := m.State()
		out := s.Admin != balancer.Ready || s.Health > balancer.Healthy || !s.EjectedUntil.IsZero()
		for i := range 5 {
			l, err := p.Acquire(t.Context(), &balancer.Request{Key: fmt.Sprint(n, i), Client: client(n + i)})
			if err != nil {
				continue
			}
			if out && l.Member() == m {
				t.Errorf("%s is %v and was picked", id, s)
			}
			l.Release(balancer.Outcome{})
		}
	}
}

// requireLikeNew checks that the pool serves, and hashes, like a new one with the same targets
// and states.
func requireLikeNew(t *testing.T, p *balancer.Pool, picker balancer.Picker) {
	t.Helper()
	var ts []balancer.Target
	for _, m := range p.Members() {
		ts = append(ts, m.Target())
	}
	fresh := newPool(t, balancer.Config{Picker: picker, Targets: ts})
	for _, m := range p.Members() {
		s := m.State()
		other := member(t, fresh, m.ID())
		other.SetHealth(s.Health)
		other.SetAdmin(s.Admin)
		other.Eject(s.EjectedUntil)
	}
	require.Equal(t, keys(picks(t, fresh, 2000)), keys(picks(t, p, 2000)))
	switch picker.(type) {
	case *balancer.Rendezvous, *balancer.Maglev, *balancer.SourceAddress:
		require.Equal(t, placement(t, fresh, 2000), placement(t, p, 2000))
	}
}

// Queued requests get no place on a member that was taken out while Rebuild is held up.
func TestQueue_B4_NoPlaceOnOneTakenOutWhileRebuilding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := newSlowIndexer(&balancer.LeastConnections{})
		ts := targets(2)
		ts[0].MaxRequests, ts[1].MaxRequests = 1, 1
		p := newPool(t, balancer.Config{Picker: slow, Targets: ts, Queue: 10})
		a, b := bound(t, p, "t00"), bound(t, p, "t01")
		got := make(chan string, 1)
		go func() { got <- pick(t, p, &balancer.Request{}) }()
		synctest.Wait()
		release := slow.hold(func() { require.NoError(t, member(t, p, "t01").SetShare(0.5)) })
		member(t, p, "t00").SetAdmin(balancer.Draining)
		a.Release(balancer.Outcome{})
		synctest.Wait()
		require.Empty(t, got)
		require.Zero(t, member(t, p, "t00").Load())
		release()
		b.Release(balancer.Outcome{})
		require.Equal(t, "t01", <-got)
	})
}

// A target that came while Rebuild is held up serves those who wait in the queue: when it comes and
// whenever it has a place again.
func TestQueue_B4_PlacesOnOneThatCameWhileRebuilding(t *testing.T) {
	for how, come := range map[string]func(p *balancer.Pool, ts []balancer.Target){
		"joined":    func(p *balancer.Pool, ts []balancer.Target) { require.NoError(t, p.Update(ts...)) },
		"came back": func(p *balancer.Pool, _ []balancer.Target) { member(t, p, "t02").SetAdmin(balancer.Ready) },
	} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				slow := newSlowIndexer(&balancer.LeastConnections{})
				ts := targets(3)
				for i := range ts {
					ts[i].MaxRequests = 1
				}
				p := newPool(t, balancer.Config{Picker: slow, Targets: ts, Queue: 10})
				if how == "joined" {
					require.NoError(t, p.Update(ts[:2]...))
				} else {
					member(t, p, "t02").SetAdmin(balancer.Down)
				}
				bound(t, p, "t00")
				bound(t, p, "t01")
				got := make(chan balancer.Lease, 10)
				for range 5 {
					go func() { got <- acquire(t, p, &balancer.Request{}) }()
				}
				synctest.Wait()
				release := slow.hold(func() { require.NoError(t, member(t, p, "t01").SetShare(0.5)) })
				come(p, ts)
				for i := range 5 {
					synctest.Wait()
					require.Len(t, got, 1, "waiter %d", i)
					l := <-got
					require.Equal(t, "t02", l.Member().ID())
					l.Release(balancer.Outcome{})
				}
				require.Zero(t, p.Waiting())
				release()
			})
		})
	}
}

// The memory of removed targets is released, tables included.
func TestMaglev_B2_FreesWhatOldTargetsUsed(t *testing.T) {
	p := newPool(t, balancer.Config{Picker: &balancer.Maglev{MaxLoad: 1.25}, Targets: targets(3000)})
	var gone atomic.Int64
	for _, m := range p.Members()[10:] {
		runtime.AddCleanup(m, func(struct{}) { gone.Add(1) }, struct{}{})
	}
	picks(t, p, 10)
	require.NoError(t, p.Update(targets(10)...))
	picks(t, p, 10)
	require.Eventually(t, func() bool {
		runtime.GC()
		return gone.Load() == 2990
	}, 30*time.Second, time.Millisecond)
	runtime.KeepAlive(p)
}
