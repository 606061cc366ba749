package health

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
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

// policy is the Content-Security-Policy of all answers: nothing but the page's own style.
var policy = sync.OnceValue(func() string {
	sum := sha256.Sum256([]byte(pageCSS))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
})

// page is what the template shows.
type page struct {
	Title       string
	Style       template.CSS
	Status      Status
	Filters     []filter
	Rows        []row
	Show        string
	Query       string
	Refresh     int // seconds; 0: not by itself
	RefreshLink string
}

// A filter is a link to a part of the targets.
type filter struct {
	Name, Link string
	Count      int
	Current    bool
}

// A row is a target as the page shows it.
type row struct {
	ID, Anchor, About           string
	Badges                      []badge
	InFlight                    string
	Check, CheckError, Reserved string
	GoingOn                     []string
	Leaving                     bool
	CanDrain, CanDown, CanReady bool
}

// A badge is a state with the name of its colours, which are classes of the style.
type badge struct{ Text, Tone string }

func writePage(w http.ResponseWriter, req *http.Request, s Status) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	pageTemplate().Execute(w, newPage(req.URL.Query(), s))
}

func newPage(query url.Values, s Status) *page {
	p := &page{
		Title:  fmt.Sprintf("%d of %d targets serve", s.Serving, len(s.Targets)),
		Style:  template.CSS(pageCSS),
		Status: s,
		Show:   "all",
		Query:  query.Get("q"),
	}
	if n, err := strconv.Atoi(query.Get("refresh")); err == nil && n > 0 && n <= 3600 {
		p.Refresh = n
	}
	if show := query.Get("show"); show == "trouble" || show == "draining" {
		p.Show = show
	}
	p.filter(s)
	p.link()
	return p
}

// filter picks the targets that are shown, and counts the others.
func (p *page) filter(s Status) {
	shown := map[string]int{}
	add := func(t *TargetStatus, leaving bool) {
		if !matches(t, p.Query) {
			return
		}
		in := map[string]bool{
			"all": true, "trouble": inTrouble(t),
			"draining": leaving || t.Admin != balancer.Ready || t.Health == balancer.Reserved,
		}
		for name, is := range in {
			if is {
				shown[name]++
			}
		}
		if in[p.Show] {
			row := newRow(t, s.Time, s.Running)
			if leaving {
				row.markLeaving(len(p.Rows))
			}
			p.Rows = append(p.Rows, row)
		}
	}
	for i := range s.Targets {
		add(&s.Targets[i], false)
	}
	for i := range s.Leaving {
		add(&s.Leaving[i], true)
	}
	for _, f := range []filter{{Name: "All", Link: "all"}, {Name: "Trouble", Link: "trouble"}, {Name: "Taken out", Link: "draining"}} {
		f.Count, f.Current = shown[f.Link], p.Show == f.Link
		p.Filters = append(p.Filters, f)
	}
}

// link turns the filters' names into references.
func (p *page) link() {
	for i := range p.Filters {
		p.Filters[i].Link = reference(p.Filters[i].Link, p.Query, p.Refresh)
	}
	if p.Refresh > 0 {
		p.RefreshLink = reference(p.Show, p.Query, 0)
		return
	}
	p.RefreshLink = reference(p.Show, p.Query, 5)
}

func reference(show, query string, refresh int) string {
	v := url.Values{}
	if show != "all" {
		v.Set("show", show)
	}
	if query != "" {
		v.Set("q", query)
	}
	if refresh > 0 {
		v.Set("refresh", strconv.Itoa(refresh))
	}
	return "?" + v.Encode()
}

func matches(t *TargetStatus, query string) bool {
	query = strings.ToLower(query)
	for _, s := range []string{t.ID, t.URL, t.Addr, t.ServerName, t.Zone} {
		if strings.Contains(strings.ToLower(s), query) {
			return true
		}
	}
	return false
}

func inTrouble(t *TargetStatus) bool {
	return t.Health == balancer.Unhealthy || !t.EjectedUntil.IsZero() || t.Check.Error != ""
}

func newRow(t *TargetStatus, now time.Time, running bool) row {
	return row{
		ID:         t.ID,
		Anchor:     anchor(t.ID),
		About:      about(t),
		Badges:     badges(t),
		InFlight:   inFlight(t),
		Check:      checkText(t.Check, now),
		CheckError: t.Check.Error,
		Reserved:   t.Check.Reserved,
		GoingOn:    goingOn(t, now),
		CanDrain:   running && (t.Admin == balancer.Ready || t.Drain.Missing),
		CanDown:    t.Admin != balancer.Down,
		CanReady:   t.Admin != balancer.Ready || !t.EjectedUntil.IsZero(),
	}
}

// markLeaving makes the row, the nth, that of a target which has left the pool. Several may have one ID,
// so the row is named after its place.
func (r *row) markLeaving(n int) {
	r.Leaving, r.CanReady = true, false
	r.Anchor = "left-" + strconv.Itoa(n)
	r.Badges = append(r.Badges, badge{Text: "leaving", Tone: "warn"})
	r.Check = "no more"
}

// anchor is the name that a target's row has in references.
func anchor(id string) string { return "t-" + url.PathEscape(id) }

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
	if t.Weight != 1 {
		parts = append(parts, "weight "+strconv.Itoa(t.Weight))
	}
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

func inFlight(t *TargetStatus) string {
	switch {
	case t.Tunnels == 0:
		return strconv.FormatInt(t.Load, 10)
	case t.Tunnels == t.Load:
		return fmt.Sprintf("%d, all tunnels", t.Load)
	}
	return fmt.Sprintf("%d, %d of them tunnels", t.Load, t.Tunnels)
}

func checkText(c CheckStatus, now time.Time) string {
	if c.At.IsZero() {
		return "none yet"
	}
	came := streak(c.Streak)
	if c.Reserved != "" {
		came = "answered"
	}
	return fmt.Sprintf("%s ago, took %s, %s", coarse(now.Sub(c.At)), fine(c.Duration), came)
}

func streak(n int) string {
	switch {
	case n > 1:
		return fmt.Sprintf("%d good in a row", n)
	case n == 1:
		return "good"
	case n == -1:
		return "bad"
	case n < -1:
		return fmt.Sprintf("%d bad in a row", -n)
	}
	return "proves nothing"
}

// goingOn tells what will change by itself.
func goingOn(t *TargetStatus, now time.Time) []string {
	var lines []string
	if !t.EjectedUntil.IsZero() {
		lines = append(lines, fmt.Sprintf("Ejected for another %s%s.", coarse(t.EjectedUntil.Sub(now)), after(": ", t.Passive.Reason)))
	}
	if t.Drain.Missing {
		lines = append(lines, "It is missing in the list of targets.")
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
		text = "Ending what is left"
	}
	left := "nothing is in flight"
	if t.Load > 0 {
		left = inFlight(t) + " still in flight"
	}
	text += ", " + left
	if !t.Drain.Limit.IsZero() {
		text += fmt.Sprintf(", what is left is cut in %s", coarse(t.Drain.Limit.Sub(now)))
	}
	return text + "."
}

// after returns s behind prefix, or nothing if there is nothing.
func after(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// coarse writes a duration for people who look at a clock.
func coarse(d time.Duration) string {
	switch d = max(0, d); {
	case d < 100*time.Second:
		return fmt.Sprintf("%d\u00a0s", int(d.Round(time.Second)/time.Second))
	case d < 100*time.Minute:
		return fmt.Sprintf("%d\u00a0min", int(d.Round(time.Minute)/time.Minute))
	}
	return fmt.Sprintf("%d\u00a0h", int(d.Round(time.Hour)/time.Hour))
}

// fine writes how long something took, in three figures at the most.
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
