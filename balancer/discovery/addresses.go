package discovery

import (
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// enough is how many answers an address must be absent from before it is removed.
const enough = 3

// addresses are those of all answers, until they are removed. The zero value has none.
type addresses struct {
	all   map[netip.AddrPort]*address
	known bool // all is what can be reported; false: there was no answer yet

	empty absence // of all addresses together
}

// An address is in the latest answer, or it is absent and held.
type address struct {
	finding
	absence
}

// An absence counts the answers in a row that an address was not in. The zero value means that the
// latest answer had it.
type absence struct {
	answers int
	since   time.Time
}

// count adds an answer without the address. It reports whether the address is to be removed.
func (a *absence) count(now time.Time, hold time.Duration) bool {
	if a.answers == 0 {
		a.since = now
	}
	a.answers++
	return hold < 0 || a.answers >= enough && now.Sub(a.since) >= hold
}

// holdAll counts an empty answer. It reports whether the addresses are still kept. If not, it has
// removed all of them.
func (s *addresses) holdAll(now time.Time, hold time.Duration) bool {
	if !s.empty.count(now, hold) {
		return true
	}
	clear(s.all)
	s.known = true
	return false
}

// merge applies an answer that is not empty. It keeps at most limit addresses, and reports whether
// it has dropped absent ones because of the limit.
func (s *addresses) merge(a *answer, now time.Time, hold time.Duration, limit int) (dropped bool) {
	s.known, s.empty = true, absence{}
	if s.all == nil {
		s.all = make(map[netip.AddrPort]*address)
	}
	for key, f := range a.found {
		s.all[key] = &address{finding: f}
	}
	records := make(map[record]record, len(a.records)) // by host and port
	for _, r := range slices.Backward(a.records) {
		records[record{host: r.host, port: r.port}] = r
	}
	for key, e := range s.all {
		if _, ok := a.found[key]; ok {
			continue
		}
		if r, listed := records[record{host: e.host, port: e.port}]; listed {
			e.record = r
			if a.failures[question{e.host, e.network}] {
				continue
			}
		}
		if e.count(now, hold) {
			delete(s.all, key)
		}
	}
	return s.limit(limit)
}

// limit drops absent addresses until there are n, beginning with those that have been absent for
// the longest time. It reports whether it dropped any.
func (s *addresses) limit(n int) bool {
	if len(s.all) <= n {
		return false
	}
	keys := slices.SortedFunc(maps.Keys(s.all), func(x, y netip.AddrPort) int {
		a, b := s.all[x], s.all[y]
		switch {
		case a.answers == 0 && b.answers > 0:
			return -1
		case a.answers > 0 && b.answers == 0:
			return 1
		case !a.since.Equal(b.since):
			return b.since.Compare(a.since)
		}
		return x.Compare(y)
	})
	for _, key := range keys[n:] {
		delete(s.all, key)
	}
	return true
}

// targets returns the set that the source reports.
func (s *addresses) targets(q *query) []balancer.Target {
	scale, first := s.weighing()
	targets := make([]balancer.Target, 0, len(s.all))
	for _, key := range slices.SortedFunc(maps.Keys(s.all), netip.AddrPort.Compare) {
		e := s.all[key]
		t := balancer.Target{
			ID:     key.String(),
			URL:    &url.URL{Scheme: q.scheme, Host: q.host + ":" + strconv.Itoa(int(e.port))},
			Addr:   key.String(),
			Weight: max(1, int(e.weight)*scale),
			Backup: e.priority > first,
		}
		if q.scheme == "https" || q.scheme == "tcp" {
			t.ServerName = q.host
		}
		if e.host != q.name {
			t.Labels = map[string]string{"host": strings.TrimSuffix(e.host, ".")}
		}
		targets = append(targets, t)
	}
	return targets
}

// weighing returns the factor for weights (see [DNS]), and the priority of the targets that are not
// backups. 16 times the largest weight of a record is still a valid weight.
func (s *addresses) weighing() (scale int, first uint16) {
	zero, more := false, false
	first = ^uint16(0)
	for _, e := range s.all {
		first = min(first, e.priority)
		zero = zero || e.weight == 0
		more = more || e.weight > 0
	}
	if zero && more {
		return 16, first
	}
	return 1, first
}
