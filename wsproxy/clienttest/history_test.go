package clienttest_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// A trouble is what is wrong with a target for a while.
type trouble uint8

const (
	dead    trouble = 1 << iota // its process is gone, or just back
	frozen                      // its process is stopped
	ill                         // the pool has it as unhealthy or ejected
	leaving                     // the pool has it as moving or down
	down                        // the pool has it as down
	nobody                      // no target takes new sessions; it has the empty ID
	starved                     // this machine was slow, whoever was asked; it has the empty ID
)

const (
	// settling is how long after a target serves again its end may still be felt: a kept connection to a process that is
	// gone fails when it is used before its end has been noticed.
	settling = time.Second
	// telling is how much later than the pool acts on a new state the history may hear of it, on a machine where whoever
	// tells it has to wait for a processor.
	telling = 2 * time.Second
)

type span struct {
	what     trouble
	from, to time.Time // to is zero as long as it lasts
}

// String writes times as seconds since the tests began.
func (s span) String() string {
	until := "now"
	if !s.to.IsZero() {
		until = since(s.to)
	}
	var names []string
	for i, name := range []string{"dead", "frozen", "ill", "leaving", "down", "nobody", "starved"} {
		if s.what&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return fmt.Sprintf("%s %s-%s", strings.Join(names, "+"), since(s.from), until)
}

var began = time.Now()

func since(t time.Time) string { return fmt.Sprintf("%.3f", t.Sub(began).Seconds()) }

// A history knows what was wrong with whom, and when. It observes the pool.
type history struct {
	mu     sync.Mutex
	states map[string]balancer.State
	spans  map[string][]span // by target
	alarms int               // how often a target became ill although nothing had been done to it
}

func newHistory(pool *balancer.Pool) *history {
	h := &history{spans: make(map[string][]span), states: make(map[string]balancer.State)}
	for _, m := range pool.Members() {
		h.states[m.ID()] = m.State()
	}
	return h
}

// begin notes a trouble that lasts until end, if it does not last already.
func (h *history) begin(id string, what trouble) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lasts(id, what) == nil {
		h.spans[id] = append(h.spans[id], span{what: what, from: time.Now()})
	}
}

func (h *history) end(id string, what trouble) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.lasts(id, what); s != nil {
		s.to = time.Now()
	}
}

// lasts returns the trouble that has not ended, or nil. h.mu is held.
func (h *history) lasts(id string, what trouble) *span {
	for i := range h.spans[id] {
		if s := &h.spans[id][i]; s.what == what && s.to.IsZero() {
			return s
		}
	}
	return nil
}

// had reports whether the target had one of these troubles at some time of an interval.
func (h *history) had(id string, any trouble, from, to time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.spans[id] {
		if s.what&any == 0 {
			continue
		}
		begin, end := s.from, s.to
		if s.what&(ill|leaving|down|nobody) != 0 {
			begin = h.awake(begin.Add(-telling), begin)
		}
		if s.what == dead && !end.IsZero() {
			end = end.Add(settling)
		}
		if begin.Before(to) && (end.IsZero() || end.After(from)) {
			return true
		}
	}
	return false
}

// awake returns from, or the beginning of what the machine has slept through since, until to. h.mu is held.
func (h *history) awake(from, to time.Time) time.Time {
	begin := from
	for _, s := range h.spans[""] {
		if s.what == starved && s.to.After(from) && s.from.Before(to) && s.from.Before(begin) {
			begin = s.from
		}
	}
	return begin
}

// watch notes when this machine is so slow that limits may pass which nobody is to blame for: when it takes long to ask,
// now and then, a server to which nothing is done.
func (h *history) watch(ctx context.Context, url string) {
	const each, late = 50 * time.Millisecond, 500 * time.Millisecond
	client := http.Client{Transport: new(http.Transport)}
	defer client.CloseIdleConnections()
	timer := time.NewTimer(each)
	defer timer.Stop()
	for last := time.Now(); ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		if res, err := client.Get(url); err == nil {
			res.Body.Close()
		}
		now := time.Now()
		if now.Sub(last) > each+late {
			h.mu.Lock()
			h.spans[""] = append(h.spans[""], span{starved, last, now})
			h.mu.Unlock()
		}
		last = now
		timer.Reset(each)
	}
}

// Released implements balancer.Observer.
func (h *history) Released(*balancer.Member, balancer.Outcome) {}

// Changed implements balancer.Observer. What counts are the states that it is told, one after the other: members may have
// others by now. An ejection lasts until the pool says that it is over, which may be later than its time.
func (h *history) Changed(m *balancer.Member, s balancer.State) {
	h.set(m.ID(), ill, unwell(s))
	h.set(m.ID(), leaving, s.Admin >= balancer.Moving)
	h.set(m.ID(), down, s.Admin == balancer.Down)
	h.mu.Lock()
	h.states[m.ID()] = s
	serving := 0
	for _, s := range h.states {
		if s.Admin == balancer.Ready && !unwell(s) {
			serving++
		}
	}
	h.mu.Unlock()
	h.set("", nobody, serving == 0)
}

func unwell(s balancer.State) bool { return s.Health == balancer.Unhealthy || !s.EjectedUntil.IsZero() }

func (h *history) set(id string, what trouble, now bool) {
	if !now {
		h.end(id, what)
		return
	}
	if what == ill && !h.had(id, dead|frozen, time.Now(), time.Now().Add(1)) {
		h.mu.Lock()
		if h.lasts(id, ill) == nil {
			h.alarms++
		}
		h.mu.Unlock()
	}
	h.begin(id, what)
}
