package cookie

import (
	"errors"
	"strings"
)

// MaxSize is the number of octets that the name and the value of a cookie may have together.
// Browsers drop a larger cookie (RFC 6265bis, section 5.6).
const MaxSize = 4096

const (
	// maxAttribute is the longest attribute value that browsers do not ignore (RFC 6265bis, section
	// 5.6).
	maxAttribute = 1024
	// maxLine bounds the time and the memory that one Set-Cookie line costs.
	maxLine = 4 * MaxSize
)

var (
	// ErrMalformed reports input that is not a valid cookie, date or codec value.
	ErrMalformed = errors.New("cookie: malformed")

	// ErrTooLong reports a cookie, or a codec's value, that exceeds [MaxSize], or a Set-Cookie line
	// of more than four times [MaxSize].
	ErrTooLong = errors.New("cookie: too long")
)

// An Attribute is one attribute of a Set-Cookie line.
type Attribute struct {
	Name  string // as spelled in the line; names are compared without regard to ASCII case
	Value string
	Bare  bool // the line has no "=" after the name; Value is not used
}

// A SetCookie is a Set-Cookie line. Name and Value are not decoded: they include quotes and unusual
// characters. Name is empty in a nameless cookie, which browsers store.
type SetCookie struct {
	Name, Value string

	// Attributes has all attributes in the order of the line, including duplicates and unknown
	// ones.
	Attributes []Attribute
}

// ParseSetCookie parses the value of a Set-Cookie header as browsers do (RFC 6265, section 5.2,
// with the changes of RFC 6265bis). It leaves out the attributes that every client ignores: those
// without a name, and those whose value exceeds 1024 octets.
//
// It returns [ErrMalformed] for a line that browsers drop: one with a control character, with
// neither a name nor a value, or with no name and a "=" in the value. Tabs are control characters,
// except around a name or a value, where they are whitespace. It returns [ErrTooLong] if the name
// and the value together exceed [MaxSize] octets, or the line exceeds four times [MaxSize].
func ParseSetCookie(line string) (SetCookie, error) {
	if len(line) > maxLine {
		return SetCookie{}, ErrTooLong
	}
	pair, rest, more := strings.Cut(line, ";")
	var c SetCookie
	c.Name, c.Value = cutPair(pair)
	if !c.printablePair() {
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
		if hasControl(a.Name) || hasControl(a.Value) {
			return SetCookie{}, ErrMalformed
		}
		if a.Name != "" && len(a.Value) <= maxAttribute {
			if c.Attributes == nil {
				c.Attributes = make([]Attribute, 0, 2+strings.Count(rest, ";"))
			}
			c.Attributes = append(c.Attributes, a)
		}
	}
	return c, nil
}

// String returns the line that [ParseSetCookie] parses into c. It returns the empty string for a
// cookie that no line can express, so that a cookie cannot inject text into a header: one with a
// control character or a semicolon anywhere, with a "=" in a name, with neither a name nor a value,
// or with no name and a "=" in the value.
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
	b.WriteByte('=')
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
	if !c.printablePair() {
		return false
	}
	for _, a := range c.Attributes {
		if !isName(a.Name) || !a.Bare && !isValue(a.Value) {
			return false
		}
	}
	return true
}

// printablePair reports whether browsers store a cookie of that name and value. The value of a
// nameless cookie must not contain a "=": servers would read it as a name and a value (RFC 6265bis,
// section 5.7).
func (c SetCookie) printablePair() bool {
	if c.Name == "" {
		return c.Value != "" && isName(c.Value)
	}
	return isName(c.Name) && isValue(c.Value)
}

// Attribute returns the value of the attribute of that name, and whether c has it. Names are
// compared without regard to ASCII case. If the attribute occurs several times, the last one counts
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

// EncodePath returns path with each underscore written as "%5F", for clients that do not match a
// path with a plain underscore. It changes nothing else, and keeps escapes.
func EncodePath(path string) string { return strings.ReplaceAll(path, "_", "%5F") }
