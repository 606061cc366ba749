package balancer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The reasons for which there is no lease; match them with [errors.Is].
var (
	// ErrNoTarget reports that no target can take the request. It also matches ErrFull or
	// ErrExcluded where that was the reason.
	ErrNoTarget = errors.New("balancer: no target")

	// ErrUnknown reports that the pool has no target of that ID.
	ErrUnknown = errors.New("balancer: unknown target")

	// ErrDown reports that the target is unhealthy or administratively down.
	ErrDown = errors.New("balancer: target is down")

	// ErrEjected reports that the target is ejected for a while.
	ErrEjected = errors.New("balancer: target is ejected")

	// ErrMoving reports that the target's sessions are being moved to other targets.
	ErrMoving = errors.New("balancer: target is moving its sessions")

	// ErrShare reports that the session is not in the share that the target keeps; see
	// [Member.SetShare]. It also matches ErrMoving.
	ErrShare = fmt.Errorf("%w: the session is beyond its share", ErrMoving)

	// ErrFull reports that the target has reached a limit, and that waiting did not help.
	ErrFull = errors.New("balancer: target is full")

	// ErrExcluded reports that this request has excluded the target; see Request.Exclude.
	ErrExcluded = errors.New("balancer: target failed this request already")
)

var (
	errAllFull     = fmt.Errorf("%w: every target is full (%w)", ErrNoTarget, ErrFull)
	errAllExcluded = fmt.Errorf("%w: every target failed this request (%w)", ErrNoTarget, ErrExcluded)
)

// A PoolError says which pool an error is about. [New], [Pool.Update], [Pool.Acquire] and
// [Pool.AcquireBound] return one if the pool has a name. Match the cause with [errors.Is].
type PoolError struct {
	Pool string // Config.Name
	Err  error
}

// Error implements error.
func (e *PoolError) Error() string {
	return fmt.Sprintf("balancer: pool %q: %s", e.Pool, strings.TrimPrefix(e.Err.Error(), "balancer: "))
}

// Unwrap returns the cause.
func (e *PoolError) Unwrap() error { return e.Err }

// inPool adds the pool's name, if there is one, to err.
func inPool(name string, err error) error {
	if name == "" {
		return err
	}
	return &PoolError{Pool: name, Err: err}
}

// refusalsOf returns the errors of Acquire and AcquireBound for a pool of that name. They are made
// once, because a refusal may be part of every request.
func refusalsOf(name string) []*PoolError {
	if name == "" {
		return nil
	}
	all := []error{
		ErrNoTarget, ErrUnknown, ErrDown, ErrEjected, ErrMoving, ErrShare, ErrFull, ErrExcluded,
		errAllFull, errAllExcluded,
	}
	named := make([]*PoolError, len(all))
	for i, err := range all {
		named[i] = &PoolError{Pool: name, Err: err}
	}
	return named
}

// refused returns err with the pool's name, if it has one. The error of a context that ended a wait
// is not about the pool and stays as it is.
func (p *Pool) refused(err error) error {
	if i := slices.IndexFunc(p.refusals, func(e *PoolError) bool { return e.Err == err }); i >= 0 {
		return p.refusals[i]
	}
	return err
}
