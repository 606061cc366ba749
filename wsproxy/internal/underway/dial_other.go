//go:build !unix

package underway

// isBacklogFull reports false: on this system a dial waits while the backlog is full.
func isBacklogFull(error) bool { return false }
