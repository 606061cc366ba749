//go:build !unix

package upstream

// AfterLooks does nothing, because idle connections are not looked at here.
func (t *Transport) AfterLooks(func()) {}
