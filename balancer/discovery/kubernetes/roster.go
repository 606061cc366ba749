package kubernetes

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// A roster makes a set of pods from the endpoints in all slices. It also uses the pods of the last
// set, because the slices alone do not say which pods have served before.
type roster struct {
	hold time.Duration

	began    bool
	last     map[string]*pod      // the last set by key
	starting map[string]bool      // keys of pods that have not served yet
	vanished map[string]time.Time // when the pods that are held were missing first, by key
}

func newRoster(hold time.Duration) *roster {
	return &roster{hold: hold, starting: make(map[string]bool), vanished: make(map[string]time.Time)}
}

// update returns the pods of the endpoints, in the order of their IDs. It also returns the time
// from now until the next held pod is to be removed. Zero means that no pod is held. relisted says
// that events may have been missed since the last update.
func (r *roster) update(now time.Time, endpoints []*pod, relisted bool) (set []*pod, next time.Duration) {
	pods := r.byKey(byAddress(endpoints))
	r.leaveOutStarting(pods, relisted || !r.began)
	next = r.addVanished(pods, now)
	set = byID(pods, r.last)
	ignorePartialHints(set)
	r.began, r.last = true, make(map[string]*pod, len(set))
	for _, p := range set {
		r.last[p.key] = p
	}
	return set, next
}

// ignorePartialHints removes the hints if a ready pod has none. The control plane sets them for all
// pods or for none. While only some pods have hints, those would be overloaded.
func ignorePartialHints(set []*pod) {
	if !slices.ContainsFunc(set, func(p *pod) bool { return p.phase == ready && len(p.forZones) == 0 }) {
		return
	}
	for _, p := range set {
		p.forZones = nil
	}
}

// byAddress returns one endpoint for each address and port: the one in the best phase. While an
// endpoint moves from one slice to another it is in both, and they may be of different age.
func byAddress(endpoints []*pod) []*pod {
	slices.SortStableFunc(endpoints, func(a, b *pod) int {
		return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.port, b.port), cmp.Compare(a.phase, b.phase), cmp.Compare(a.key, b.key))
	})
	return slices.CompactFunc(endpoints, func(a, b *pod) bool { return a.addr == b.addr && a.port == b.port })
}

// byKey returns one endpoint for each pod, in the best phase of its addresses. A pod keeps the
// address that it had in the last set, or else gets the IPv4 one.
func (r *roster) byKey(endpoints []*pod) map[string]*pod {
	pods := make(map[string]*pod)
	for _, p := range endpoints { // IPv4 comes first
		had := pods[p.key]
		if had == nil {
			pods[p.key] = p
			continue
		}
		best := min(had.phase, p.phase)
		if r.kept(p) > r.kept(had) {
			pods[p.key], had = p, p
		}
		had.phase = best
	}
	return pods
}

// kept returns 2 if the pod of p had the same address and port in the last set, 1 if only the
// address is the same, and 0 otherwise.
func (r *roster) kept(p *pod) int {
	switch last := r.last[p.key]; {
	case last == nil || last.addr != p.addr:
		return 0
	case last.port != p.port:
		return 1
	}
	return 2
}

// leaveOutStarting removes the pods that have not served yet: no session can be bound to them, and
// checks would find them unhealthy. After a list, pods that do not serve may have served before.
func (r *roster) leaveOutStarting(pods map[string]*pod, listed bool) {
	maps.DeleteFunc(r.starting, func(key string, _ bool) bool { return pods[key] == nil })
	for key, p := range pods {
		switch {
		case p.phase != reserved:
			delete(r.starting, key)
		case r.last[key] == nil && !listed:
			r.starting[key] = true
		}
		if r.starting[key] {
			delete(pods, key)
		}
	}
}

// addVanished adds pods of the last set that have been missing for less than the hold.
func (r *roster) addVanished(pods map[string]*pod, now time.Time) (next time.Duration) {
	taken := make(map[netip.Addr]bool, len(pods))
	for key, p := range pods {
		delete(r.vanished, key)
		taken[p.addr] = true
	}
	for key, p := range r.last {
		if pods[key] != nil {
			continue
		}
		since, held := r.vanished[key]
		if !held {
			since = now
		}
		left := r.hold - now.Sub(since)
		if p.terminating || left <= 0 || taken[p.addr] {
			delete(r.vanished, key)
			continue
		}
		r.vanished[key] = since
		gone := *p
		gone.phase = max(p.phase, draining)
		pods[key] = &gone
		if next == 0 || left < next {
			next = left
		}
	}
	return next
}

// byID returns one pod for each ID, in the order of the IDs. Of two pods with one name, which
// ByName makes their ID, the one in the better phase wins, then the one of the last set.
func byID(pods map[string]*pod, last map[string]*pod) []*pod {
	set := slices.SortedFunc(maps.Values(pods), func(a, b *pod) int {
		isNew := func(p *pod) int {
			if last[p.key] == nil {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.phase, b.phase), cmp.Compare(isNew(a), isNew(b)),
			cmp.Compare(a.key, b.key))
	})
	return slices.CompactFunc(set, func(a, b *pod) bool { return a.id == b.id })
}
