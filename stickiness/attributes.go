package stickiness

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stickylb/stickylb/cookie"
)

// carriedNames are the attributes that go from the application's cookie to the balancer's.
var carriedNames = []string{"path", "port", "domain", "secure", "httponly", "discard", "max-age", "expires", "version", "comment", "commenturl", "samesite", "partitioned"}

// carriedOver returns the attributes that go from the application's cookie to the
// balancer's, as they were written. Of several of one name, the last one counts, as it does
// in browsers. It also holds back what a Set-Cookie line cannot express, which only a codec
// that does not authenticate could have handed out.
func carriedOver(attributes []cookie.Attribute) []cookie.Attribute {
	if len(attributes) == 0 {
		return nil
	}
	kept := make([]cookie.Attribute, 0, min(len(attributes), len(carriedNames)))
	var taken [16]bool
	for _, a := range slices.Backward(attributes) {
		i := slices.Index(carriedNames, strings.ToLower(a.Name))
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

// withPath returns the attributes with that Path instead of what they have.
func withPath(attributes []cookie.Attribute, path string) []cookie.Attribute {
	kept := slices.DeleteFunc(slices.Clone(attributes), func(a cookie.Attribute) bool {
		return strings.EqualFold(a.Name, "Path")
	})
	return append(kept, cookie.Attribute{Name: "Path", Value: path})
}

// directory is the attribute of a ticket, and of no line, which says for what path browsers keep
// a cookie without a Path. A response for another path needs it to overwrite that cookie.
const directory = "Directory"

// withDirectory returns the attributes with the directory, if they have no Path that counts.
func withDirectory(attributes []cookie.Attribute, path string) []cookie.Attribute {
	given, _ := cookie.SetCookie{Attributes: attributes}.Attribute("Path")
	if strings.HasPrefix(given, "/") || len(path) > maxPath || strings.ContainsFunc(path, notPrintable) {
		return attributes
	}
	return append(slices.Clip(attributes), cookie.Attribute{Name: directory, Value: path})
}

// directoryOf returns the directory that a ticket has, and whether it has one.
func directoryOf(t *cookie.Ticket) (path string, ok bool) {
	path, ok = cookie.SetCookie{Attributes: t.Carried}.Attribute(directory)
	return path, ok && strings.HasPrefix(path, "/")
}

// withLifetime returns the attributes with what is left of the lifetime, in seconds, in the
// place of each Max-Age that a client can read. If they have an Expires alone, it stays as it
// is unless the response's clock, which says date, is another than the one that it was written
// by. If they have no lifetime at all, because the ticket had no room for them, they get one.
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

// clocksDiffer is how many seconds two clocks are apart before they count as two.
const clocksDiffer = int64(noticedSkew / time.Second)

// dateIn returns the date in so many seconds, by the clock that says date if there is one.
func dateIn(seconds int64, now, date time.Time) string {
	if date.IsZero() {
		date = now
	}
	return time.Unix(date.Unix()+seconds, 0).UTC().Format(http.TimeFormat)
}

// spellAll returns the attributes, which have one Path at most, once per spelling of it.
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
