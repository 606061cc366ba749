//go:build !linux

package upstream

// untaken cannot be known here.
func (c *conn) untaken() bool { return false }
