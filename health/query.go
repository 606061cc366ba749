package health

import (
	"cmp"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/stickylb/stickylb/balancer"
)

// A query holds the parameters of the page's URL.
type query struct {
	pool    string // empty: all
	show    string // one of shows
	find    string
	sort    string // one of sorts
	number  int    // of the page, from 1
	refresh int    // seconds between two refreshes; 0: none
	format  string // html if the query asks for it, so that links keep it; else empty
}

// shows are the values of the parameter show, with their text on the page.
var shows = []struct{ name, text string }{{"all", "All"}, {"trouble", "Trouble"}, {"draining", "Taken out"}}

// sorts are the values of the parameter sort, with their text on the page.
var sorts = []struct {
	name, text string
	compare    func(a, b *TargetStatus) int // nil: as configured
}{
	{"worst", "worst first", byWorst},
	{"order", "as configured", nil},
	{"name", "name", func(a, b *TargetStatus) int { return strings.Compare(a.ID, b.ID) }},
	{"load", "in flight", func(a, b *TargetStatus) int { return cmp.Compare(b.Load, a.Load) }},
	{"rate", "per second", func(a, b *TargetStatus) int { return cmp.Compare(rate(b), rate(a)) }},
	{"failures", "failures", func(a, b *TargetStatus) int { return cmp.Compare(failures(b), failures(a)) }},
	{"latency", "latency", func(a, b *TargetStatus) int { return cmp.Compare(b.Traffic.P99, a.Traffic.P99) }},
	{"downtime", "downtime", func(a, b *TargetStatus) int { return cmp.Compare(b.Downtime.Total, a.Downtime.Total) }},
	{"change", "last change", func(a, b *TargetStatus) int { return b.Change.At.Compare(a.Change.At) }},
}

// maxFind limits the text of the search box, in bytes. The text is compared with all targets, and
// is in every link of the page.
const maxFind = 256

// readQuery returns the query of a request. A parameter with an invalid value counts as absent.
func readQuery(v url.Values) query {
	q := query{pool: v.Get("pool"), show: shows[0].name, find: v.Get("q"), sort: sorts[0].name, number: 1}
	if len(q.find) > maxFind {
		q.find = ""
	}
	for _, s := range shows {
		if s.name == v.Get("show") {
			q.show = s.name
		}
	}
	for _, s := range sorts {
		if s.name == v.Get("sort") {
			q.sort = s.name
		}
	}
	if n, err := strconv.Atoi(v.Get("page")); err == nil && n > 0 {
		q.number = n
	}
	if n, err := strconv.Atoi(v.Get("refresh")); err == nil && n > 0 && n <= 3600 {
		q.refresh = n
	}
	if v.Get("format") == "html" {
		q.format = "html"
	}
	return q
}

// values returns the parameters. Those with their default value are left out.
func (q query) values() url.Values {
	v := url.Values{}
	set := func(name, value, usual string) {
		if value != usual {
			v.Set(name, value)
		}
	}
	set("pool", q.pool, "")
	set("show", q.show, shows[0].name)
	set("q", q.find, "")
	set("sort", q.sort, sorts[0].name)
	set("page", strconv.Itoa(q.number), "1")
	set("refresh", strconv.Itoa(q.refresh), "0")
	set("format", q.format, "")
	return v
}

// link returns a reference to the page with the query after change.
func (q query) link(change func(*query)) string {
	change(&q)
	return "?" + q.values().Encode()
}

// A found is a target that the page may show.
type found struct {
	*TargetStatus
	pool    *Status
	leaving bool
}

// matches reports whether the target contains the text of the search box.
func (q query) matches(t *TargetStatus) bool {
	find := strings.ToLower(q.find)
	for _, s := range []string{t.ID, t.URL, t.Addr, t.ServerName, t.Zone} {
		if strings.Contains(strings.ToLower(s), find) {
			return true
		}
	}
	return false
}

// choose returns the targets that the page shows, in order, pool by pool. The map counts the
// targets that each value of show would have.
func (q query) choose(pools []Status) (chosen []found, counts map[string]int) {
	counts = make(map[string]int)
	for i := range pools {
		pool := &pools[i]
		if q.pool != "" && pool.Pool != q.pool {
			continue
		}
		first := len(chosen)
		add := func(t *TargetStatus, leaving bool) {
			if !q.matches(t) {
				return
			}
			in := map[string]bool{"all": true, "trouble": inTrouble(t), "draining": isTakenOut(t, leaving)}
			for name, is := range in {
				if is {
					counts[name]++
				}
			}
			if in[q.show] {
				chosen = append(chosen, found{t, pool, leaving})
			}
		}
		for j := range pool.Targets {
			add(&pool.Targets[j], false)
		}
		for j := range pool.Leaving {
			add(&pool.Leaving[j], true)
		}
		q.order(chosen[first:])
	}
	return chosen, counts
}

// order sorts targets of one pool.
func (q query) order(of []found) {
	for _, s := range sorts {
		if s.name == q.sort && s.compare != nil {
			slices.SortStableFunc(of, func(a, b found) int { return s.compare(a.TargetStatus, b.TargetStatus) })
		}
	}
}

func inTrouble(t *TargetStatus) bool {
	return t.Health == balancer.Unhealthy || !t.EjectedUntil.IsZero() || t.Check.Error != "" || t.Traffic.FailedRate > 0
}

func isTakenOut(t *TargetStatus, leaving bool) bool {
	return leaving || t.Admin != balancer.Ready || t.Health == balancer.Reserved
}

// byWorst orders targets by how urgently an operator should look at them.
func byWorst(a, b *TargetStatus) int {
	return cmp.Or(cmp.Compare(badness(b), badness(a)), cmp.Compare(b.Traffic.FailedRate, a.Traffic.FailedRate))
}

func badness(t *TargetStatus) int {
	switch {
	case t.Health == balancer.Unhealthy && t.Admin == balancer.Ready:
		return 8
	case !t.EjectedUntil.IsZero():
		return 7
	case t.Health == balancer.Unhealthy:
		return 6
	case t.Check.Error != "":
		return 5
	case t.Traffic.FailedRate > 0:
		return 4
	case t.Admin != balancer.Ready:
		return 3
	case t.Health == balancer.Reserved:
		return 2
	case t.Health == balancer.HealthUnknown:
		return 1
	}
	return 0
}

func rate(t *TargetStatus) float64 { return t.Traffic.RequestRate + t.Traffic.TunnelRate }

// failures returns how many attempts at the target failed, as in TrafficStatus.FailedRate.
func failures(t *TargetStatus) (n int64) {
	for _, f := range failuresOf(t.Outcomes) {
		n += f.Count
	}
	return n
}

// failuresOf returns the outcomes that count as failures on the page.
func failuresOf(outcomes []OutcomeStatus) []OutcomeStatus {
	var failed []OutcomeStatus
	for _, o := range outcomes {
		switch o.Class {
		case balancer.ClientGone.String(), balancer.Unjudged.String():
		case balancer.OK.String():
			if o.Status == "5xx" {
				failed = append(failed, o)
			}
		default:
			failed = append(failed, o)
		}
	}
	return failed
}
