package stickiness

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stickylb/stickylb/cookie"
)

// carriedNames are the attributes that the balancer's cookie takes from the application's.
var carriedNames = [...]string{"path", "port", "domain", "secure", "httponly", "discard", "max-age", "expires", "version", "comment", "commenturl", "samesite", "partitioned"}

// carriedOver returns the attributes that the balancer's cookie takes from the application's,
// unchanged. If an attribute occurs several times, the last one counts, as in browsers. Values that
// a Set-Cookie line cannot express are left out; a codec without authentication may have returned
// them.
func carriedOver(attributes []cookie.Attribute) []cookie.Attribute {
	if len(attributes) == 0 {
		return nil
	}
	kept := make([]cookie.Attribute, 0, min(len(attributes), len(carriedNames)))
	var taken [len(carriedNames)]bool
	for _, a := range slices.Backward(attributes) {
		i := slices.Index(carriedNames[:], strings.ToLower(a.Name))
		if i < 0 || taken[i] {
			continue
		}
		taken[i] = true
		if a.Bare || !strings.ContainsFunc(a.Value, notPrintable) {
			kept = append(kept, a)
		}
	}
	slices.Reverse(kept)
	return kept
}

func withoutComments(attributes []cookie.Attribute) []cookie.Attribute {
	return slices.DeleteFunc(slices.Clone(attributes), func(a cookie.Attribute) bool {
		return strings.EqualFold(a.Name, "Comment") || strings.EqualFold(a.Name, "CommentURL")
	})
}

// withPath returns the attributes with their Path replaced.
func withPath(attributes []cookie.Attribute, path string) []cookie.Attribute {
	kept := slices.DeleteFunc(slices.Clone(attributes), func(a cookie.Attribute) bool {
		return strings.EqualFold(a.Name, "Path")
	})
	return append(kept, cookie.Attribute{Name: "Path", Value: path})
}

// directory is an attribute of tickets that no Set-Cookie line has. It is the path for which
// browsers store a cookie without a Path. A response to a request for another path needs it to
// overwrite that cookie.
const directory = "Directory"

// withDirectory returns the attributes with path as their directory, unless they have a valid Path.
func withDirectory(attributes []cookie.Attribute, path string) []cookie.Attribute {
	given, _ := cookie.SetCookie{Attributes: attributes}.Attribute("Path")
	if strings.HasPrefix(given, "/") || len(path) > maxPath || strings.ContainsFunc(path, notPrintable) {
		return attributes
	}
	return append(slices.Clip(attributes), cookie.Attribute{Name: directory, Value: path})
}

// directoryOf returns the directory of a ticket, and whether it has one.
func directoryOf(t *cookie.Ticket) (path string, ok bool) {
	path, ok = cookie.SetCookie{Attributes: t.Carried}.Attribute(directory)
	return path, ok && strings.HasPrefix(path, "/")
}

// withLifetime returns the attributes with the remaining lifetime of left seconds. It replaces
// every valid Max-Age. It replaces an Expires only if no Max-Age overrides it and the cookie would
// otherwise end at another time: browsers compare Expires with date, the Date of this response, and
// another clock may have written the Expires. If the attributes have no lifetime, because the
// ticket had no room for them, it adds a Max-Age.
func withLifetime(attributes []cookie.Attribute, left int64, now, date time.Time) []cookie.Attribute {
	seconds := strconv.FormatInt(left, 10)
	kept := slices.Clone(attributes)
	dated := false
	for i, a := range kept {
		_, session := cookie.SetCookie{Attributes: kept[i : i+1]}.Expiry(now)
		dated = dated || !session
		if !session && strings.EqualFold(a.Name, "Max-Age") {
			kept[i].Value = seconds
		}
	}
	if !dated {
		return append(kept, cookie.Attribute{Name: "Max-Age", Value: seconds})
	}
	at, _ := cookie.SetCookie{Attributes: kept}.ExpiryDated(now, date)
	if off := at.Unix() - now.Unix() - left; -clocksDiffer <= off && off <= clocksDiffer {
		return kept
	}
	for i, a := range kept {
		if strings.EqualFold(a.Name, "Expires") {
			kept[i].Value = dateIn(left, now, date)
		}
	}
	return kept
}

// clocksDiffer is the difference in seconds above which two clocks count as different.
const clocksDiffer = int64(noticedSkew / time.Second)

// dateIn returns the date that is the given seconds from now, by the clock that wrote date. If date
// is zero, it uses this machine's clock.
func dateIn(seconds int64, now, date time.Time) string {
	if date.IsZero() {
		date = now
	}
	return time.Unix(date.Unix()+seconds, 0).UTC().Format(http.TimeFormat)
}

// spellAll returns the attributes once for each spelling of their Path. They have at most one Path.
func spellAll(attributes []cookie.Attribute, s PathSpelling) [][]cookie.Attribute {
	path, _ := cookie.SetCookie{Attributes: attributes}.Attribute("Path")
	all := make([][]cookie.Attribute, 0, 2)
	for _, p := range s.spellHeeded(path) {
		spelled := slices.Clone(attributes)
		for j, a := range spelled {
			if strings.EqualFold(a.Name, "Path") {
				spelled[j].Value = p
			}
		}
		all = append(all, spelled)
	}
	return all
}
