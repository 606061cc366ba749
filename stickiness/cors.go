package stickiness

import (
	"net/http"
	"net/url"
)

// A CORSMode says when an [LBCookie] writes its CORS twin. The twin is a second cookie with the
// same value, with "CORS" appended to its name, and with "SameSite=None; Secure". Browsers send the
// twin with cross-origin requests, for which they withhold the first cookie.
type CORSMode uint8

const (
	// CORSAuto writes the twin together with the first cookie in three cases: the client's
	// connection uses TLS, the request is cross-origin, or the client sent a twin, which must not
	// keep naming another target. If the first cookie itself has "SameSite=None; Secure", browsers
	// send it cross-origin: then no twin is written, and a twin that a client still has is ignored.
	// This is the zero value.
	CORSAuto CORSMode = iota
	// CORSAlways writes the twin together with every first cookie.
	CORSAlways
	// CORSNever writes no twin, and ignores a twin that a client has.
	CORSNever
)

// crossOrigin reports whether a browser sent r from another origin than r's own. It decides like
// [http.CrossOriginProtection] for unsafe methods: by Sec-Fetch-Site, else by comparing Origin's
// host with Host. It returns false for a request without both headers.
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
