package health

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// Status describes a registry and its pool at one time. [Page] serves it as JSON, with times in RFC
// 3339 and durations in nanoseconds. Empty fields are left out.
//
// [json.Unmarshal] restores it exactly if all text in it is valid UTF-8.
type Status struct {
	Time    time.Time      `json:"time"`
	Pool    string         `json:"pool,omitempty"` // balancer.Config.Name
	Running bool           `json:"running"`        // whether Run runs
	Serving int            `json:"serving"`        // targets that may take new sessions
	Panic   balancer.Panic `json:"panic"`          // the panic mode that is on, see Pool.Panicking
	Notes   []string       `json:"notes,omitempty"`
	Zones   []ZoneStatus   `json:"zones,omitempty"` // the zones with a name, sorted by it
	Targets []TargetStatus `json:"targets"`         // in configured order

	// Leaving are the targets that have left the pool but still have something in flight. They are
	// not in the counts of targets, and are not checked.
	Leaving []TargetStatus `json:"leaving,omitempty"`

	// Late is the delay of the latest probe. It grows while more probes are due than
	// Registry.Concurrency allows.
	Late time.Duration `json:"late_ns"`

	// Total is the traffic of all Targets.
	Total TrafficStatus `json:"total"`

	// Presses are the latest presses of the page's buttons, at most 50, the newest first.
	Presses []Press `json:"presses,omitempty"`
}

// ZoneStatus counts the targets of a zone.
type ZoneStatus struct {
	Name    string `json:"name"`
	Targets int    `json:"targets"`
	Serving int    `json:"serving"` // targets that may take new sessions
}

// TargetStatus describes one target.
type TargetStatus struct {
	ID           string          `json:"id"`
	URL          string          `json:"url"`                   // empty: the target has none
	Addr         string          `json:"addr,omitempty"`        // Target.Addr; empty: the URL's host and port
	ServerName   string          `json:"server_name,omitempty"` // Target.ServerName
	Zone         string          `json:"zone,omitempty"`
	Weight       int             `json:"weight"` // negative: no new sessions
	Share        float64         `json:"share"`  // Member.Share
	Backup       bool            `json:"backup,omitempty"`
	Health       balancer.Health `json:"health"`
	Admin        balancer.Admin  `json:"admin"`
	EjectedUntil time.Time       `json:"ejected_until,omitzero"` // zero: it is not ejected
	Serving      bool            `json:"serving"`                // whether it may take new sessions
	Load         int64           `json:"load"`                   // requests and tunnels in flight
	Tunnels      int64           `json:"tunnels"`
	Latency      time.Duration   `json:"latency_ns"`
	Check        CheckStatus     `json:"check,omitzero"`
	Outcomes     []OutcomeStatus `json:"outcomes,omitempty"` // only those that occurred
	Passive      PassiveStatus   `json:"passive,omitzero"`
	Traffic      TrafficStatus   `json:"traffic,omitzero"`
	Downtime     DowntimeStatus  `json:"downtime,omitzero"`
	Change       ChangeStatus    `json:"change,omitzero"` // zero: nothing has changed since Run began
	Drain        DrainStatus     `json:"drain,omitzero"`  // zero: no Drain is under way

	Labels map[string]string `json:"labels,omitempty"` // Target.Labels
}

// CheckStatus describes the probes of a target.
type CheckStatus struct {
	At       time.Time     `json:"at,omitzero"` // when the latest one began; zero: there was none
	Duration time.Duration `json:"duration_ns"`
	Error    string        `json:"error,omitempty"`    // in words for people; empty: it succeeded
	Reserved string        `json:"reserved,omitempty"` // why the target is reserved; empty: it is not
	Streak   int           `json:"streak"`             // successes and reserving answers in a row; negative: failures in a row
	Total    int64         `json:"total"`              // since Run began
	Failed   int64         `json:"failed"`             // probes that failed
}

// PassiveStatus says what live requests have shown about a target since Run began.
type PassiveStatus struct {
	Failures  int    `json:"failures"`         // failed requests and connections, in a row
	Upgrades  int    `json:"upgrades"`         // failed upgrades and tunnels that ended early, in a row
	Ejections int64  `json:"ejections"`        // how often it was ejected
	Refused   int64  `json:"refused"`          // ejections that Passive.MaxShare prevented
	Reason    string `json:"reason,omitempty"` // why the latest ejection happened
}

// DrainStatus describes a drain under way.
type DrainStatus struct {
	Step  balancer.Admin `json:"step"`
	Since time.Time      `json:"since"`
	Grace time.Time      `json:"grace_until"`    // when sessions begin to move
	Limit time.Time      `json:"limit,omitzero"` // when the drain ends at the latest; zero: no limit

	By string `json:"by,omitempty"` // who asked for it; empty: unknown

	// Missing reports whether [Registry.Replace] began the drain because the target is missing from
	// its list.
	Missing bool `json:"missing,omitempty"`
}

// Status returns the present status of the registry. It may be called whether Run runs or not.
// Values that only Run records are missing if Run has never run.
func (r *Registry) Status() Status {
	members, leaving := r.Pool.Members(), r.Pool.Leaving()
	now := time.Now()
	s := Status{
		Time: universal(now), Pool: r.Pool.Name(), Panic: r.Pool.Panicking(), Late: time.Duration(r.late.Load()),
		Targets: make([]TargetStatus, 0, len(members)),
	}
	r.mu.Lock()
	s.Running = r.run != nil
	s.Presses = r.pressesLocked()
	for _, m := range members {
		s.Targets = append(s.Targets, r.targetStatusLocked(m, now))
	}
	for _, m := range leaving {
		t := r.targetStatusLocked(m, now)
		t.Serving = false
		s.Leaving = append(s.Leaving, t)
	}
	r.mu.Unlock()
	s.addTraffic(r, members, now)
	s.summarize()
	s.note(r.interval())
	return s
}

// addTraffic fills in the traffic of the targets. members[i] is the member of s.Targets[i].
func (s *Status) addTraffic(r *Registry, members []*balancer.Member, now time.Time) {
	var total tally
	for i, m := range members {
		k := r.track(m)
		if k == nil {
			continue
		}
		total.now = now.Sub(k.run.epoch)
		one := tally{now: total.now}
		one.add(&k.traffic, &k.outcomes)
		s.Targets[i].Traffic = one.status()
		total.merge(&one)
	}
	s.Total = total.status()
}

func (r *Registry) targetStatusLocked(m *balancer.Member, now time.Time) TargetStatus {
	target, state := m.Target(), m.State()
	out := state.EjectedUntil.After(now)
	u := m.URL()
	t := TargetStatus{
		ID: m.ID(), URL: u.String(), Addr: target.Addr, ServerName: target.ServerName,
		Zone: target.Zone, Weight: target.Weight, Share: m.Share(), Backup: target.Backup, Labels: target.Labels,
		Health: state.Health, Admin: state.Admin, Serving: takesSessions(m, state, out),
		Load: m.Load(), Tunnels: m.Tunnels(), Latency: m.Latency(),
	}
	if out {
		t.EjectedUntil = universal(state.EjectedUntil)
	}
	if k := r.track(m); k != nil {
		t.Check = CheckStatus{
			At: universal(k.last.began), Duration: k.last.took, Error: k.last.reason,
			Streak: k.streak, Total: k.checks, Failed: k.failed,
		}
		if k.last.reserved {
			t.Check.Error, t.Check.Reserved = "", k.last.reason
		}
		t.Outcomes = k.outcomes.status()
		t.Passive = PassiveStatus{
			Failures: int(k.passive.requests.row.Load()), Upgrades: int(k.passive.upgrades.row.Load()),
			Ejections: k.ejected, Refused: k.refused, Reason: k.why,
		}
		t.Downtime, t.Change = k.downtime.status(now), k.change
	}
	if d := r.drains.get(m); d != nil && !d.over() {
		t.Drain = DrainStatus{
			Step: state.Admin, Since: universal(d.began), Grace: universal(d.grace), Limit: universal(d.limit),
			By: d.by, Missing: d.exit != nil,
		}
	}
	return t
}

// summarize counts the serving targets, by zone and in total.
func (s *Status) summarize() {
	zones := make(map[string]*ZoneStatus)
	for i := range s.Targets {
		t := &s.Targets[i]
		z := zones[t.Zone]
		if z == nil {
			z = &ZoneStatus{Name: t.Zone}
			zones[t.Zone] = z
		}
		z.Targets++
		if t.Serving {
			z.Serving++
			s.Serving++
		}
	}
	delete(zones, "")
	for _, name := range slices.Sorted(maps.Keys(zones)) {
		s.Zones = append(s.Zones, *zones[name])
	}
}

// note adds the notes about what an operator should know first.
func (s *Status) note(interval time.Duration) {
	add := func(format string, args ...any) { s.Notes = append(s.Notes, fmt.Sprintf(format, args...)) }
	if !s.Running {
		add("The registry is not running: nothing is checked.")
	}
	if s.Serving == 0 {
		add("No target can take new sessions.")
	}
	switch s.Panic {
	case balancer.PanicOpen:
		add("Panic: so few targets are left that reserved ones take new sessions too, and unhealthy ones if need be.")
	case balancer.PanicClosed:
		add("Panic: so few targets are left that they take no new sessions.")
	}
	var lost []string
	for _, z := range s.Zones {
		if z.Serving == 0 {
			lost = append(lost, z.Name)
		}
	}
	switch {
	case len(lost) == 1:
		add("Zone %s has no target that can take new sessions.", lost[0])
	case len(lost) > 1:
		add("Zones %s have no target that can take new sessions.", strings.Join(lost, ", "))
	}
	if interval > 0 && s.Late > interval/2 {
		add("Checks begin %v late: more are due than may be under way at once.", s.Late.Round(time.Second))
	}
}
