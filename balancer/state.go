package balancer

import "time"

// Health is what is known about a target's ability to answer.
type Health uint8

// The states of health. Unknown serves new sessions after healthy: a target that nobody
// has checked yet is used, but not before one that is known to answer.
const (
	HealthUnknown Health = iota
	Healthy
	Unhealthy
)

var healthNames = [...]string{"unknown", "healthy", "unhealthy"}

// String returns "unknown", "healthy" or "unhealthy".
func (h Health) String() string { return nameOf(healthNames[:], uint8(h)) }

// MarshalText implements [encoding.TextMarshaler] with the name.
func (h Health) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// Admin is what the operator wants of a target.
type Admin uint8

// The administrative states, in the order in which a target is taken out of service.
const (
	Ready    Admin = iota // new and bound sessions
	Draining              // bound sessions only
	Moving                // nobody: bound sessions are a miss and find another target; what runs goes on
	Down                  // nobody
)

var adminNames = [...]string{"ready", "draining", "moving", "down"}

// String returns "ready", "draining", "moving" or "down".
func (a Admin) String() string { return nameOf(adminNames[:], uint8(a)) }

// MarshalText implements [encoding.TextMarshaler] with the name.
func (a Admin) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

func nameOf(names []string, i uint8) string {
	if int(i) < len(names) {
		return names[i]
	}
	return "invalid"
}

// State is a member's three independent states.
type State struct {
	Health Health
	Admin  Admin

	// EjectedUntil is the end of an ejection, the zero time when there is none.
	EjectedUntil time.Time
}

// bound returns why a member in this state does not serve the sessions that are bound to
// it, or nil if it does.
func (s *State) bound() error {
	switch {
	case s.Admin == Moving:
		return ErrMoving
	case s.Admin == Down || s.Health == Unhealthy:
		return ErrDown
	case !s.EjectedUntil.IsZero():
		return ErrEjected
	}
	return nil
}
