//go:build !unix

package upstream

// openRaw does nothing: only Unix lets a connection be looked at without waiting.
func (c *conn) openRaw() {}

// quiet takes an idle connection for open. If it is not, that is found out when the request is sent.
func (c *conn) quiet() bool { return true }
