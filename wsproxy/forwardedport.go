package wsproxy

import (
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// port returns the port that the client connected to. It is the listener's, or that of the Host
// header when the listener is not known.
func port(r *http.Request, secure bool) string {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		return portText(local.Port, r.Host)
	}
	if p := (&url.URL{Host: r.Host}).Port(); p != "" {
		return p
	}
	return portOf(protoOf(secure))
}

// portText returns a port in decimal. If host ends with the same text, the result is a part of it,
// which allocates nothing.
func portText(port int, host string) string {
	if port == 443 { // usually not in host
		return "443"
	}
	var memory [20]byte
	text := strconv.AppendInt(memory[:0], int64(port), 10)
	if strings.HasSuffix(host, string(text)) {
		return host[len(host)-len(text):]
	}
	return strconv.Itoa(port)
}

// portTold returns the port that the client used at a trusted peer. It is the port in
// X-Forwarded-Host, or the one that the scheme in X-Forwarded-Proto implies.
func portTold(h http.Header) string {
	host, _, _ := strings.Cut(h.Get("X-Forwarded-Host"), ",")
	if p := (&url.URL{Host: strings.TrimSpace(host)}).Port(); p != "" {
		return p
	}
	proto, _, _ := strings.Cut(h.Get("X-Forwarded-Proto"), ",")
	return portOf(strings.TrimSpace(proto))
}

// portOf returns the port that a scheme implies. It is empty for an unknown scheme.
func portOf(proto string) string {
	switch {
	case isSecureProto(proto):
		return "443"
	case strings.EqualFold(proto, "http"), strings.EqualFold(proto, "ws"):
		return "80"
	}
	return ""
}

// protoOf returns the scheme of a connection.
func protoOf(secure bool) string {
	if secure {
		return "https"
	}
	return "http"
}
