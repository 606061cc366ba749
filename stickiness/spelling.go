package stickiness

import "github.com/stickylb/stickylb/cookie"

// A PathSpelling says how the underscore in a cookie's path is written. The classic
// balancer writes "%5F" for it, and clients exist that rely on that; today's browsers
// compare the path with the request's octet by octet and never send such a cookie.
type PathSpelling uint8

const (
	// SpellBoth writes two cookies for a path with an underscore, one per spelling, and one
	// for any other path. The zero value. Browsers send the encoded one with a request whose
	// path is written so: of several sessions of one application, that request may go to
	// another one than its own cookie names.
	SpellBoth PathSpelling = iota
	// SpellEncoded writes "%5F" only.
	SpellEncoded
	// SpellVerbatim writes the path as it is.
	SpellVerbatim
)

// spell returns the spellings in which a cookie for path is written, at least one.
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

// spellHeeded returns the spellings of an application's path that browsers heed. One of more
// octets than they do would make a cookie for the directory of the request.
func (s PathSpelling) spellHeeded(path string) []string {
	all := s.spell(path)
	if len(all[0]) > maxPath {
		return []string{path}
	}
	return all
}
