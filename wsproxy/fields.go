package wsproxy

import (
	"log/slog"
	"net/http"
	"net/textproto"
	"slices"
)

// fields are a request's header, in memory that is used for one request after the other.
// ReverseProxy clones a request's header, and copies a response's header line by line. If
// ReverseProxy has nothing to decide about a header, the walk does not show it to ReverseProxy. The
// walk then copies the request's header into its own fields, and moves the response's header.
type fields struct {
	lines  http.Header
	values []string // of all lines
}

const (
	maxKeptFields = 64
	maxKeptValues = 128
)

// reuse makes empty fields of old ones.
func (f fields) reuse() fields {
	if len(f.lines) > maxKeptFields || cap(f.values) > maxKeptValues {
		return fields{}
	}
	clear(f.lines)
	clear(f.values)
	return fields{f.lines, f.values[:0]}
}

// copyFrom makes copies of the fields that ReverseProxy would leave in a request before Rewrite.
func (f *fields) copyFrom(h http.Header) {
	if f.lines == nil {
		f.lines = make(http.Header, len(h)+forwardingFields)
	}
	f.values = slices.Grow(f.values, len(h)+forwardingFields)
	for name, values := range h {
		switch name {
		case "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto":
			continue
		}
		if !isHopByHop(name) {
			n := len(f.values)
			f.values = append(f.values, values...)
			f.lines[name] = slices.Clip(f.values[n:])
		}
	}
}

// line returns a line with that value, in the memory of f.
func (f *fields) line(value string) []string {
	n := len(f.values)
	f.values = append(f.values, value)
	return slices.Clip(f.values[n:])
}

// mergeHeader adds the fields of a response to those of middleware, as ReverseProxy would.
func mergeHeader(from, to http.Header) {
	for name, values := range from {
		if len(values) == 0 {
			continue
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		if before := to[name]; len(before) > 0 {
			values = append(slices.Clip(before), values...)
		}
		to[name] = values
	}
}

// maxCookieLine is the longest header line that most servers accept, in bytes. Many accept only 8
// KiB.
const maxCookieLine = 16 << 10

// warnOfCookies logs once that a request has more cookies than most targets accept.
func (k *walk) warnOfCookies(lines []string) {
	for _, line := range lines {
		if len(line) > maxCookieLine && k.rt.warnedOfCookies.CompareAndSwap(false, true) {
			k.rt.log.LogAttrs(k.in.Context(), slog.LevelWarn, "cookies are too large for most targets",
				slog.Int("bytes", len(line)), slog.String("host", k.in.Host), slog.String("path", k.in.URL.Path),
				slog.String("reason", "most servers refuse a Cookie line over 8 or 16 KiB with 400 or 431, until the client "+
					"loses cookies; this is said once"))
		}
	}
}
