package cookie

import (
	"errors"
	"fmt"
	"strings"
)

// ErrRefused reports a cookie that browsers would not store.
var ErrRefused = errors.New("cookie: browsers refuse it")

// Check returns an error if browsers would drop the cookie although its line parses, or would
// ignore a part of it. The rules are those of RFC 6265bis, sections 5.6 (sizes) and 5.7 (attributes
// that need others), and the later rules of browsers for Partitioned and for the prefixes with
// Http-. The error says which rule fails. It is [ErrMalformed] if no line can express the cookie,
// [ErrTooLong] if a size is exceeded, and [ErrRefused] if one of these rules is broken:
//
//   - A name that begins with __Secure- needs Secure.
//   - A name that begins with __Host- needs Secure and Path=/, and excludes Domain.
//   - A name that begins with __Http- needs Secure and HttpOnly.
//   - A name that begins with __Host-Http- needs Secure, HttpOnly and Path=/, and excludes Domain.
//   - The value of a nameless cookie must not begin with one of these prefixes.
//   - SameSite=None needs Secure.
//   - Partitioned needs Secure.
//   - Domain must be ASCII.
//
// Check does not decide whether the site may set a cookie for the Domain or the Path.
func (c SetCookie) Check() error {
	if !c.printable() {
		return fmt.Errorf("%w: a Set-Cookie line cannot express the name, the value or an attribute", ErrMalformed)
	}
	if len(c.Name)+len(c.Value) > MaxSize {
		return fmt.Errorf("%w: name and value have more than %d octets", ErrTooLong, MaxSize)
	}
	for _, a := range c.Attributes {
		if !a.Bare && len(a.Value) > maxAttribute {
			return fmt.Errorf("%w: the attribute %q has more than %d octets", ErrTooLong, a.Name, maxAttribute)
		}
	}
	if rule := c.brokenRule(); rule != "" {
		return fmt.Errorf("%w: %s", ErrRefused, rule)
	}
	return nil
}

// brokenRule returns the rule of browsers that c breaks, or the empty string.
func (c SetCookie) brokenRule() string {
	_, secure := c.Attribute("Secure")
	_, httpOnly := c.Attribute("HttpOnly")
	_, partitioned := c.Attribute("Partitioned")
	sameSite, _ := c.Attribute("SameSite")
	domain, _ := c.Attribute("Domain")
	path, _ := c.Attribute("Path")
	prefix := namePrefix(c.Name)
	host := strings.HasPrefix(prefix, "__Host-")
	switch {
	case c.Name == "" && namePrefix(c.Value) != "":
		return "a cookie without a name has a value that begins with " + namePrefix(c.Value)
	case prefix != "" && !secure:
		return "a name with " + prefix + " needs Secure"
	case host && domain != "":
		return "a name with " + prefix + " excludes Domain"
	case host && path != "/":
		return "a name with " + prefix + " needs Path=/"
	case strings.HasSuffix(prefix, "Http-") && !httpOnly:
		return "a name with " + prefix + " needs HttpOnly"
	case equalFold(sameSite, "None") && !secure:
		return "SameSite=None needs Secure"
	case partitioned && !secure:
		return "Partitioned needs Secure"
	case strings.ContainsFunc(domain, func(r rune) bool { return r >= 0x80 }):
		return "Domain is not ASCII"
	}
	return ""
}

// namePrefix returns the prefix of a name to which browsers attach conditions, or the empty string.
// The comparison ignores case, as that of browsers does: a server that ignores case would otherwise
// accept a name whose conditions were not enforced.
func namePrefix(name string) string {
	for _, p := range []string{"__Host-Http-", "__Host-", "__Http-", "__Secure-"} {
		if len(name) >= len(p) && equalFold(name[:len(p)], p) {
			return p
		}
	}
	return ""
}
