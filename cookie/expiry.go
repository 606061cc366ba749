package cookie

import "time"

// maxSeconds is the last second of the year 9999, the latest date that can be written.
const maxSeconds = 253402300799

// Expiry returns the instant at which a client that receives the cookie at now drops it. If the
// instant is not after now, the line deletes the cookie. If the cookie has no expiry, it ends with
// the browser's session: session is true and at is the zero time.
//
// Max-Age takes precedence over Expires. If an attribute occurs several times, only the last one
// counts, as in browsers: if that cannot be parsed or has no value, it is ignored. (RFC 6265,
// sections 5.2 and 5.3, would use an earlier one instead.) Instants after the year 9999 become the
// last second of that year. The limit of 400 days that browsers have is not applied.
func (c SetCookie) Expiry(now time.Time) (at time.Time, session bool) {
	return c.ExpiryDated(now, time.Time{})
}

// ExpiryDated is like [SetCookie.Expiry], for a response whose Date header is date. Browsers
// compare Expires with Date, because one clock wrote both: if Expires is ten minutes after Date,
// the cookie ends ten minutes after now, however wrong the server's clock is. A zero date means
// that the response has no Date. Expires is then compared with now.
func (c SetCookie) ExpiryDated(now, date time.Time) (at time.Time, session bool) {
	value, _ := c.Attribute("Max-Age")
	if s, ok := parseMaxAge(value); ok {
		return later(now, s), false
	}
	value, _ = c.Attribute("Expires")
	at, err := ParseDate(value)
	if err != nil {
		return time.Time{}, true
	}
	if !date.IsZero() {
		now = now.Truncate(time.Second) // a Date has whole seconds
		at = time.Unix(min(at.Unix()+now.Unix()-date.Unix(), maxSeconds), 0).UTC()
	}
	return at, false
}

// later returns the instant s seconds after now, or now if s is not positive. It does not overflow,
// as adding a time.Duration would after 292 years.
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

// parseMaxAge parses the value of a Max-Age attribute (RFC 6265, section 5.2.2). Like browsers, it
// also accepts a plus sign. Numbers that are out of range saturate.
func parseMaxAge(s string) (seconds int64, ok bool) {
	digits := s
	if s != "" && (s[0] == '-' || s[0] == '+') {
		digits = s[1:]
	}
	if digits == "" {
		return 0, false
	}
	for i := range len(digits) {
		if !isDigit(digits[i]) {
			return 0, false
		}
		seconds = min(seconds*10+int64(digits[i]-'0'), maxSeconds)
	}
	if s[0] == '-' {
		seconds = -seconds
	}
	return seconds, true
}
