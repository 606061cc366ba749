package health

import (
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

var pageTemplate = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("status").Parse(pageHTML))
})

// policy is the Content-Security-Policy of all answers. It allows the page's own style and its
// icon, and nothing else.
var policy = sync.OnceValue(func() string {
	sum := sha256.Sum256([]byte(pageCSS))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
})

const (
	rowsOfPage   = 100 // targets; this makes a page of about 250 KB
	shownPresses = 10  // the latest presses in all pools
)

// A view is the data of the template.
type view struct {
	Title   string
	Style   template.CSS
	Time    string
	Notes   []string
	Pools   []poolRow
	Back    string // reference to the page of all pools; empty on that page
	Filters []filter
	Refresh filter
	Seconds int // between two refreshes; 0: none
	Query   string
	Hidden  []hidden // fields of the search form
	Sorts   []option
	Parts   []part
	Pager   pager
	Presses []pressRow

	query query
	all   []found // the targets on all pages
}

// A filter is a link to the page with only some of the targets.
type filter struct {
	Name, Link string
	Count      int
	Current    bool
}

type hidden struct{ Name, Value string }

type option struct {
	Name, Text string
	Current    bool
}

// A pager links to the pages before and after. It is empty if there is only one page.
type pager struct {
	Text           string
	Previous, Next string // empty: there is none
}

// A part has the targets of one pool.
type part struct {
	Pool string // empty: it has no name
	Rows []row
}

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

// A pressRow is a button that was pressed.
type pressRow struct {
	at                                          time.Time
	At, Time, By, Action, Target, Pool, Problem string
}

// A badge is a state and the class of its colours in the style.
type badge struct{ Text, Tone string }

func newView(q query, s PageStatus) *view {
	v := &view{Style: template.CSS(pageCSS), Seconds: q.refresh, Query: q.find}
	v.summarize(q, s.Pools)
	var counts map[string]int
	v.all, counts = q.choose(s.Pools)
	pages := max(1, (len(v.all)+rowsOfPage-1)/rowsOfPage)
	q.number = min(q.number, pages)
	v.query = q
	v.link(counts, pages)
	first := (q.number - 1) * rowsOfPage
	for i, f := range v.all[first:min(first+rowsOfPage, len(v.all))] {
		if n := len(v.Parts); n == 0 || v.Parts[n-1].Pool != f.pool.Pool {
			v.Parts = append(v.Parts, part{Pool: f.pool.Pool})
		}
		p := &v.Parts[len(v.Parts)-1]
		p.Rows = append(p.Rows, newRow(f, first+i))
	}
	return v
}

// summarize fills in the title, the notes, the summary of the pools and the presses.
func (v *view) summarize(q query, pools []Status) {
	serving, all := 0, 0
	name := ""
	for i := range pools {
		s := &pools[i]
		v.Time = s.Time.Local().Format("2006-01-02 15:04:05 MST")
		v.Pools = append(v.Pools, newPoolRow(q, s))
		for _, p := range s.Presses {
			v.Presses = append(v.Presses, pressRow{
				at: p.At, At: p.At.Format(time.RFC3339Nano), Time: p.At.Local().Format("01-02 15:04:05"),
				By: p.By, Action: p.Action, Target: p.Target, Pool: s.Pool, Problem: p.Problem,
			})
		}
		if q.pool != "" && q.pool != s.Pool {
			continue
		}
		name = s.Pool
		serving, all = serving+s.Serving, all+len(s.Targets)
		for _, note := range s.Notes {
			v.Notes = append(v.Notes, before(s.Pool, ": ")+note)
		}
	}
	v.Title = fmt.Sprintf("%d of %d targets serve", serving, all)
	if q.pool == "" && len(pools) > 1 {
		v.Title += fmt.Sprintf(" in %d pools", len(pools))
	} else {
		v.Title = before(name, ": ") + v.Title
	}
	slices.SortStableFunc(v.Presses, func(a, b pressRow) int { return b.at.Compare(a.at) })
	v.Presses = v.Presses[:min(len(v.Presses), shownPresses)]
}

// link fills in the links and forms that lead to other views.
func (v *view) link(counts map[string]int, pages int) {
	q := v.query
	if q.pool != "" && len(v.Pools) > 1 {
		v.Back = q.link(func(q *query) { q.pool, q.number = "", 1 })
	}
	for _, s := range shows {
		v.Filters = append(v.Filters, filter{
			Name: s.text, Count: counts[s.name], Current: q.show == s.name,
			Link: q.link(func(q *query) { q.show, q.number = s.name, 1 }),
		})
	}
	v.Refresh = filter{Name: "Refresh every 5 s", Link: q.link(func(q *query) { q.refresh = 5 })}
	if q.refresh > 0 {
		v.Refresh = filter{
			Name: fmt.Sprintf("Every %d s", q.refresh), Link: q.link(func(q *query) { q.refresh = 0 }), Current: true,
		}
	}
	for _, s := range sorts {
		v.Sorts = append(v.Sorts, option{s.name, s.text, q.sort == s.name})
	}
	kept := q.values()
	for _, name := range slices.Sorted(maps.Keys(kept)) {
		if !slices.Contains([]string{"q", "sort", "page"}, name) { // the form has q and sort, and begins at page 1
			v.Hidden = append(v.Hidden, hidden{name, kept.Get(name)})
		}
	}
	if pages == 1 {
		return
	}
	first := (q.number - 1) * rowsOfPage
	v.Pager.Text = fmt.Sprintf("%d to %d of %d targets", first+1, min(first+rowsOfPage, len(v.all)), len(v.all))
	if q.number > 1 {
		v.Pager.Previous = q.link(func(q *query) { q.number-- })
	}
	if q.number < pages {
		v.Pager.Next = q.link(func(q *query) { q.number++ })
	}
}

// placeOf returns a reference to the row of a target, on the page that has it.
func (v *view) placeOf(pool, id string) string {
	is := func(f found) bool { return f.ID == id && f.pool.Pool == pool }
	i := slices.IndexFunc(v.all, func(f found) bool { return is(f) && !f.leaving })
	if i < 0 {
		i = slices.IndexFunc(v.all, is)
	}
	if i < 0 {
		return v.query.link(func(*query) {}) + "#" + anchor(pool, id)
	}
	return v.query.link(func(q *query) { q.number = i/rowsOfPage + 1 }) + "#" + v.all[i].anchor(i)
}

// maxAnchor limits the length of an anchor, in bytes, because the anchor is in the Location header
// of the answer to a button.
const maxAnchor = 500

// anchor returns the HTML ID of a target's row. It replaces a long ID by its hash.
func anchor(pool, id string) string {
	name := before(url.PathEscape(pool), "/") + url.PathEscape(id)
	if len(name) > maxAnchor {
		return fmt.Sprintf("h-%x", sha256.Sum256([]byte(name)))
	}
	return "t-" + name
}

// anchor returns the HTML ID of the row of f, the nth target of the view. For a target that has
// left, it contains n in place of the target's ID, because several such targets may have the same
// ID.
func (f found) anchor(n int) string {
	if f.leaving {
		return "left-" + strconv.Itoa(n)
	}
	return anchor(f.pool.Pool, f.ID)
}

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
	parts := []string{t.URL}
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

// before returns s and the suffix, or "" if s is empty.
func before(s, suffix string) string {
	if s == "" {
		return ""
	}
	return s + suffix
}

// after returns the prefix and s, or "" if s is empty.
func after(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// count formats a number with commas, or in millions.
func count(n int64) string {
	switch {
	case n < 0:
		return "0"
	case n >= 10_000_000:
		return strconv.FormatFloat(float64(n)/1e6, 'f', 1, 64) + "\u00a0M"
	}
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// perSecond formats a rate with up to three digits.
func perSecond(rate float64) string {
	switch {
	case rate == 0:
		return "0"
	case rate < 0.1:
		return "< 0.1"
	case rate < 10:
		return strconv.FormatFloat(rate, 'f', 1, 64)
	}
	return count(int64(math.Round(rate)))
}

// coarse formats a duration in whole seconds, minutes or hours.
func coarse(d time.Duration) string {
	switch d = max(0, d); {
	case d < 100*time.Second:
		return fmt.Sprintf("%d\u00a0s", int(d.Round(time.Second)/time.Second))
	case d < 100*time.Minute:
		return fmt.Sprintf("%d\u00a0min", int(d.Round(time.Minute)/time.Minute))
	}
	return fmt.Sprintf("%d\u00a0h", int(d.Round(time.Hour)/time.Hour))
}

// fine formats a duration with up to three digits.
func fine(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d\u00a0µs", d/time.Microsecond)
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f\u00a0ms", float64(d)/1e6)
	case d < time.Second:
		return fmt.Sprintf("%d\u00a0ms", d/time.Millisecond)
	}
	return fmt.Sprintf("%.1f\u00a0s", d.Seconds())
}
