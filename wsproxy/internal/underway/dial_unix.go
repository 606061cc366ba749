//go:build unix

package underway

import (
	"errors"
	"syscall"
)

// isBacklogFull reports whether a Unix socket refused a connection because its backlog is full.
// Linux returns EAGAIN. Systems that return ECONNREFUSED do not tell it from a socket without a
// listener.
func isBacklogFull(err error) bool { return errors.Is(err, syscall.EAGAIN) }
