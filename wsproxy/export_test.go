package wsproxy

import "time"

// LimitUploads shortens how long a target may take nothing of an upload. It must come before the first request.
func LimitUploads(p *Proxy, d time.Duration) {
	rt := p.setup()
	rt.uploadLimit, rt.transports.own.WriteTimeout = d, d
}
