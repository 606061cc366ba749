//go:build !unix

package underway

// isBacklogFull reports false: this system waits for a place.
func isBacklogFull(error) bool { return false }
