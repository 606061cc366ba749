package stickiness

import "github.com/stickylb/stickylb/cookie"

// A PathSpelling says how the underscore in a cookie's path is written. Classic cloud load
// balancers write "%5F", and some clients rely on it. Today's browsers compare the cookie's path
// with the request's path octet by octet, and do not send such a cookie for a path with a plain
// underscore.
type PathSpelling uint8

const (
	// SpellBoth writes two cookies for a path with an underscore, one for each spelling, and one
	// cookie for any other path. This is the zero value. Browsers send the encoded one with
	// requests whose path has "%5F". If an application has several sessions, such a request may go
	// to the target of another session than that of its own cookie.
	SpellBoth PathSpelling = iota
	// SpellEncoded writes "%5F" only.
	SpellEncoded
	// SpellVerbatim writes the path as it is.
	SpellVerbatim
)

// spell returns the spellings of path for which a cookie is written, at least one.
func (s PathSpelling) spell(path string) []string {
	encoded := cookie.EncodePath(path)
	switch {
	case s == SpellVerbatim || encoded == path:
		return []string{path}
	case s == SpellEncoded:
		return []string{encoded}
	default:
		return []string{encoded, path}
	}
}

// spellHeeded is like spell, for a path of the application. If the encoded spelling is longer than
// browsers accept, it returns path only: browsers would ignore the long one and use the directory
// of the request.
func (s PathSpelling) spellHeeded(path string) []string {
	all := s.spell(path)
	if len(all[0]) > maxPath {
		return []string{path}
	}
	return all
}
