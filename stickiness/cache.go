package stickiness

import (
	"net/http"
	"slices"
	"strings"
)

// privatize forbids shared caches to store a response that sets or deletes the balancer's cookie:
// they would bind all readers to one client's target. A private cache may still store it (RFC 9111,
// section 5.2.2).
//
// Directives that allow shared caches to store the response are removed. An unqualified "private"
// is put in front, because private="field, ..." covers the named fields only, and caches may use
// the first of several equal directives (section 4.2.1).
func privatize(h http.Header) {
	h.Del("CDN-Cache-Control")
	h.Del("Surrogate-Control")

	var kept []string
	private, changed := false, false
	for _, line := range h["Cache-Control"] {
		for line != "" {
			var d string
			d, line = cutDirective(line)
			name, _, qualified := strings.Cut(d, "=")
			switch strings.ToLower(strings.Trim(name, " \t")) {
			case "public", "s-maxage", "proxy-revalidate":
				changed = true
				continue
			case "private", "no-store":
				private = private || !qualified
			case "":
				continue
			}
			kept = append(kept, d)
		}
	}
	if private && !changed {
		return
	}
	if !private {
		kept = slices.Insert(kept, 0, "private")
	}
	h["Cache-Control"] = []string{strings.Join(kept, ", ")}
}

// cutDirective returns the first element of a Cache-Control list, trimmed, and what follows its
// comma. A comma inside a quoted string does not count. A quoted string without an end takes the
// whole rest.
func cutDirective(line string) (directive, rest string) {
	quoted, end := false, len(line)
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case quoted && c == '\\':
			i++ // a quoted pair
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			end, rest = i, line[i+1:]
			i = len(line)
		}
	}
	return strings.Trim(line[:end], " \t"), rest
}
