package cookie

import (
	"iter"
	"net/http"
	"slices"
	"strings"
)

// Values returns the values of a request's cookies of that name, in the order in which
// they were sent, over all Cookie lines of h. A value is as it stands in the line, quotes
// included, without the whitespace around it. Names are compared exactly. A cookie
// without a "=" is nameless: its value is yielded for the name "".
//
// Iterating allocates nothing.
func Values(h http.Header, name string) iter.Seq[string] {
	return func(yield func(string) bool) { values(h["Cookie"], name, yield) }
}

// values is apart from Values so that the latter is inlined and its closure stays on the
// caller's stack.
func values(lines []string, name string, yield func(string) bool) {
	for _, line := range lines {
		for more := true; more; {
			var pair string
			pair, line, more = strings.Cut(line, ";")
			n, value := cutPair(pair)
			if n == name && (n != "" || value != "") && !yield(value) {
				return
			}
		}
	}
}

// Remove removes a request's cookies of those names from h. The other cookies stay byte
// for byte, in their order and on their lines; a line without any left is removed, and
// the last one takes the header with it. If there is nothing to remove, h is not touched.
//
// The slice of lines may be shared with another header: Remove puts a new one in its
// place. The map itself must be the caller's own.
func Remove(h http.Header, names ...string) {
	lines := h["Cookie"]
	var kept []string
	for i, line := range lines {
		rest, changed := removeFrom(line, names)
		if changed && kept == nil {
			kept = append(make([]string, 0, len(lines)), lines[:i]...)
		}
		if kept != nil && (!changed || rest != "") {
			kept = append(kept, rest)
		}
	}
	switch {
	case kept == nil:
	case len(kept) == 0:
		delete(h, "Cookie")
	default:
		h["Cookie"] = kept
	}
}

// removeFrom returns line without the cookies of those names and whether there was one.
// The result is empty if no cookie is left.
func removeFrom(line string, names []string) (rest string, changed bool) {
	if !hasAny(line, names) {
		return line, false
	}
	var b strings.Builder
	left, first, dropped := false, true, false
	for segment := range strings.SplitSeq(line, ";") {
		name, value := cutPair(segment)
		blank := name == "" && value == ""
		if !blank && slices.Contains(names, name) {
			dropped = true
			continue
		}
		if first {
			b.Grow(len(line))
		} else {
			b.WriteByte(';')
		}
		if first && dropped {
			segment = strings.TrimLeft(segment, " \t") // the space behind a separator
		}
		b.WriteString(segment)
		first = false
		left = left || !blank
	}
	if !left {
		return "", true
	}
	return b.String(), true
}

// hasAny reports whether line has a cookie of one of those names.
func hasAny(line string, names []string) bool {
	for segment := range strings.SplitSeq(line, ";") {
		name, value := cutPair(segment)
		if (name != "" || value != "") && slices.Contains(names, name) {
			return true
		}
	}
	return false
}
