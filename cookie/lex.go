package cookie

import "strings"

// cutPair splits s into a name and a value at the first "=". Without a "=", all of s is the value.
func cutPair(s string) (name, value string) {
	name, value, found := strings.Cut(s, "=")
	if !found {
		return "", trim(s)
	}
	return trim(name), trim(value)
}

// trim removes leading and trailing spaces and tabs, the only whitespace of the cookie grammars.
func trim(s string) string {
	for len(s) > 0 && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for len(s) > 0 && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

func isName(s string) bool  { return isValue(s) && strings.IndexByte(s, '=') < 0 }
func isValue(s string) bool { return !hasControl(s) && strings.IndexByte(s, ';') < 0 }

// hasControl reports whether s has a control character. Tabs count: those around a name or a value
// are whitespace and were trimmed before.
func hasControl(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == 0x7f {
			return true
		}
	}
	return false
}

// equalFold compares attribute names. It folds ASCII letters only: strings.EqualFold would treat
// the Kelvin sign as a "k".
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
