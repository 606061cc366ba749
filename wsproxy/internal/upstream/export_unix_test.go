//go:build unix

package upstream

// AfterLooks makes f be called whenever an idle connection has been looked at, before the request
// is written to it. Only the connections that are idle now are concerned.
func (t *Transport) AfterLooks(f func()) {
	t.idle.mu.Lock()
	defer t.idle.mu.Unlock()
	for _, conns := range t.idle.conns {
		for _, c := range conns {
			look := c.raw.peek
			c.raw.peek = func(fd uintptr) bool {
				defer f()
				return look(fd)
			}
		}
	}
}
