package health

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// onlyFor answers 421 unless the request's host is a loopback name, the address that the connection
// was made to, or one of hosts. This prevents DNS rebinding: a foreign page whose name resolves to
// this server is same-origin for a browser, but the browser sends that name in Host.
func onlyFor(hosts []string, next http.Handler) http.Handler {
	named := make([]string, len(hosts))
	for i, host := range hosts {
		named[i] = hostOf(host)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		host := hostOf(req.Host)
		if !isLoopback(host) && !isLocal(req, host) && !slices.Contains(named, host) {
			http.Error(w, "this page does not answer to that host; see health.Page.Hosts",
				http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// checkHost returns an error if no Host header can have host.
func checkHost(host string) error {
	if hostOf(host) == "" || strings.ContainsAny(host, "/?#@ ") {
		return fmt.Errorf("health: Page.Hosts: %q is neither a name nor an address", host)
	}
	return nil
}

// hostOf returns the host of a Host header in one spelling, without the port: a name in lower case
// without its last dot, or an address without brackets.
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

// isLoopback reports whether host is a loopback address, localhost, or a name below it (RFC 6761
// section 6.3).
func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	if err == nil {
		return addr.IsLoopback()
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// isLocal reports whether host is the address that the request's connection was made to. A browser
// sends that in Host only for a page that it loaded from this address.
func isLocal(req *http.Request, host string) bool {
	local, ok := req.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if !ok {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.WithZone("") == local.AddrPort().Addr().Unmap().WithZone("")
}
