package stickiness

import (
	"net/http"
	"net/url"
)

// A CORSMode says when an [LBCookie] writes its CORS twin, a second cookie with the same
// value, "CORS" added to its name, and "SameSite=None; Secure". Browsers send the twin
// with cross-origin requests, where they withhold the first cookie.
type CORSMode uint8

const (
	// CORSAuto writes the twin together with the first cookie when the client's connection
	// is TLS, when the request is cross-origin, and when the client sent a twin, which must
	// not be left behind naming another target. If the first cookie itself is
	// "SameSite=None; Secure", it goes wherever a twin would go: then there is none, and one
	// that a client still has is not looked at. The zero value.
	CORSAuto CORSMode = iota
	// CORSAlways writes the twin together with every first cookie.
	CORSAlways
	// CORSNever neither writes a twin nor looks at one.
	CORSNever
)

// crossOrigin reports whether a browser made r for another origin than r's own, decided
// as [http.CrossOriginProtection] does for unsafe methods: Sec-Fetch-Site first, then
// Origin's host against Host. A request with neither is taken for same-origin.
func crossOrigin(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "":
	case "same-origin", "none":
		return false
	default:
		return true
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	o, err := url.Parse(origin)
	return err != nil || o.Host != r.Host
}
