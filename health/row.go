package health

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// A poolRow describes a pool in the summary.
type poolRow struct {
	Name, Link string // empty: the only pool, without a name
	State      badge
	Serving    string
	Zones      []string
	trafficRow
}

// A trafficRow describes the traffic of a pool or of a target.
type trafficRow struct {
	InFlight    []amount
	Rates       []amount
	Ended       string
	FailedRate  string // per second; empty if it is 0
	Failures    []amount
	Median, P99 string // empty: nothing was answered
	Spark       spark
}

// An amount is a number and the name of what it counts.
type amount struct{ Number, What string }

// A row describes a target.
type row struct {
	Pool, ID, Anchor, About     string
	Value                       string // of the form's target
	Quoted                      bool
	Badges                      []badge
	Check, CheckError, Reserved string
	GoingOn                     []string
	Downtime                    string
	Change                      changeRow
	Leaving                     bool
	CanDrain, CanDown, CanReady bool
	trafficRow
}

// A changeRow is the latest change of a target. It is empty if there is none.
type changeRow struct{ What, At, Ago, Reason, By string }

// A badge is a state and the class of its colours in the style.
type badge struct{ Text, Tone string }

func newPoolRow(q query, s *Status) poolRow {
	p := poolRow{
		Name: s.Pool, Link: q.link(func(q *query) { q.pool, q.number = s.Pool, 1 }),
		Serving: fmt.Sprintf("%d of %d", s.Serving, len(s.Targets)),
	}
	switch s.Serving {
	case 0:
		p.State = badge{"none serves", "bad"}
	case len(s.Targets):
		p.State = badge{"all serve", "ok"}
	default:
		p.State = badge{"some serve", "warn"}
	}
	for _, z := range s.Zones {
		p.Zones = append(p.Zones, fmt.Sprintf("zone %s: %d of %d", z.Name, z.Serving, z.Targets))
	}
	var load, tunnels int64
	sum := make(map[OutcomeStatus]int64)
	for i := range s.Targets {
		t := &s.Targets[i]
		load, tunnels = load+t.Load, tunnels+t.Tunnels
		for _, o := range failuresOf(t.Outcomes) {
			sum[OutcomeStatus{Class: o.Class, Status: o.Status}] += o.Count
		}
	}
	var outcomes []OutcomeStatus
	for o, n := range sum {
		o.Count = n
		outcomes = append(outcomes, o)
	}
	p.trafficRow = newTrafficRow(load, tunnels, &s.Total, outcomes)
	return p
}

func newTrafficRow(load, tunnels int64, t *TrafficStatus, outcomes []OutcomeStatus) trafficRow {
	f := trafficRow{
		InFlight: []amount{counted(load-tunnels, "request"), counted(tunnels, "tunnel")},
		Spark:    newSpark(t.Recent),
	}
	var ended []string
	if t.Requests > 0 || t.Tunnels == 0 {
		f.Rates = append(f.Rates, amount{perSecond(t.RequestRate), "requests/s"})
		ended = append(ended, counted(t.Requests, "request").String())
	}
	if t.Tunnels > 0 {
		f.Rates = append(f.Rates, amount{perSecond(t.TunnelRate), "tunnels/s"})
		ended = append(ended, counted(t.Tunnels, "tunnel").String())
	}
	f.Ended = strings.Join(ended, ", ") + " ended"
	if t.FailedRate > 0 {
		f.FailedRate = perSecond(t.FailedRate)
	}
	if t.Median > 0 {
		f.Median, f.P99 = fine(t.Median), fine(t.P99)
	}
	all := failuresOf(outcomes)
	slices.SortFunc(all, func(a, b OutcomeStatus) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Class+a.Status, b.Class+b.Status))
	})
	for _, o := range all {
		what := o.Class
		if o.Status != "" {
			what = strings.TrimPrefix(what+", "+o.Status, "ok, ")
		}
		f.Failures = append(f.Failures, amount{count(o.Count), what})
	}
	if t.Retried > 0 {
		f.Failures = append(f.Failures, amount{count(t.Retried), "retried elsewhere"})
	}
	return f
}

// counted returns the amount n of the things named what. It puts what into the plural unless n is
// 1.
func counted(n int64, what string) amount {
	if n != 1 {
		what += "s"
	}
	return amount{count(n), what}
}

func (a amount) String() string { return a.Number + " " + a.What }

func newRow(f found, n int) row {
	t, now := f.TargetStatus, f.pool.Time
	r := row{
		Pool:       f.pool.Pool,
		ID:         t.ID,
		Anchor:     f.anchor(n),
		About:      about(t),
		Badges:     badges(t),
		Check:      checkText(t.Check, now),
		CheckError: t.Check.Error,
		Reserved:   t.Check.Reserved,
		GoingOn:    goingOn(t, now),
		Downtime:   downtimeText(t.Downtime, now),
		CanDrain:   f.pool.Running && (t.Admin == balancer.Ready || t.Drain.Missing),
		CanDown:    t.Admin != balancer.Down,
		CanReady:   t.Admin != balancer.Ready || !t.EjectedUntil.IsZero(),
		trafficRow: newTrafficRow(t.Load, t.Tunnels, &t.Traffic, t.Outcomes),
	}
	r.Value, r.Quoted = writeTarget(t.ID)
	if c := t.Change; !c.At.IsZero() {
		if c.Reason == t.Check.Error || c.Reason == t.Check.Reserved || !t.EjectedUntil.IsZero() && c.Reason == t.Passive.Reason {
			c.Reason = "" // the row shows it elsewhere
		}
		r.Change = changeRow{
			What: c.What, At: c.At.Format(time.RFC3339), Ago: coarse(now.Sub(c.At)), Reason: c.Reason, By: c.By,
		}
	}
	if f.leaving {
		r.Leaving, r.CanReady, r.Check = true, false, "no more"
		r.Badges = append(r.Badges, badge{Text: "leaving", Tone: "warn"})
	}
	return r
}

func about(t *TargetStatus) string {
	var parts []string
	if t.URL != "" {
		parts = append(parts, t.URL)
	}
	if t.Addr != "" {
		parts = append(parts, "at "+t.Addr)
	}
	if t.ServerName != "" {
		parts = append(parts, "certificate of "+t.ServerName)
	}
	if t.Zone != "" {
		parts = append(parts, "zone "+t.Zone)
	}
	parts = append(parts, "weight "+strconv.Itoa(t.Weight))
	if t.Share != 1 {
		parts = append(parts, "keeps "+strconv.FormatFloat(100*t.Share, 'g', 3, 64)+"% of its sessions")
	}
	if t.Backup {
		parts = append(parts, "backup")
	}
	return strings.Join(parts, " · ")
}

func badges(t *TargetStatus) []badge {
	tone := map[balancer.Health]string{balancer.Healthy: "ok", balancer.Reserved: "warn", balancer.Unhealthy: "bad"}[t.Health]
	all := []badge{{Text: t.Health.String(), Tone: tone}}
	switch t.Admin {
	case balancer.Draining, balancer.Moving:
		all = append(all, badge{Text: t.Admin.String(), Tone: "warn"})
	case balancer.Down:
		all = append(all, badge{Text: t.Admin.String()})
	}
	if !t.EjectedUntil.IsZero() {
		all = append(all, badge{Text: "ejected", Tone: "bad"})
	}
	return all
}

// inFlight returns the requests and tunnels in flight, in words.
func inFlight(t *TargetStatus) string {
	requests, tunnels := counted(t.Load-t.Tunnels, "request").String(), counted(t.Tunnels, "tunnel").String()
	switch {
	case t.Tunnels == 0:
		return requests
	case t.Tunnels >= t.Load:
		return tunnels
	}
	return requests + " and " + tunnels
}

func checkText(c CheckStatus, now time.Time) string {
	if c.At.IsZero() {
		return "not checked yet"
	}
	came := streak(c.Streak)
	if c.Reserved != "" {
		came = "answered"
	}
	return fmt.Sprintf("checked %s ago, took %s, %s", coarse(now.Sub(c.At)), fine(c.Duration), came)
}

func streak(n int) string {
	switch {
	case n > 1:
		return fmt.Sprintf("%d ok in a row", n)
	case n == 1:
		return "ok"
	case n == -1:
		return "failed"
	case n < -1:
		return fmt.Sprintf("%d failed in a row", -n)
	}
	return "no verdict"
}

// goingOn returns lines about an ejection and a drain under way.
func goingOn(t *TargetStatus, now time.Time) []string {
	var lines []string
	if !t.EjectedUntil.IsZero() {
		lines = append(lines, fmt.Sprintf("Ejected for another %s%s.", coarse(t.EjectedUntil.Sub(now)), after(": ", t.Passive.Reason)))
	}
	if t.Drain.Missing {
		lines = append(lines, "Missing from the list of targets.")
	}
	if !t.Drain.Since.IsZero() {
		lines = append(lines, drainText(t, now))
	}
	return lines
}

func drainText(t *TargetStatus, now time.Time) string {
	var text string
	switch t.Drain.Step {
	case balancer.Draining:
		text = fmt.Sprintf("Sessions move in %s", coarse(t.Drain.Grace.Sub(now)))
	case balancer.Moving:
		text = "Sessions move"
	default:
		text = "Waiting for the end of what is in flight"
	}
	left := "nothing is in flight"
	if t.Load > 0 {
		left = inFlight(t) + " still in flight"
	}
	text += ", " + left
	if !t.Drain.Limit.IsZero() {
		text += fmt.Sprintf(", the drain ends in %s at the latest", coarse(t.Drain.Limit.Sub(now)))
	}
	return text + "."
}

// downtimeText returns a target's downtime in words, or "" if it had none.
func downtimeText(d DowntimeStatus, now time.Time) string {
	switch {
	case d.Since.IsZero() && d.Total == 0:
		return ""
	case d.Since.IsZero():
		return "Was out of service for " + coarse(d.Total) + " in total."
	case d.Total-now.Sub(d.Since) < time.Second:
		return "Out of service for " + coarse(now.Sub(d.Since)) + "."
	}
	return "Out of service for " + coarse(now.Sub(d.Since)) + ", in total " + coarse(d.Total) + "."
}

// A spark is a chart of a history: the paths of its bars in a box of 120 by 24, and its text for
// screen readers.
type spark struct{ Ended, Failed, Text string }

func newSpark(h History) spark {
	var most uint32
	for _, n := range h.Ended {
		most = max(most, n)
	}
	if most == 0 {
		return spark{Text: "nothing in five minutes"}
	}
	return spark{
		Ended: bars(h.Ended, most), Failed: bars(h.Failed, most),
		Text: fmt.Sprintf("five minutes, at most %s per second", perSecond(float64(most)/countStep.Seconds())),
	}
}

// bars returns the path of the bars for counts. The bar of a count that equals most is 24 high.
func bars(counts []uint32, most uint32) string {
	const width, height = 4, 24
	var path []byte
	for i, n := range counts {
		if n == 0 {
			continue
		}
		h := max(1, int(math.Round(height*min(1, float64(n)/float64(most)))))
		path = fmt.Appendf(path, "M%d %dv-%dh%dv%dz", i*width, height, h, width-1, h)
	}
	return string(path)
}
