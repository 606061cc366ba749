package cookie

import (
	"strings"
	"time"
)

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
