package balancer

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Health is what is known about a target's ability to answer.
type Health uint8

// The states of health. Unknown targets get new sessions after healthy ones: a target that has not
// been checked yet is used, but not before one that is known to answer. Reserved serves bound
// sessions only, because the target itself asks for that. The operator's [Draining] has the same
// effect. The two are independent: ending one does not end the other.
const (
	HealthUnknown Health = iota
	Healthy
	Reserved
	Unhealthy
)

var healthNames = [...]string{"unknown", "healthy", "reserved", "unhealthy"}

// String returns "unknown", "healthy", "reserved" or "unhealthy".
func (h Health) String() string { return nameOf(healthNames[:], uint8(h)) }

// MarshalText implements [encoding.TextMarshaler] with the name.
func (h Health) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (h *Health) UnmarshalText(text []byte) error {
	return parseName(healthNames[:], string(text), (*uint8)(h))
}

// Admin is what the operator wants of a target.
type Admin uint8

// The administrative states, in the order in which a target is taken out of service.
const (
	Ready    Admin = iota // new and bound sessions
	Draining              // bound sessions only
	Moving                // no sessions: a bound session is a miss, and goes to another target
	Down                  // nobody
)

var adminNames = [...]string{"ready", "draining", "moving", "down"}

// String returns "ready", "draining", "moving" or "down".
func (a Admin) String() string { return nameOf(adminNames[:], uint8(a)) }

// MarshalText implements [encoding.TextMarshaler] with the name.
func (a Admin) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (a *Admin) UnmarshalText(text []byte) error {
	return parseName(adminNames[:], string(text), (*uint8)(a))
}

func nameOf(names []string, i uint8) string {
	if int(i) < len(names) {
		return names[i]
	}
	return "invalid"
}

// parseName stores the index of name in *to. After an error *to is unchanged.
func parseName(names []string, name string, to *uint8) error {
	i := slices.Index(names, name)
	if i < 0 {
		return fmt.Errorf("balancer: %q is none of %s", name, strings.Join(names, ", "))
	}
	*to = uint8(i)
	return nil
}

// State is a member's three independent states. The zero value is ready, of unknown health
// and not ejected.
type State struct {
	Health Health
	Admin  Admin

	// EjectedUntil is the end of an ejection, the zero time when there is none.
	EjectedUntil time.Time
}

// calm holds all states without an ejection, so that members in the same state share one value. A
// large pool needs less memory that way.
var calm = func() (states [Unhealthy + 1][Down + 1]State) {
	for h := range states {
		for a := range states[h] {
			states[h][a] = State{Health: Health(h), Admin: Admin(a)}
		}
	}
	return states
}()

// shared returns a pointer to a state equal to s that nobody changes.
func (s State) shared() *State {
	if s.EjectedUntil.IsZero() && s.Health <= Unhealthy && s.Admin <= Down {
		return &calm[s.Health][s.Admin]
	}
	return &s
}

func (s *State) equal(o *State) bool {
	return s.Health == o.Health && s.Admin == o.Admin && s.EjectedUntil.Equal(o.EjectedUntil)
}

// bound returns why a member in this state does not serve the sessions that are bound to
// it, or nil if it does.
func (s *State) bound() error {
	switch {
	case s.Admin == Ready || s.Admin == Draining:
	case s.Admin == Moving:
		return ErrMoving
	default:
		return ErrDown
	}
	switch {
	case s.Health > Reserved:
		return ErrDown
	case !s.EjectedUntil.IsZero():
		return ErrEjected
	}
	return nil
}

// serving reports whether a member in this state takes new sessions, as far as the state
// goes.
func (s *State) serving() bool { return s.Admin == Ready && !s.resting() }

// resting reports whether a member in this state takes no new sessions for a reason other than a
// drain. When it comes back it starts slowly.
func (s *State) resting() bool { return s.bound() != nil || s.Health == Reserved }
