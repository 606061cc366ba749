package health

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// onlyFor refuses requests for any host but loopback names, the address that the connection came
// to, and the given hosts. A page from elsewhere, whose name was made to resolve to this server
// (DNS rebinding), counts as same-origin in a browser, but it has its own name in Host.
func onlyFor(hosts []string, next http.Handler) http.Handler {
	named := make([]string, len(hosts))
	for i, host := range hosts {
		named[i] = strings.ToLower(trimDot(host))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		host := strings.ToLower(trimDot(withoutPort(req.Host)))
		if !isLoopback(host) && !isLocal(req, host) && !slices.Contains(named, host) {
			http.Error(w, "this page does not answer to that host; see health.Registry.Hosts",
				http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// withoutPort returns the host of a Host header: a name, an IPv4 address, or an IPv6 address with
// or without its brackets.
func withoutPort(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
}

func trimDot(name string) string { return strings.TrimSuffix(name, ".") }

// isLoopback reports whether no resolver is asked for the name (RFC 6761 section 6.3), or it is an
// address of this machine's own.
func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	if err == nil {
		return addr.Unmap().IsLoopback()
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// isLocal reports whether host is the address that the request's connection came to. A page cannot
// have an address for a name without being at that address.
func isLocal(req *http.Request, host string) bool {
	local, ok := req.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if !ok {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().WithZone("") == local.AddrPort().Addr().Unmap().WithZone("")
}
