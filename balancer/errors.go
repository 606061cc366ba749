package balancer

import (
	"errors"
	"fmt"
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

	// ErrMoving reports that the target is giving its sessions away.
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
