package cookie

import (
	"errors"
	"strings"
	"time"
)

// MaxSize is the number of octets that the name and the value of a cookie may have
// together. Browsers drop a cookie that is larger (RFC 6265bis, section 5.6).
const MaxSize = 4096

const (
	// maxAttribute is the size from which browsers ignore an attribute's value
	// (RFC 6265bis, section 5.6).
	maxAttribute = 1024
	// maxLine bounds what one Set-Cookie line may cost in time and memory.
	maxLine = 4 * MaxSize
)

var (
	// ErrMalformed reports input that is no cookie, no date or no value of a codec.
	ErrMalformed = errors.New("cookie: malformed")

	// ErrTooLong reports a cookie, or a value for one, that exceeds [MaxSize], or a
	// Set-Cookie line that exceeds four times that.
	ErrTooLong = errors.New("cookie: too long")
)

// An Attribute is one attribute of a Set-Cookie line.
type Attribute struct {
	Name  string // as spelled in the line; attribute names are compared without regard to ASCII case
	Value string
	Bare  bool // the line has no "=" after the name; Value is then not used
}

// A SetCookie is a Set-Cookie line. Name and Value are as they stand in the line, quotes
// and odd characters included. Name is empty in a nameless cookie, which browsers keep.
type SetCookie struct {
	Name, Value string

	// Attributes has every attribute in the order of the line, duplicates and unknown
	// ones included.
	Attributes []Attribute
}

// ParseSetCookie parses the value of a Set-Cookie header as browsers do (RFC 6265,
// section 5.2, as RFC 6265bis amends it). It leaves out what every client ignores:
// attributes without a name, and those whose value exceeds 1024 octets.
//
// It returns [ErrMalformed] for a line that browsers drop, because it has control
// characters other than the tab or neither a name nor a value, and [ErrTooLong] if the
// name and the value have more than [MaxSize] octets together or the line has more than
// four times as many.
func ParseSetCookie(line string) (SetCookie, error) {
	if len(line) > maxLine {
		return SetCookie{}, ErrTooLong
	}
	if hasControl(line) {
		return SetCookie{}, ErrMalformed
	}
	pair, rest, more := strings.Cut(line, ";")
	var c SetCookie
	c.Name, c.Value = cutPair(pair)
	if c.Name == "" && c.Value == "" {
		return SetCookie{}, ErrMalformed
	}
	if len(c.Name)+len(c.Value) > MaxSize {
		return SetCookie{}, ErrTooLong
	}
	for more {
		var av string
		av, rest, more = strings.Cut(rest, ";")
		name, value, found := strings.Cut(av, "=")
		a := Attribute{Name: trim(name), Value: trim(value), Bare: !found}
		if a.Name != "" && len(a.Value) <= maxAttribute {
			c.Attributes = append(c.Attributes, a)
		}
	}
	return c, nil
}

// String returns the line that [ParseSetCookie] reads as c. A cookie that no line can
// express gives the empty string, so that nothing can be smuggled into a header through
// it: one with a control character other than the tab or a semicolon anywhere, with a "="
// in a name, or with neither a name nor a value.
func (c SetCookie) String() string {
	if !c.printable() {
		return ""
	}
	n := len(c.Name) + len(c.Value) + 1
	for _, a := range c.Attributes {
		n += len(a.Name) + len(a.Value) + 3
	}
	var b strings.Builder
	b.Grow(n)
	b.WriteString(c.Name)
	b.WriteByte('=') // a nameless cookie too: its value may contain a "="
	b.WriteString(c.Value)
	for _, a := range c.Attributes {
		b.WriteString("; ")
		b.WriteString(a.Name)
		if !a.Bare {
			b.WriteByte('=')
			b.WriteString(a.Value)
		}
	}
	return b.String()
}

// printable reports whether a Set-Cookie line can express c.
func (c SetCookie) printable() bool {
	if c.Name == "" && c.Value == "" || !isName(c.Name) || !isValue(c.Value) {
		return false
	}
	for _, a := range c.Attributes {
		if !isName(a.Name) || !a.Bare && !isValue(a.Value) {
			return false
		}
	}
	return true
}

// Attribute returns the value of the attribute of that name, and whether there is one.
// Names are compared without regard to ASCII case; of several, the last one rules
// (RFC 6265, section 5.3). The value of an attribute without a "=" is empty.
func (c SetCookie) Attribute(name string) (value string, ok bool) {
	for i := len(c.Attributes) - 1; i >= 0; i-- {
		if a := &c.Attributes[i]; equalFold(a.Name, name) {
			if a.Bare {
				return "", true
			}
			return a.Value, true
		}
	}
	return "", false
}

// EncodePath returns path with each underscore written "%5F", for clients that a plain
// one does not reach. It leaves everything else alone, escapes included.
func EncodePath(path string) string { return strings.ReplaceAll(path, "_", "%5F") }

// maxSeconds is the last second of the year 9999: no later date can be written.
const maxSeconds = 253402300799

// Expiry returns the instant at which the client drops the cookie when it receives it
// at now. An instant that is not after now means that the line deletes the cookie.
// session reports that the cookie has no expiry and ends with the browser's session; at
// is the zero time then.
//
// A Max-Age goes before any Expires; of several, the last one that can be read rules,
// and one that cannot be read does not count (RFC 6265, sections 5.2 and 5.3). What
// would end after the year 9999 ends with it. The limit of 400 days that some browsers
// have is not applied.
func (c SetCookie) Expiry(now time.Time) (at time.Time, session bool) {
	var date time.Time
	for i := len(c.Attributes) - 1; i >= 0; i-- {
		a := &c.Attributes[i]
		switch {
		case a.Bare:
		case equalFold(a.Name, "Max-Age"):
			if s, ok := parseMaxAge(a.Value); ok {
				return later(now, s), false
			}
		case date.IsZero() && equalFold(a.Name, "Expires"):
			date, _ = ParseDate(a.Value) // the zero time if unreadable
		}
	}
	return date, date.IsZero()
}

// later returns the instant s seconds after now, now if s is not positive. It does not
// overflow, as adding a time.Duration would after 292 years.
func later(now time.Time, s int64) time.Time {
	now = now.Round(0).UTC()
	sec := now.Unix()
	switch {
	case s <= 0 || sec >= maxSeconds:
		return now
	case s > maxSeconds-sec:
		return time.Unix(maxSeconds, 0).UTC()
	}
	return time.Unix(sec+s, int64(now.Nanosecond())).UTC()
}

// parseMaxAge reads the value of a Max-Age attribute (RFC 6265, section 5.2.2). Numbers
// out of range saturate.
func parseMaxAge(s string) (seconds int64, ok bool) {
	digits := strings.TrimPrefix(s, "-")
	if digits == "" {
		return 0, false
	}
	for i := range len(digits) {
		d := digits[i] - '0'
		if d > 9 {
			return 0, false
		}
		seconds = min(seconds*10+int64(d), maxSeconds)
	}
	if digits != s {
		seconds = -seconds
	}
	return seconds, true
}

// cutPair splits a name from a value at the first "=". Without one, all is the value.
func cutPair(s string) (name, value string) {
	name, value, found := strings.Cut(s, "=")
	if !found {
		return "", trim(s)
	}
	return trim(name), trim(value)
}

// trim removes the whitespace that the cookie grammars know, which is less than Unicode's.
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

// hasControl reports whether s has a control character other than the tab.
func hasControl(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return true
		}
	}
	return false
}

// equalFold compares attribute names. Only ASCII letters fold: strings.EqualFold would
// take the Kelvin sign for a "k".
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
