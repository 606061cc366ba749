package balancer_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stretchr/testify/require"
)

// A condition is a state that keeps a target from serving, or changes how it serves.
type condition struct {
	name   string
	target func(t *balancer.Target)
	state  func(s *balancer.State)
	load   [2]int // requests and tunnels that it has
	out    bool   // the request excludes it
	slow   bool   // it starts slowly
}

func conditions() []condition {
	return []condition{
		{name: "healthy", state: func(s *balancer.State) { s.Health = balancer.Healthy }},
		{name: "unknown"},
		{name: "unhealthy", state: func(s *balancer.State) { s.Health = balancer.Unhealthy }},
		{name: "reserved", state: func(s *balancer.State) { s.Health = balancer.Reserved }},
		{name: "draining", state: func(s *balancer.State) { s.Admin = balancer.Draining }},
		{name: "moving", state: func(s *balancer.State) { s.Admin = balancer.Moving }},
		{name: "down", state: func(s *balancer.State) { s.Admin = balancer.Down }},
		{name: "ejected", state: func(s *balancer.State) { s.EjectedUntil = time.Now().Add(time.Hour) }},
		{name: "requests full", target: func(t *balancer.Target) { t.MaxRequests = 2 }, load: [2]int{2, 1}},
		{name: "tunnels full", target: func(t *balancer.Target) { t.MaxTunnels = 1 }, load: [2]int{2, 1}},
		{name: "excluded", state: func(s *balancer.State) { s.Health = balancer.Healthy }, out: true},
		{name: "weight below zero", target: func(t *balancer.Target) { t.Weight = -1 }},
		{name: "slow", state: func(s *balancer.State) { s.Health = balancer.Healthy }, slow: true},
		{name: "backup", target: func(t *balancer.Target) { t.Backup = true }},
		{name: "heavy and loaded", target: func(t *balancer.Target) { t.Weight = 7 }, load: [2]int{9, 3}},
	}
}

// scene returns a pool whose targets are in those conditions, the model of it, and those
// that a request excludes.
func scene(t *testing.T, picker balancer.Picker, conditions []condition) (*balancer.Pool, *model, []string) {
	m := &model{state: map[string]balancer.State{}, load: map[string]*[2]int{}}
	var excluded []string
	for i, c := range conditions {
		target := target(fmt.Sprintf("t%d", i))
		target.Weight = 1
		if c.target != nil {
			c.target(&target)
		}
		if c.out {
			excluded = append(excluded, target.ID)
		}
		m.targets = append(m.targets, target)
	}
	p := newPool(t, balancer.Config{Picker: picker, Targets: m.targets, SlowStart: time.Hour})
	for i, c := range conditions {
		id := m.targets[i].ID
		load := c.load
		for range c.load[0] {
			bound(t, p, id)
		}
		for range c.load[1] {
			_, err := p.AcquireBound(t.Context(), id, &balancer.Request{Tunnel: true})
			require.NoError(t, err)
		}
		if c.slow {
			member(t, p, id).SetHealth(balancer.Unhealthy)
		}
		var s balancer.State
		if c.state != nil {
			c.state(&s)
		}
		member(t, p, id).SetHealth(s.Health)
		member(t, p, id).SetAdmin(s.Admin)
		member(t, p, id).Eject(s.EjectedUntil)
		m.state[id], m.load[id] = s, &load
	}
	return p, m, excluded
}

// Three targets are in every combination of conditions. Every picker returns a target that may
// serve, and returns one whenever there is one.
func TestPool_B6_AllCombinations(t *testing.T) {
	all := conditions()
	each(t, func(t *testing.T, picker balancer.Picker) {
		within(t, 2*time.Minute, func() {
			for i := range all {
				for j := range all[:i+1] {
					for k := range all[:j+1] {
						three := []condition{all[k], all[i], all[j]}
						// A picker belongs to one pool. Here the pools are used one after the
						// other.
						p, m, excluded := scene(t, picker, three)
						requireEligible(t, p, m, excluded, false, three)
						requireEligible(t, p, m, excluded, true, three)
					}
				}
			}
		})
	})
}

func requireEligible(t *testing.T, p *balancer.Pool, m *model, excluded []string, tunnel bool, three []condition) {
	say := fmt.Sprintf("%s, %s, %s, tunnel %v", three[0].name, three[1].name, three[2].name, tunnel)
	ids, why := m.eligible(tunnel, excluded)
	for i := range 3 {
		q := &balancer.Request{Tunnel: tunnel, Key: fmt.Sprint(i), Client: client(i)}
		for _, id := range excluded {
			q.Exclude(member(t, p, id))
		}
		l, err := p.Acquire(t.Context(), q)
		if len(ids) == 0 {
			require.ErrorIs(t, err, balancer.ErrNoTarget, say)
			require.ErrorIs(t, err, why, say)
			continue
		}
		require.NoError(t, err, say)
		require.Contains(t, ids, l.Member().ID(), say)
		l.Release(balancer.Outcome{})
	}
}

// Bound sessions have rules of their own about which target serves them, and which error is
// returned otherwise.
func TestPool_S22_BoundSessions(t *testing.T) {
	want := map[string]error{
		"unhealthy": balancer.ErrDown, "moving": balancer.ErrMoving, "down": balancer.ErrDown,
		"ejected": balancer.ErrEjected, "requests full": balancer.ErrFull, "excluded": balancer.ErrExcluded,
	}
	for _, c := range conditions() {
		t.Run(c.name, func(t *testing.T) {
			p, _, excluded := scene(t, nil, []condition{c})
			q := &balancer.Request{}
			for _, id := range excluded {
				q.Exclude(member(t, p, id))
			}
			l, err := p.AcquireBound(t.Context(), "t0", q)
			require.ErrorIs(t, err, want[c.name])
			if want[c.name] == nil {
				require.Equal(t, "t0", l.Member().ID())
			}
		})
	}
	t.Run("unknown", func(t *testing.T) {
		p := newPool(t, balancer.Config{Targets: targets(1)})
		_, err := p.AcquireBound(t.Context(), "gone", &balancer.Request{})
		require.Equal(t, balancer.ErrUnknown, err)
	})
}

// If a target is moving or down, the error gives this reason even if the target is also unhealthy
// or ejected, because it says what happens to the session.
func TestPool_S22_ReasonOfSeveral(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(1)})
	m := member(t, p, "t00")
	m.SetHealth(balancer.Unhealthy)
	m.Eject(time.Now().Add(time.Hour))
	m.SetAdmin(balancer.Moving)
	_, err := p.AcquireBound(t.Context(), "t00", &balancer.Request{})
	require.Equal(t, balancer.ErrMoving, err)
	m.SetAdmin(balancer.Draining)
	_, err = p.AcquireBound(t.Context(), "t00", &balancer.Request{})
	require.Equal(t, balancer.ErrDown, err)
	m.SetHealth(balancer.Healthy)
	_, err = p.AcquireBound(t.Context(), "t00", &balancer.Request{})
	require.Equal(t, balancer.ErrEjected, err)
	m.Eject(time.Time{})
	bound(t, p, "t00")
}

// Reserved and the administrative state are independent. A drain continues, and a target that is
// made ready stays reserved.
func TestPool_B6_ReservedLeavesAdminAlone(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(1)})
	m := member(t, p, "t00")
	m.SetHealth(balancer.Reserved)
	for admin, want := range map[balancer.Admin]error{
		balancer.Ready: nil, balancer.Draining: nil, balancer.Moving: balancer.ErrMoving, balancer.Down: balancer.ErrDown,
	} {
		m.SetAdmin(admin)
		require.Equal(t, balancer.State{Health: balancer.Reserved, Admin: admin}, m.State())
		_, err := p.AcquireBound(t.Context(), "t00", &balancer.Request{})
		require.Equal(t, want, err)
		_, err = p.Acquire(t.Context(), &balancer.Request{})
		require.Equal(t, balancer.ErrNoTarget, err, "no new session, ready or not")
	}
	m.SetAdmin(balancer.Draining)
	m.SetHealth(balancer.Healthy)
	_, err := p.Acquire(t.Context(), &balancer.Request{})
	require.Equal(t, balancer.ErrNoTarget, err, "it still drains")
	m.SetAdmin(balancer.Ready)
	require.Equal(t, "t00", pick(t, p, &balancer.Request{}))
}

// A request that every other target has failed does not go to a reserved one.
func TestPool_S18_ReservedTakesNoRetries(t *testing.T) {
	each(t, func(t *testing.T, picker balancer.Picker) {
		p := newPool(t, balancer.Config{Picker: picker, Targets: targets(2)})
		member(t, p, "t01").SetHealth(balancer.Reserved)
		for i := range 50 {
			q := &balancer.Request{Key: fmt.Sprint(i), Client: client(i)}
			require.Equal(t, "t00", pick(t, p, q), "a hash is no binding")
			q.Exclude(member(t, p, "t00"))
			_, err := p.Acquire(t.Context(), q)
			require.ErrorIs(t, err, balancer.ErrExcluded)
		}
	})
}

func TestPool_S18_ExcludedAllGoesToNextTier(t *testing.T) {
	ts := targets(3)
	ts[2].Backup = true
	p := newPool(t, balancer.Config{Targets: ts})
	member(t, p, "t00").SetHealth(balancer.Healthy)
	var q balancer.Request
	for _, want := range []string{"t00", "t01", "t02"} {
		require.Equal(t, want, pick(t, p, &q))
		q.Exclude(member(t, p, want))
	}
	_, err := p.Acquire(t.Context(), &q)
	require.ErrorIs(t, err, balancer.ErrNoTarget)
	require.ErrorIs(t, err, balancer.ErrExcluded)
	require.NotErrorIs(t, err, balancer.ErrFull)
}

// A full target is in service: its tier does not end where its limit does.
func TestPool_B4_FullIsNoReasonForTheNextTier(t *testing.T) {
	ts := targets(2)
	ts[0].MaxRequests, ts[1].Backup = 1, true
	p := newPool(t, balancer.Config{Targets: ts})
	acquire(t, p, &balancer.Request{})
	_, err := p.Acquire(t.Context(), &balancer.Request{})
	require.ErrorIs(t, err, balancer.ErrNoTarget)
	require.ErrorIs(t, err, balancer.ErrFull)
}

func TestPool_B6_Panic(t *testing.T) {
	h, r, u := balancer.Healthy, balancer.Reserved, balancer.Unhealthy
	tests := map[string]struct {
		panic     balancer.Panic
		threshold int
		health    []balancer.Health
		backup    bool
		want      []string
	}{
		"off":                         {balancer.PanicOff, 0, []balancer.Health{h, u, u, u}, false, []string{"t00"}},
		"off, none left":              {balancer.PanicOff, 0, []balancer.Health{u, u}, false, nil},
		"open, at the threshold":      {balancer.PanicOpen, 0, []balancer.Health{h, u}, false, []string{"t00"}},
		"open, below":                 {balancer.PanicOpen, 0, []balancer.Health{h, u, u}, false, []string{"t00", "t01", "t02"}},
		"open, none left":             {balancer.PanicOpen, 0, []balancer.Health{u, u}, false, []string{"t00", "t01"}},
		"open, unknown serves":        {balancer.PanicOpen, 0, []balancer.Health{0, 0, u}, false, []string{"t00", "t01"}},
		"open, own threshold":         {balancer.PanicOpen, 10, []balancer.Health{h, u, u, u}, false, []string{"t00"}},
		"open, 100":                   {balancer.PanicOpen, 100, []balancer.Health{h, u}, false, []string{"t00", "t01"}},
		"open, none left but backup":  {balancer.PanicOpen, 0, []balancer.Health{u, u}, true, []string{"backup"}},
		"open, below with backup":     {balancer.PanicOpen, 0, []balancer.Health{h, u, u}, true, []string{"t00", "t01", "t02"}},
		"off, all reserved":           {balancer.PanicOff, 0, []balancer.Health{r, r}, false, nil},
		"off, reserved but backup":    {balancer.PanicOff, 0, []balancer.Health{r, r}, true, []string{"backup"}},
		"open, all reserved":          {balancer.PanicOpen, 0, []balancer.Health{r, r}, false, []string{"t00", "t01"}},
		"open, reserved but backup":   {balancer.PanicOpen, 0, []balancer.Health{r, r}, true, []string{"backup"}},
		"open, half are reserved":     {balancer.PanicOpen, 0, []balancer.Health{h, r}, false, []string{"t00"}},
		"open, reserved ones suffice": {balancer.PanicOpen, 0, []balancer.Health{h, r, u, u}, false, []string{"t00", "t01"}},
		"open, only reserved suffice": {balancer.PanicOpen, 0, []balancer.Health{u, r}, false, []string{"t01"}},
		"open, reserved too few":      {balancer.PanicOpen, 0, []balancer.Health{r, u, u}, false, []string{"t00", "t01", "t02"}},
		"closed, all reserved":        {balancer.PanicClosed, 0, []balancer.Health{r, r}, false, nil},
		"closed, below for reserved":  {balancer.PanicClosed, 0, []balancer.Health{h, r, r}, false, nil},
		"closed, at the threshold":    {balancer.PanicClosed, 0, []balancer.Health{h, u}, false, []string{"t00"}},
		"closed, below":               {balancer.PanicClosed, 0, []balancer.Health{h, u, u}, false, nil},
		"closed, below with backup":   {balancer.PanicClosed, 0, []balancer.Health{h, u, u}, true, []string{"backup"}},
		"closed, own threshold":       {balancer.PanicClosed, 33, []balancer.Health{h, u, u}, false, []string{"t00"}},
		"closed, all well":            {balancer.PanicClosed, 100, []balancer.Health{h, h}, false, []string{"t00", "t01"}},
		"open, nobody wanted ready":   {balancer.PanicOpen, 0, nil, true, []string{"backup"}},
		"closed, nobody wanted ready": {balancer.PanicClosed, 0, nil, true, []string{"backup"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			ts := targets(len(tt.health))
			if tt.backup {
				ts = append(ts, balancer.Target{ID: "backup", URL: parse(t, "http://backup"), Backup: true})
			}
			// A target that an operator has taken out of service does not count, in any health.
			ts = append(ts, balancer.Target{ID: "drained", URL: parse(t, "http://drained")})
			p := newPool(t, balancer.Config{Targets: ts, Panic: tt.panic, PanicThreshold: tt.threshold})
			member(t, p, "drained").SetAdmin(balancer.Draining)
			for i, h := range tt.health {
				p.Members()[i].SetHealth(h)
			}
			if tt.want == nil {
				_, err := p.Acquire(t.Context(), &balancer.Request{})
				require.Equal(t, balancer.ErrNoTarget, err)
				return
			}
			require.Equal(t, tt.want, keys(picks(t, p, 200)))
		})
	}
}

func TestPool_B6_Panicking(t *testing.T) {
	for _, mode := range []balancer.Panic{balancer.PanicOff, balancer.PanicOpen, balancer.PanicClosed} {
		p := newPool(t, balancer.Config{Targets: targets(3), Panic: mode})
		require.Equal(t, balancer.PanicOff, p.Panicking())
		member(t, p, "t00").SetHealth(balancer.Unhealthy)
		require.Equal(t, balancer.PanicOff, p.Panicking())
		member(t, p, "t01").SetHealth(balancer.Unhealthy)
		require.Equal(t, mode, p.Panicking())
		member(t, p, "t02").SetHealth(balancer.Unhealthy)
		require.Equal(t, mode, p.Panicking(), "also when none is left")
		member(t, p, "t00").SetHealth(balancer.Healthy)
		member(t, p, "t01").SetHealth(balancer.HealthUnknown)
		require.Equal(t, balancer.PanicOff, p.Panicking())
	}
	require.Equal(t, "off open closed invalid", fmt.Sprint(balancer.PanicOff, balancer.PanicOpen, balancer.PanicClosed, balancer.Panic(3)))
}

// A panic does not use ejected targets. An ejected reserved target does not keep it from using
// unhealthy ones.
func TestPool_B6_PanicOpenLeavesEjected(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(3), Panic: balancer.PanicOpen})
	member(t, p, "t00").SetHealth(balancer.Reserved)
	member(t, p, "t00").Eject(time.Now().Add(time.Hour))
	member(t, p, "t01").SetHealth(balancer.Unhealthy)
	member(t, p, "t02").SetHealth(balancer.Unhealthy)
	require.Equal(t, []string{"t01", "t02"}, keys(picks(t, p, 200)))
}

func TestState_Text(t *testing.T) {
	for h, want := range map[balancer.Health]string{
		balancer.HealthUnknown: "unknown", balancer.Healthy: "healthy", balancer.Reserved: "reserved",
		balancer.Unhealthy: "unhealthy", 9: "invalid",
	} {
		b, err := h.MarshalText()
		require.NoError(t, err)
		require.Equal(t, want, string(b))
	}
	for a, want := range map[balancer.Admin]string{
		balancer.Ready: "ready", balancer.Draining: "draining", balancer.Moving: "moving", balancer.Down: "down", 9: "invalid",
	} {
		b, err := a.MarshalText()
		require.NoError(t, err)
		require.Equal(t, want, string(b))
	}
	require.Equal(t, "connect failed", balancer.ConnectFailed.String())
	require.Equal(t, "client gone", balancer.ClientGone.String())
	require.Equal(t, "invalid", balancer.Class(99).String())
}

// States that do not exist serve nobody.
func TestState_InvalidServesNobody(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(1)})
	m := member(t, p, "t00")
	m.SetHealth(9)
	_, err := p.AcquireBound(t.Context(), "t00", &balancer.Request{})
	require.Equal(t, balancer.ErrDown, err)
	m.SetHealth(balancer.Healthy)
	m.SetAdmin(9)
	_, err = p.AcquireBound(t.Context(), "t00", &balancer.Request{})
	require.Equal(t, balancer.ErrDown, err)
	_, err = p.Acquire(t.Context(), &balancer.Request{})
	require.Equal(t, balancer.ErrNoTarget, err)
}
