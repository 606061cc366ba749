package balancer_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stretchr/testify/require"
)

func setShare(t testing.TB, p *balancer.Pool, id string, part float64) {
	t.Helper()
	require.NoError(t, member(t, p, id).SetShare(part))
}

// A session is what a client carries of its binding.
type session struct {
	id     uint64
	target string
	issued time.Time // zero: undated
}

// visit makes a request of the session and returns who serves it. A session that moves is bound
// again. It gets a date if it had one before.
func (s *session) visit(t testing.TB, p *balancer.Pool) string {
	q := &balancer.Request{Session: s.id, Issued: s.issued}
	lease, err := p.AcquireBound(t.Context(), s.target, q)
	if err != nil {
		require.ErrorIs(t, err, balancer.ErrShare)
		require.ErrorIs(t, err, balancer.ErrMoving)
		lease = acquire(t, p, q)
	}
	at := lease.Member().ID()
	lease.Release(balancer.Outcome{})
	if at != s.target {
		s.target = at
		if !s.issued.IsZero() {
			s.issued = time.Now().Truncate(time.Second)
		}
	}
	return at
}

// sessionsOn returns n sessions that were bound to id a minute ago.
func sessionsOn(id string, n int) []*session {
	all := make([]*session, n)
	random := rand.New(rand.NewPCG(25, uint64(id[len(id)-1]))) // the same sessions in each run
	for i := range all {
		all[i] = &session{random.Uint64(), id, time.Now().Add(-time.Minute).Truncate(time.Second)}
	}
	return all
}

// settle has each session make some requests in any order, and returns how many each target has
// and how many moves there were.
func settle(t testing.TB, p *balancer.Pool, all []*session) (on map[string]int, moves int) {
	on = map[string]int{}
	for range 2 {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, s := range all {
			if was := s.target; s.visit(t, p) != was {
				moves++
			}
		}
	}
	for _, s := range all {
		on[s.target]++
	}
	return on, moves
}

func TestMember_S25_SetShareRefuses(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(2)})
	m := member(t, p, "t00")
	require.EqualValues(t, 1, m.Share())
	for _, part := range []float64{0, 0.25, 1, math.SmallestNonzeroFloat64, 1 - 1.0/(1<<53)} {
		require.NoError(t, m.SetShare(part))
		require.Equal(t, part, m.Share())
		for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -0.01, -math.SmallestNonzeroFloat64, 1.0000001, 75} {
			require.Error(t, m.SetShare(bad))
			require.Equal(t, part, m.Share(), "nothing changes")
		}
	}
}

// All instances decide the same for a session. A smaller share moves the same sessions and more.
func TestMember_S25_SameEverywhere(t *testing.T) {
	one, other := newPool(t, balancer.Config{Targets: targets(3)}), newPool(t, balancer.Config{Targets: targets(5)})
	sessions := sessionsOn("t01", 10_000)
	left := len(sessions)
	m, far := member(t, one, "t01"), member(t, other, "t01")
	before := map[uint64]bool{}
	for _, part := range []float64{1, 0.9, 0.5, 0.49, 0.1, 0} {
		setShare(t, one, "t01", part)
		setShare(t, other, "t01", part)
		kept := 0
		for _, s := range sessions {
			keeps := m.Keeps(s.id, s.issued)
			if keeps != far.Keeps(s.id, time.Time{}) || keeps == m.Moves(s.id, s.issued) {
				t.Fatalf("%x: not the same everywhere", s.id)
			}
			if keeps {
				kept++
			} else {
				before[s.id] = true
			}
			if keeps && before[s.id] {
				t.Fatalf("%x: moves under one share and not under a smaller one", s.id)
			}
		}
		require.InDelta(t, part*10_000, kept, 150)
		require.LessOrEqual(t, kept, left)
		left = kept
	}
	// Another target keeps other sessions.
	setShare(t, one, "t01", 0.5)
	setShare(t, one, "t00", 0.5)
	both := 0
	for _, s := range sessions {
		if member(t, one, "t00").Keeps(s.id, s.issued) && member(t, one, "t01").Keeps(s.id, s.issued) {
			both++
		}
	}
	require.InDelta(t, 2500, both, 150)
}

// The hash must not change, because all instances have to agree, including those of older versions.
func TestMember_S25_TheRuleIsForGood(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: []balancer.Target{target("app-1"), target("app-2")}})
	setShare(t, p, "app-1", 0.5)
	var kept []uint64
	for s := range uint64(16) {
		if member(t, p, "app-1").Keeps(s+1, time.Time{}) {
			kept = append(kept, s+1)
		}
	}
	require.Equal(t, []uint64{4, 5, 6, 7, 8, 10, 11, 15}, kept)
}

func TestMember_S25_WhichBindingsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, balancer.Config{Targets: targets(2)})
		m := member(t, p, "t00")
		time.Sleep(500 * time.Millisecond)
		set := time.Now().Truncate(time.Second)
		setShare(t, p, "t00", 0)
		for name, tt := range map[string]struct {
			session uint64
			issued  time.Time
			keeps   bool
		}{
			"undated":           {1, time.Time{}, false},
			"long before":       {1, set.AddDate(-50, 0, 0), false},
			"the second before": {1, set.Add(-time.Second), false},
			"the same second":   {1, set, false},
			"the second after":  {1, set.Add(time.Second), true},
			"a clock ahead":     {1, set.Add(10 * time.Minute), true},
			"no session":        {0, time.Time{}, true},
		} {
			require.Equal(t, tt.keeps, m.Keeps(tt.session, tt.issued), name)
			require.Equal(t, !tt.keeps, m.Moves(tt.session, tt.issued), name)
		}
		time.Sleep(time.Minute)
		setShare(t, p, "t00", 0)
		require.False(t, m.Keeps(1, set.Add(time.Second)), "until the share is set again")
		setShare(t, p, "t00", 1)
		require.True(t, m.Keeps(1, time.Time{}))
	})
}

func TestPool_S25_MovesOnlyToThoseThatKeepAll(t *testing.T) {
	for _, n := range []int{5, 40} {
		each(t, func(t *testing.T, picker balancer.Picker) {
			p := newPool(t, balancer.Config{Targets: targets(n), Picker: picker})
			for i := range n {
				if i != 1 && i != n-1 {
					setShare(t, p, fmt.Sprintf("t%02d", i), 0)
				}
			}
			for i := range 100 {
				q := &balancer.Request{Session: rand.Uint64() | 1, Key: fmt.Sprint(i), Client: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}
				_, err := p.AcquireBound(t.Context(), "t00", q)
				require.ErrorIs(t, err, balancer.ErrShare)
				lease := acquire(t, p, q)
				require.Contains(t, []string{"t01", fmt.Sprintf("t%02d", n-1)}, lease.Member().ID())
				lease.Release(balancer.Outcome{})
			}
		})
	}
}

func TestPool_S25_NotDuringASlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, balancer.Config{Targets: targets(2), SlowStart: 16 * time.Second})
		sessions := append(sessionsOn("t00", 50), sessionsOn("t01", 50)...)
		require.NoError(t, p.Update(targets(3)...))
		setShare(t, p, "t00", 0)
		setShare(t, p, "t01", 0)
		on, moves := settle(t, p, sessions)
		require.Equal(t, map[string]int{"t00": 50, "t01": 50}, on, "nobody can take them yet")
		require.Zero(t, moves)
		time.Sleep(14 * time.Second)
		_, moves = settle(t, p, sessions)
		require.Zero(t, moves)
		time.Sleep(2 * time.Second)
		on, moves = settle(t, p, sessions)
		require.Equal(t, map[string]int{"t02": 100}, on)
		require.Equal(t, 100, moves)
	})
}

// A session stays if no other target can serve it.
func TestPool_S25_StaysWithoutAnotherPlace(t *testing.T) {
	old := &balancer.Request{Session: 7}
	for name, tt := range map[string]struct {
		prepare func(t *testing.T, p *balancer.Pool)
		err     error // of AcquireBound
		at      string
	}{
		"another":            {func(*testing.T, *balancer.Pool) {}, balancer.ErrShare, "t01"},
		"all keep less":      {func(t *testing.T, p *balancer.Pool) { setShare(t, p, "t01", 0.99) }, nil, "t00"},
		"the other is down":  {func(t *testing.T, p *balancer.Pool) { member(t, p, "t01").SetAdmin(balancer.Down) }, nil, "t00"},
		"the other drains":   {func(t *testing.T, p *balancer.Pool) { member(t, p, "t01").SetAdmin(balancer.Draining) }, nil, "t00"},
		"the other is full":  {func(t *testing.T, p *balancer.Pool) { bound(t, p, "t01") }, balancer.ErrShare, "t00"},
		"it is full as well": {func(t *testing.T, p *balancer.Pool) { bound(t, p, "t00") }, balancer.ErrShare, "t01"},
		"it has left":        {func(t *testing.T, p *balancer.Pool) { require.NoError(t, p.Update(roomForOne(targets(2)...)[1])) }, balancer.ErrUnknown, "t01"},
		"it drains":          {func(t *testing.T, p *balancer.Pool) { member(t, p, "t00").SetAdmin(balancer.Draining) }, balancer.ErrShare, "t01"},
		"it is moving":       {func(t *testing.T, p *balancer.Pool) { member(t, p, "t00").SetAdmin(balancer.Moving) }, balancer.ErrMoving, "t01"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, balancer.Config{Targets: roomForOne(targets(2)...)})
			setShare(t, p, "t00", 0)
			tt.prepare(t, p)
			q := *old
			lease, err := p.AcquireBound(t.Context(), "t00", &q)
			if tt.err == nil {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, tt.err)
				lease = acquire(t, p, &q)
			}
			require.Equal(t, tt.at, lease.Member().ID())
		})
	}
}

// roomForOne returns the targets with room for one request each.
func roomForOne(ts ...balancer.Target) []balancer.Target {
	for i := range ts {
		ts[i].MaxRequests = 1
	}
	return ts
}

// A target that failed the request is not asked again, at home or elsewhere.
func TestPool_S18_S25_FailedOnesAreExcluded(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(3)})
	setShare(t, p, "t00", 0)
	setShare(t, p, "t02", 0)
	q := &balancer.Request{Session: 7}
	_, err := p.AcquireBound(t.Context(), "t00", q)
	require.ErrorIs(t, err, balancer.ErrShare)
	lease := acquire(t, p, q)
	require.Equal(t, "t01", lease.Member().ID())
	q.Exclude(lease.Member())

	_, err = p.AcquireBound(t.Context(), "t00", q)
	require.ErrorIs(t, err, balancer.ErrShare)
	lease = acquire(t, p, q)
	require.Equal(t, "t00", lease.Member().ID(), "nobody else: it goes home")
	q.Exclude(lease.Member())

	_, err = p.AcquireBound(t.Context(), "t00", q)
	require.ErrorIs(t, err, balancer.ErrExcluded)
	lease = acquire(t, p, q)
	require.Equal(t, "t02", lease.Member().ID(), "who does not keep all is better than nobody")
}

func TestPool_S25_WaitsAtHome(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: roomForOne(targets(2)...), Queue: 10})
	setShare(t, p, "t00", 0)
	home, away := bound(t, p, "t00"), bound(t, p, "t01")
	q := &balancer.Request{Session: 7}
	_, err := p.AcquireBound(t.Context(), "t00", q)
	require.ErrorIs(t, err, balancer.ErrShare)
	got := make(chan string, 1)
	go func() {
		lease, err := p.Acquire(t.Context(), q)
		if err != nil {
			got <- err.Error()
			return
		}
		got <- lease.Member().ID()
		lease.Release(balancer.Outcome{})
	}()
	home.Release(balancer.Outcome{})
	require.Equal(t, "t00", <-got, "the first place that comes free")
	away.Release(balancer.Outcome{})
}

func TestPool_S25_UpdateKeepsTheShare(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(2)})
	setShare(t, p, "t00", 0.25)
	m := member(t, p, "t00")
	heavier := targets(3)
	heavier[0].Weight = 5
	require.NoError(t, p.Update(heavier...))
	require.Equal(t, 0.25, member(t, p, "t00").Share())

	elsewhere := targets(3)
	elsewhere[0].URL = &url.URL{Scheme: "http", Host: "elsewhere"}
	require.NoError(t, p.Update(elsewhere...))
	require.EqualValues(t, 1, member(t, p, "t00").Share(), "another member")
	require.NoError(t, m.SetShare(0))
	require.True(t, m.Keeps(1, time.Time{}), "one that has left moves nobody")
}

// shareWatch is told of changes.
type shareWatch struct{ changed chan *balancer.Member }

func (shareWatch) Released(*balancer.Member, balancer.Outcome) {}

func (w shareWatch) Changed(m *balancer.Member, _ balancer.State) { w.changed <- m }

func TestPool_S25_ObserversAreTold(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(2)})
	w := shareWatch{make(chan *balancer.Member, 10)}
	defer p.Observe(w)()
	m := member(t, p, "t01")
	for _, part := range []float64{0.5, 0.5, 1} {
		setShare(t, p, "t01", part)
		require.Same(t, m, <-w.changed)
	}
	setShare(t, p, "t01", 1)
	require.Empty(t, w.changed, "it had that share")
}

// The table of the package's documentation: where sessions settle after targets have joined.
func TestPool_S25_WhereSessionsSettle(t *testing.T) {
	for _, tt := range []struct {
		before []int
		joined int
		shares []float64
		after  []int
	}{
		{[]int{3333, 3333, 3334}, 1, []float64{0.75, 0.75, 0.75}, []int{2500, 2500, 2500, 2500}},
		{[]int{3333, 3333, 3334}, 1, []float64{0.9, 0.9, 0.9}, []int{3000, 3000, 3000, 1000}},
		{[]int{3333, 3333, 3334}, 1, []float64{1, 1, 0}, []int{4444, 4444, 0, 1111}},
		{[]int{5000, 5000}, 2, []float64{0.5, 0.5}, []int{2500, 2500, 2500, 2500}},
		{[]int{7000, 1000, 1000, 1000}, 0, []float64{0.36, 1, 1, 1}, []int{2520, 2493, 2493, 2493}},
	} {
		for _, dated := range []bool{true, false} {
			if !dated && tt.shares[0] != 0.75 {
				continue // one case is enough
			}
			p := newPool(t, balancer.Config{Targets: targets(len(tt.before) + tt.joined), Picker: &balancer.RoundRobin{}})
			var all []*session
			for i, n := range tt.before {
				all = append(all, sessionsOn(fmt.Sprintf("t%02d", i), n)...)
			}
			if !dated {
				for _, s := range all {
					s.issued = time.Time{}
				}
			}
			want := map[string]int{}
			moving := 0.0
			for i, part := range tt.shares {
				setShare(t, p, fmt.Sprintf("t%02d", i), part)
				moving += (1 - part) * float64(tt.before[i])
			}
			for i, n := range tt.after {
				want[fmt.Sprintf("t%02d", i)] = n
			}
			if tt.shares[len(tt.shares)-1] == 0 { // t02 gives all its sessions to the three targets that keep theirs
				want = map[string]int{"t00": 4444, "t01": 4444, "t03": 1111}
			}
			on, moves := settle(t, p, all)
			require.InDelta(t, moving, moves, 200, "each that moves does so once")
			for id, n := range want {
				require.InDelta(t, n, on[id], 150, "%v, %s", tt.shares, id)
			}
			_, moves = settle(t, p, all)
			require.Zero(t, moves, "and then all stay")
		}
	}
}

// In the end all sessions stay on a target, for all shares that are set meanwhile. Each setting
// moves a session at most once.
func TestPool_S25_NoPingPong(t *testing.T) {
	for _, dated := range []bool{true, false} {
		p := newPool(t, balancer.Config{Targets: targets(4)})
		all := append(sessionsOn("t00", 100), sessionsOn("t01", 100)...)
		for _, s := range all {
			if !dated {
				s.issued = time.Time{}
			}
		}
		for range 20 {
			setShare(t, p, fmt.Sprintf("t%02d", rand.IntN(4)), []float64{0, 0.3, 0.6, 1, 1}[rand.IntN(5)])
			_, moves := settle(t, p, all)
			require.LessOrEqual(t, moves, len(all))
			_, moves = settle(t, p, all)
			require.Zero(t, moves)
		}
	}
}

func TestPool_S25_AllocatesNothing(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(10)})
	setShare(t, p, "t00", 0.5)
	q := &balancer.Request{Issued: time.Now().Add(-time.Minute)}
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		q.Session++
		lease, err := p.AcquireBound(t.Context(), "t00", q)
		if err != nil {
			lease, _ = p.Acquire(t.Context(), q)
		}
		lease.Release(balancer.Outcome{})
	}))
}

// Panic serves new sessions by targets that are reserved or unhealthy. A session that a healthy
// target serves does not move there.
func TestPool_S25_NotToTargetsThatPanicUses(t *testing.T) {
	for _, health := range []balancer.Health{balancer.Reserved, balancer.Unhealthy} {
		p := newPool(t, balancer.Config{Panic: balancer.PanicOpen, PanicThreshold: 100, Targets: targets(3)})
		member(t, p, "t00").SetHealth(balancer.Healthy)
		member(t, p, "t01").SetHealth(health)
		member(t, p, "t02").SetHealth(health)
		setShare(t, p, "t00", 0)
		require.Equal(t, balancer.PanicOpen, p.Panicking())
		s := sessionsOn("t00", 1)[0]
		require.Equal(t, "t00", s.visit(t, p), health)
		member(t, p, "t01").SetHealth(balancer.Healthy)
		require.Equal(t, "t01", s.visit(t, p), health)
	}
}

func TestMember_S25_MovesWhereATunnelHasRoom(t *testing.T) {
	list := targets(3)
	list[1].MaxTunnels, list[2].MaxTunnels = 1, 1
	p := newPool(t, balancer.Config{Targets: list})
	m := member(t, p, "t00")
	require.False(t, m.Moves(5, time.Time{}))
	setShare(t, p, "t00", 0)
	require.True(t, m.Moves(5, time.Time{}))
	tunnel := func(id string) balancer.Lease {
		lease, err := p.AcquireBound(t.Context(), id, &balancer.Request{Tunnel: true})
		require.NoError(t, err)
		return lease
	}
	one, other := tunnel("t01"), tunnel("t02")
	require.False(t, m.Moves(5, time.Time{}), "both are full")
	one.Release(balancer.Outcome{})
	require.True(t, m.Moves(5, time.Time{}))
	setShare(t, p, "t01", 0.5)
	require.False(t, m.Moves(5, time.Time{}), "the one with room does not keep all of its own")
	other.Release(balancer.Outcome{})
	require.True(t, m.Moves(5, time.Time{}))
}
