package health

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// An EventKind says what an [Event] is about.
type EventKind uint8

// The kinds of events.
const (
	TargetAdded   EventKind = iota + 1 // the target came into the pool
	TargetRemoved                      // the target left the pool
	HealthChanged                      // State.Health is new
	AdminChanged                       // State.Admin is new
	Ejected                            // the target is out of service until State.EjectedUntil
	Returned                           // the target's ejection is over
	ZoneLost                           // no target of the zone can take new sessions any more
	ZoneBack                           // the zone has a target again that can
)

// String returns words for the kind, as they are logged.
func (k EventKind) String() string {
	switch k {
	case TargetAdded:
		return "target added"
	case TargetRemoved:
		return "target removed"
	case HealthChanged:
		return "target health changed"
	case AdminChanged:
		return "target admin state changed"
	case Ejected:
		return "target ejected"
	case Returned:
		return "target returned from ejection"
	case ZoneLost:
		return "zone has no healthy target"
	case ZoneBack:
		return "zone has a healthy target again"
	}
	return fmt.Sprintf("EventKind(%d)", uint8(k))
}

// An Event is a change of a target's state, or of a zone's.
type Event struct {
	Time   time.Time
	Kind   EventKind
	Pool   string         // balancer.Config.Name; empty: it has none
	Target string         // the target's ID; empty for a zone's events
	Zone   string         // the zone, or the target's zone; empty: it has none
	State  balancer.State // the target's, after the change; for TargetRemoved its last one
	Reason string         // why, in words for people; empty if that goes without saying
	By     string         // who asked for it, on the page or in Drain.By; empty: nobody is known

	// Missed is how many events before this one the subscriber did not get, because it had
	// not taken earlier ones.
	Missed int
}

type subscriber struct {
	events chan Event
	missed int // guarded by Registry.mu
}

// Subscribe returns a channel of the events that happen from now on, while [Registry.Run] runs.
// Up to buffer events (at least one) wait in it; when it is full, events are left out for this
// subscriber, and Event.Missed counts them: nobody who is slow delays the registry or others.
// The caller calls stop when it wants no more; that closes the channel. Stop may be called
// again.
func (r *Registry) Subscribe(buffer int) (events <-chan Event, stop func()) {
	s := &subscriber{events: make(chan Event, max(1, buffer))}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.subscribers == nil {
		r.subscribers = make(map[*subscriber]struct{})
	}
	r.subscribers[s] = struct{}{}
	return s.events, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if _, on := r.subscribers[s]; on {
			delete(r.subscribers, s)
			close(s.events)
		}
	}
}

// publishLocked hands e to every subscriber that has room for it.
func (r *Registry) publishLocked(e Event) {
	e.Time, e.Pool = time.Now(), r.poolName()
	for s := range r.subscribers {
		e.Missed = s.missed
		select {
		case s.events <- e:
			s.missed = 0
		default:
			s.missed++
		}
	}
}

// logBuffer is how many events wait for the log. It has room for a restart of all targets of a
// large pool, while the log is written by a goroutine of its own.
const logBuffer = 4096

func (r *Registry) logEvents(events <-chan Event) {
	for e := range events {
		r.logEvent(e)
	}
}

// logEvent writes one line. A logger that panics loses that line and no other.
func (r *Registry) logEvent(e Event) {
	defer func() {
		if v := recover(); v != nil {
			r.logPanic("the logger", v)
		}
	}()
	r.logger().LogAttrs(context.Background(), slog.LevelInfo, "health: "+e.Kind.String(), e.attrs()...)
}

// attrs are what the log says of the event, without what is empty, and without the pool, which the
// logger has already.
func (e Event) attrs() []slog.Attr {
	var attrs []slog.Attr
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	add("target", e.Target)
	add("zone", e.Zone)
	switch e.Kind {
	case HealthChanged:
		add("health", e.State.Health.String())
	case AdminChanged:
		add("admin", e.State.Admin.String())
	case Ejected:
		attrs = append(attrs, slog.Time("until", e.State.EjectedUntil))
	}
	add("reason", e.Reason)
	add("by", e.By)
	if e.Missed > 0 {
		attrs = append(attrs, slog.Int("missed", e.Missed))
	}
	return attrs
}
