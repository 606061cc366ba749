package wsproxy

import (
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// clientForwarded returns the last address in the Forwarded header (RFC 7239) that is not trusted,
// as clientBehind does for X-Forwarded-For, and its element. Nothing before a node that is unknown
// or obfuscated (section 6.3) is believed, and nothing of a line that is not valid: nobody knows
// where its elements begin.
func (t trust) clientForwarded(nearest netip.AddrPort, lines []string) (client netip.AddrPort, last forwardedPart) {
	for i := len(lines) - 1; i >= 0; i-- {
		parts, ok := parseForwarded(lines[i])
		if !ok {
			return nearest, last
		}
		for j := len(parts) - 1; j >= 0; j-- {
			if !parts[j].told {
				continue // an empty element is none (RFC 9110 section 5.6.1)
			}
			last = parts[j]
			addr, ok := parseNode(last.node)
			if !ok {
				return nearest, last
			}
			if nearest = addr; !t.trusts(addr.Addr()) {
				return nearest, last
			}
		}
	}
	return nearest, last
}

// A forwardedPart is one element of Forwarded: its for, proto and host.
type forwardedPart struct {
	node, proto, host string
	told              bool // the element has a parameter
}

// parseForwarded reads a line of Forwarded (RFC 7239 section 4). An element may be empty (RFC 9110
// section 5.6.1). There may be space around semicolons, because some proxies write it.
func parseForwarded(line string) ([]forwardedPart, bool) {
	var all []forwardedPart
	for more := true; more; {
		var part forwardedPart
		var ok bool
		if part, line, ok = parsePart(line); !ok {
			return nil, false
		}
		all = append(all, part)
		line, more = strings.CutPrefix(line, ",")
	}
	return all, true
}

// parsePart reads one element, up to the comma or the end.
func parsePart(s string) (part forwardedPart, rest string, ok bool) {
	var seen map[string]bool
	for more := true; more; {
		s = trimSpace(s)
		if s != "" && s[0] != ';' && s[0] != ',' {
			var name, value string
			if name, value, s, ok = parsePair(s); !ok || seen[name] {
				return part, s, false
			}
			if seen == nil {
				seen = make(map[string]bool)
			}
			seen[name], part.told = true, true
			switch name {
			case "for":
				part.node = value
			case "proto":
				part.proto = value
			case "host":
				part.host = value
			}
			s = trimSpace(s)
		}
		s, more = strings.CutPrefix(s, ";")
	}
	return part, s, s == "" || s[0] == ','
}

func trimSpace(s string) string { return strings.TrimLeft(s, " \t") }

// parsePair reads a parameter, and returns its name in lower case.
func parsePair(s string) (name, value, rest string, ok bool) {
	name, s, ok = strings.Cut(s, "=")
	if !ok || !httpguts.ValidHeaderFieldName(name) { // the name of a parameter is a token, as a field name is
		return "", "", s, false
	}
	if quoted, ok := strings.CutPrefix(s, `"`); ok {
		value, rest, ok = parseQuoted(quoted)
		return strings.ToLower(name), value, rest, ok
	}
	end := strings.IndexAny(s, ",; \t")
	if end < 0 {
		end = len(s)
	}
	return strings.ToLower(name), s[:end], s[end:], httpguts.ValidHeaderFieldName(s[:end])
}

// parseQuoted reads a quoted-string (RFC 9110 section 5.6.4) after its first quote.
func parseQuoted(s string) (value, rest string, ok bool) {
	if !httpguts.ValidHeaderFieldValue(s) {
		return "", "", false
	}
	var b strings.Builder
	for {
		i := strings.IndexAny(s, `"\`)
		if i < 0 {
			return "", "", false
		}
		b.WriteString(s[:i])
		if s[i] == '"' {
			return b.String(), s[i+1:], true
		}
		if i+1 == len(s) {
			return "", "", false
		}
		b.WriteByte(s[i+1])
		s = s[i+2:]
	}
}

// parseNode reads a node identifier (RFC 7239 section 6) that is an address. Its port may be
// obfuscated.
func parseNode(s string) (netip.AddrPort, bool) {
	name, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		name, port = s[:i], s[i+1:]
		if port == "" {
			return netip.AddrPort{}, false
		}
	}
	inner, bracketed := strings.CutPrefix(name, "[")
	if bracketed {
		if inner, bracketed = strings.CutSuffix(inner, "]"); !bracketed {
			return netip.AddrPort{}, false
		}
	}
	addr, err := netip.ParseAddr(inner)
	if err != nil || addr.Is6() != bracketed || addr.Zone() != "" {
		return netip.AddrPort{}, false
	}
	number, ok := parsePort(port)
	return netip.AddrPortFrom(addr.Unmap(), number), ok
}

// parsePort reads a node-port: up to five digits, or an obfuscated port, which counts as none.
func parsePort(s string) (uint16, bool) {
	if obfuscated, ok := strings.CutPrefix(s, "_"); ok {
		for _, c := range []byte(obfuscated) {
			if !isAlphanumeric(c) && c != '.' && c != '_' && c != '-' {
				return 0, false
			}
		}
		return 0, obfuscated != ""
	}
	if s == "" {
		return 0, true
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && len(s) <= 5
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// forwardedElement returns the element that this proxy adds.
func forwardedElement(host string, at *peer) string {
	element := "for=" + formatNode(at.addr) + ";proto=" + protoOf(at.secure)
	if host != "" {
		element += ";host=" + quoteForwarded(host)
	}
	return element
}

// formatNode returns an address as a node. An IPv6 address is in brackets, and therefore in quotes.
func formatNode(addr netip.Addr) string {
	switch addr = addr.WithZone(""); {
	case addr.Is6():
		return `"[` + addr.String() + `]"`
	case addr.IsValid():
		return addr.String()
	}
	return "unknown"
}

// quoteForwarded returns a value as a token, or as a quoted-string.
func quoteForwarded(s string) string {
	if httpguts.ValidHeaderFieldName(s) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// appendForwardedElement returns the lines of trusted peers and this proxy's element as one line.
// If the last line is not valid, the element gets a line of its own: on the same line it would not
// be valid either.
func appendForwardedElement(lines []string, element string) []string {
	for _, line := range lines {
		if _, ok := parseForwarded(line); !ok {
			return append(lines[:len(lines):len(lines)], element)
		}
	}
	return []string{appendTo(lines, element)}
}
