//go:build !linux

package upstream

// untaken reports false: this system cannot tell.
func (c *conn) untaken() bool { return false }
