package stickiness

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/stickylb/stickylb/cookie"
)

// An lbLine is a Set-Cookie line without its value and its lifetime.
type lbLine struct {
	head  string // what precedes the value
	scope string // Path and Domain
	flags string // what follows the lifetime
}

// check returns an error if browsers would drop the line.
func (l *lbLine) check() error {
	c, err := cookie.ParseSetCookie(l.head + "value" + l.scope + l.flags)
	if err != nil {
		return err
	}
	return c.Check()
}

// lines returns the Set-Cookie lines of the first cookie and of the twin.
func (o *LBCookieOptions) lines(name, twin, path string) (first, second []lbLine) {
	flags, twinFlags := o.flags()
	for _, p := range o.PathSpelling.spell(path) {
		scope := "; Path=" + p
		if o.Domain != "" {
			scope += "; Domain=" + o.Domain
		}
		first = append(first, lbLine{name + "=", scope, flags})
		if twin != "" {
			second = append(second, lbLine{twin + "=", scope, twinFlags})
		}
	}
	return first, second
}

func (o *LBCookieOptions) flags() (first, twin string) {
	var httpOnly, partitioned string
	if o.HttpOnly {
		httpOnly = "; HttpOnly"
	}
	if o.Partitioned {
		partitioned = "; Partitioned"
	}
	first = httpOnly
	if o.Secure {
		first += "; Secure"
	}
	switch o.SameSite {
	case http.SameSiteLaxMode:
		first += "; SameSite=Lax"
	case http.SameSiteStrictMode:
		first += "; SameSite=Strict"
	case http.SameSiteNoneMode:
		first += "; SameSite=None"
	}
	return first + partitioned, httpOnly + "; Secure; SameSite=None" + partitioned
}

// lifetime returns the attributes of a cookie that ends after the given seconds. It returns the
// empty string for zero.
func lifetime(seconds int64, now time.Time) string {
	if seconds == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("; Max-Age=")
	b.WriteString(strconv.FormatInt(seconds, 10))
	b.WriteString("; Expires=")
	b.WriteString(time.Unix(now.Unix()+seconds, 0).UTC().Format(http.TimeFormat))
	return b.String()
}
