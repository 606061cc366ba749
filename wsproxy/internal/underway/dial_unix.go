//go:build unix

package underway

import (
	"errors"
	"syscall"
)

// isBacklogFull reports whether a Unix socket has refused a connection because too many wait to be
// accepted. Linux says EAGAIN; where ECONNREFUSED is said, nobody can tell it from no listener.
func isBacklogFull(err error) bool { return errors.Is(err, syscall.EAGAIN) }
