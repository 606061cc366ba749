package wsproxy

import (
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// port is the one that the client connected to, which the server knows better than the Host header
// does.
func port(r *http.Request, secure bool) string {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		return strconv.Itoa(local.Port)
	}
	if p := (&url.URL{Host: r.Host}).Port(); p != "" {
		return p
	}
	return portOf(protoOf(secure))
}

// portTold is the port of a listener that a trusted peer tells of: ours is not the one that the
// client used. It is that of the host that the client asked for, which has none where the scheme
// implies it.
func portTold(h http.Header) string {
	host, _, _ := strings.Cut(h.Get("X-Forwarded-Host"), ",")
	if p := (&url.URL{Host: strings.TrimSpace(host)}).Port(); p != "" {
		return p
	}
	proto, _, _ := strings.Cut(h.Get("X-Forwarded-Proto"), ",")
	return portOf(strings.TrimSpace(proto))
}

// portOf is the port that a scheme implies; empty when it is none of ours.
func portOf(proto string) string {
	switch {
	case isSecureProto(proto):
		return "443"
	case strings.EqualFold(proto, "http"), strings.EqualFold(proto, "ws"):
		return "80"
	}
	return ""
}

func protoOf(secure bool) string {
	if secure {
		return "https"
	}
	return "http"
}
