package wsproxy

import "time"

// LimitUploads shortens how long a target may take nothing of an upload. It must come before the
// first request.
func LimitUploads(p *Proxy, d time.Duration) {
	rt := p.setup()
	rt.uploadLimit, rt.transports.own.WriteTimeout = d, d
}

// PatientAhead has the proxy wait that long for a client that pauses while its body is read ahead,
// so that a machine that stalls changes nothing. It must come before the first request.
func PatientAhead(p *Proxy, d time.Duration) { p.setup().aheadPause = d }

// Lanes returns how many members the proxy knows ways to.
func Lanes(p *Proxy) (n int) {
	p.setup().transports.lanes.Range(func(any, any) bool { n++; return true })
	return n
}
