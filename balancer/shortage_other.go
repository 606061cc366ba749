//go:build !windows

package balancer

// systemShortages are errors that only one system has.
var systemShortages []shortage
