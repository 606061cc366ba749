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
		named[i] = hostOf(host)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		host := hostOf(req.Host)
		if !isLoopback(host) && !isLocal(req, host) && !slices.Contains(named, host) {
			http.Error(w, "this page does not answer to that host; see health.Registry.Hosts",
				http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// hostOf returns the host of a Host header, without a port, in one spelling: a name in lower case
// and without its last dot, or an address without brackets.
func hostOf(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().String()
	}
	return host
}

// isLoopback reports whether no resolver is asked for the name (RFC 6761 section 6.3), or it is an
// address of this machine's own.
func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	if err == nil {
		return addr.IsLoopback()
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
	return err == nil && addr.WithZone("") == local.AddrPort().Addr().Unmap().WithZone("")
}
