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

// String returns the text for the kind in the log.
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
	Reason string         // why, in words for people; empty if the kind says it all
	By     string         // who asked for it, from Page.Who or Drain.By; empty: unknown

	// Missed is the number of events before this one that the subscriber has lost because its
	// channel was full.
	Missed int
}

type subscriber struct {
	events chan Event
	missed int // guarded by Registry.mu
}

// Subscribe returns a channel of the events from now on. Events happen while [Registry.Run] runs.
// The channel holds up to buffer events, and at least one. While it is full, events are lost for
// this subscriber, and Event.Missed counts them: a slow subscriber delays neither the registry nor
// others. The caller must call stop to end the subscription, which closes the channel. Stop may be
// called more than once.
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

// publishLocked logs e, and sends it to every subscriber that has room for it.
func (r *Registry) publishLocked(e Event) {
	e.Time, e.Pool = time.Now(), r.poolName()
	if r.run != nil {
		r.run.recordLocked(e)
	}
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

// logEvent writes one line. If the logger panics, only that line is lost.
func (r *Registry) logEvent(e Event) {
	defer func() {
		if v := recover(); v != nil {
			r.logPanic("the logger", v)
		}
	}()
	r.logger().LogAttrs(context.Background(), slog.LevelInfo, "health: "+e.Kind.String(), e.attrs()...)
}

// attrs returns the attributes of the event in the log. Empty ones are left out. The pool is left
// out too, because the logger has it already.
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
