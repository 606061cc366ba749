package cookie

import (
	"iter"
	"net/http"
	"slices"
	"strings"
)

// Values returns the values of all cookies of that name in a request, in the order in which they
// were sent, from all Cookie lines of h. A value is not decoded: it includes quotes (see
// [Unquote]), but not the whitespace around it. Names are compared exactly. A cookie without a "="
// is nameless, and its value is yielded for the name "".
//
// Clients of RFC 2109 and RFC 2965 write lines that begin with "$Version". In such a line,
// $Version, $Path, $Domain and $Port are attributes and not cookies, and a semicolon inside quotes
// is part of the value.
//
// Iterating allocates nothing.
func Values(h http.Header, name string) iter.Seq[string] {
	return func(yield func(string) bool) { values(h["Cookie"], name, yield) }
}

// values is separate from Values so that the compiler inlines Values and keeps its closure on the
// caller's stack.
func values(lines []string, name string, yield func(string) bool) {
	for _, line := range lines { // like the loop in pairs, but cookies of other names cost no call
		versioned := isVersioned(line)
		for more := true; more; {
			var pair string
			pair, line, more = cutCookie(line, versioned)
			n, value := cutPair(pair)
			if n != name || n == "" && value == "" || versioned && isAttribute(n, value) {
				continue
			}
			if !yield(value) {
				return
			}
		}
	}
}

// Pairs returns the names and the values of all cookies of a request. It reads lines like [Values].
func Pairs(h http.Header) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) { pairs(h["Cookie"], yield) }
}

func pairs(lines []string, yield func(name, value string) bool) {
	for _, line := range lines {
		versioned := isVersioned(line)
		for more := true; more; {
			var pair string
			pair, line, more = cutCookie(line, versioned)
			n, value := cutPair(pair)
			if n == "" && value == "" || versioned && isAttribute(n, value) {
				continue
			}
			if !yield(n, value) {
				return
			}
		}
	}
}

// Unquote removes a pair of quotes around a cookie's value. Clients of RFC 2109 add quotes, and
// some clients drop the quotes that the server sent.
func Unquote(value string) string {
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		return value[1 : len(value)-1]
	}
	return value
}

// Remove removes the cookies of those names from h. The other cookies do not change in any byte,
// and keep their order and their lines. A line in which no cookie is left is removed, and the
// header is removed with its last line. If h has no such cookie, Remove changes nothing.
//
// In a line that begins with "$Version", the $Path, $Domain and $Port after a removed cookie belong
// to it and are removed, too.
//
// The slice of lines may be shared with another header: Remove replaces it by a new one. The map
// itself must belong to the caller.
func Remove(h http.Header, names ...string) {
	lines := h["Cookie"]
	var kept []string
	removed := false
	for i, line := range lines {
		rest, changed := removeFrom(line, names)
		if changed && !removed {
			removed = true
			kept = append(kept, lines[:i]...)
		}
		if removed && (!changed || rest != "") {
			kept = append(kept, rest)
		}
	}
	switch {
	case !removed:
	case len(kept) == 0:
		delete(h, "Cookie")
	default:
		h["Cookie"] = kept
	}
}

// removeFrom returns line without the cookies of those names, and whether it had any of them. The
// result is empty if no cookie is left.
func removeFrom(line string, names []string) (rest string, changed bool) {
	versioned := isVersioned(line)
	if !hasAny(line, versioned, names) {
		return line, false
	}
	var kept cookieLine
	left, dropped := false, false
	removing := false // the last cookie was removed, so its attributes are removed, too
	for more, after := true, line; more; {
		var segment string
		at := len(line) - len(after)
		segment, after, more = cutCookie(after, versioned)
		name, value := cutPair(segment)
		blank := name == "" && value == ""
		attribute := versioned && isAttribute(name, value)
		if !blank && (!attribute || equalFold(name, "$Version")) {
			removing = slices.Contains(names, name) && !attribute
		}
		if !blank && removing {
			dropped = true
			continue
		}
		end := at + len(segment)
		if dropped && kept.isEmpty() {
			at = end - len(strings.TrimLeft(segment, " \t")) // without the space after a separator
		}
		kept.add(line, at, end)
		left = left || !blank && !attribute
	}
	if !left {
		return "", true
	}
	return kept.text(line), true
}

// A cookieLine is what is kept of a line. Up to the first gap, it is a part of that line and
// allocates nothing.
type cookieLine struct {
	begun      bool
	start, end int // of the part
	b          strings.Builder
}

func (k *cookieLine) isEmpty() bool { return !k.begun }

// add adds line[start:end], after a separator if there is something before.
func (k *cookieLine) add(line string, start, end int) {
	switch {
	case !k.begun:
		k.begun, k.start, k.end = true, start, end
	case k.b.Len() == 0 && start == k.end+1:
		k.end = end
	default:
		if k.b.Len() == 0 {
			k.b.Grow(len(line))
			k.b.WriteString(line[k.start:k.end])
		}
		k.b.WriteByte(';')
		k.b.WriteString(line[start:end])
	}
}

// text returns what was kept of line.
func (k *cookieLine) text(line string) string {
	if k.b.Len() == 0 {
		return line[k.start:k.end]
	}
	return k.b.String()
}

// hasAny reports whether line has a cookie of one of those names.
func hasAny(line string, versioned bool, names []string) bool {
	for more := true; more; {
		var segment string
		segment, line, more = cutCookie(line, versioned)
		name, value := cutPair(segment)
		if (name != "" || value != "") && slices.Contains(names, name) && !(versioned && isAttribute(name, value)) {
			return true
		}
	}
	return false
}

// isVersioned reports whether a Cookie line begins with "$Version" (RFC 2109, RFC 2965).
func isVersioned(line string) bool {
	line = trim(line)
	if line == "" || line[0] != '$' {
		return false
	}
	pair, _, _ := strings.Cut(line, ";")
	name, _ := cutPair(pair)
	return equalFold(name, "$Version")
}

// isAttribute reports whether a pair of a versioned line is an attribute of the line or of the
// cookie before it, and not a cookie. A $Port may have no value.
func isAttribute(name, value string) bool {
	if name == "" {
		name = value
	}
	if name == "" || name[0] != '$' {
		return false
	}
	return equalFold(name, "$Path") || equalFold(name, "$Domain") || equalFold(name, "$Port") || equalFold(name, "$Version")
}

// cutCookie cuts the first pair off a Cookie line. In a versioned line, a semicolon inside a quoted
// value, such as that of a $Path, does not end the pair.
func cutCookie(line string, versioned bool) (pair, rest string, more bool) {
	if !versioned {
		return strings.Cut(line, ";")
	}
	end := strings.IndexByte(line, ';')
	if end < 0 {
		return line, "", false
	}
	if _, value := cutPair(line[:end]); value != "" && value[0] == '"' {
		begin := strings.IndexByte(line, '"') + 1
		if closing := strings.IndexByte(line[begin:], '"'); closing >= 0 {
			if next := strings.IndexByte(line[begin+closing:], ';'); next >= 0 {
				end = begin + closing + next
			} else {
				end = len(line)
			}
		}
	}
	if end == len(line) {
		return line, "", false
	}
	return line[:end], line[end+1:], true
}
