package health

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"
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

// A pressRow is a button that was pressed.
type pressRow struct {
	at                                          time.Time
	At, Time, By, Action, Target, Pool, Problem string
}

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
