package stickiness

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/stickylb/stickylb/cookie"
)

// A Source returns a value of a request, or the empty string if the request has none. It is called
// concurrently and only reads the request.
type Source func(r *http.Request) string

// FromHeader returns a source that reads the first value of a request header.
func FromHeader(name string) Source {
	name = http.CanonicalHeaderKey(name)
	return func(r *http.Request) string {
		if values := r.Header[name]; len(values) > 0 {
			return values[0]
		}
		return ""
	}
}

// FromCookie returns a source that reads the request's first cookie of that name. A pair of quotes
// around the value is removed. Nothing else is decoded.
func FromCookie(name string) Source {
	return func(r *http.Request) string {
		for value := range cookie.Values(r.Header, name) {
			return cookie.Unquote(value)
		}
		return ""
	}
}

// FromQuery returns a source that reads the first query parameter of that name, unescaped. A
// parameter that cannot be unescaped is skipped, as in [net/url.ParseQuery].
func FromQuery(name string) Source {
	return func(r *http.Request) string {
		for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
			key, value, _ := strings.Cut(pair, "=")
			if strings.Contains(pair, ";") || key != name && !strings.ContainsAny(key, "%+") {
				continue
			}
			key, err := url.QueryUnescape(key)
			if err != nil || key != name {
				continue
			}
			if value, err := url.QueryUnescape(value); err == nil {
				return value
			}
		}
		return ""
	}
}

// FromPathParam returns a source that reads a path parameter, as in
// "/app/page;jsessionid=0123ABCD". Nothing is unescaped. If the parameter occurs several times, the
// first one counts.
func FromPathParam(name string) Source {
	return func(r *http.Request) string {
		value, _ := cookie.PathParam(r.URL.EscapedPath(), name)
		return value
	}
}

// FromPathValue returns a source that reads a wildcard of the pattern that [http.ServeMux] matched,
// such as "tenant" in "/{tenant}/".
func FromPathValue(name string) Source {
	return func(r *http.Request) string { return r.PathValue(name) }
}

// firstValue returns the first value that is not empty.
func firstValue(from []Source, r *http.Request) string {
	for _, source := range from {
		if value := source(r); value != "" {
			return value
		}
	}
	return ""
}
