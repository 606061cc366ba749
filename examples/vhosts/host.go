package main

import (
	"net"
	"net/netip"
	"strings"
)

// wildcardLabels is the largest number of labels in a wildcard, counting the star.
const wildcardLabels = 6

// normalize returns a Host header in the spelling of the keys in Redis: in lower case, without the
// port and without a dot at the end. An IPv6 address has brackets. It returns "" for anything that
// is not a host, such as a text with a "*".
func normalize(host string) string {
	if h, port, err := net.SplitHostPort(host); err == nil && strings.Trim(port, "0123456789") == "" {
		if strings.Contains(h, ":") {
			h = "[" + h + "]"
		}
		host = h
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, closed := strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)
		if err != nil || !closed || !addr.Is6() || addr.Zone() != "" {
			return ""
		}
		return "[" + addr.String() + "]"
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if len(host) > 253 {
		return ""
	}
	for label := range strings.SplitSeq(host, ".") {
		if !isLabel(label) {
			return ""
		}
	}
	return host
}

// isLabel reports whether s can be a label of a host in lower case. It accepts underscores, which
// DNS does not allow in host names but which are in use.
func isLabel(s string) bool {
	return s != "" && len(s) <= 63 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// candidates returns the names that match a host, the best first: the host itself, its wildcards
// from the longest to the shortest, and "*". Only "*" and the address itself match an address.
func candidates(host string) []string {
	if host == "" {
		return []string{"*"}
	}
	names := []string{host}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err != nil {
		labels := strings.Split(host, ".")
		labels = labels[max(0, len(labels)-wildcardLabels):]
		for i := 1; i < len(labels); i++ {
			names = append(names, "*."+strings.Join(labels[i:], "."))
		}
	}
	return append(names, "*")
}
