package cookie

import "time"

// maxSeconds is the last second of the year 9999: no later date can be written.
const maxSeconds = 253402300799

// Expiry returns the instant at which the client drops the cookie when it receives it
// at now. An instant that is not after now means that the line deletes the cookie.
// session reports that the cookie has no expiry and ends with the browser's session; at
// is the zero time then.
//
// A Max-Age goes before any Expires. Of several, the last one counts, as in browsers: if it
// cannot be read, or has no value, there is none (RFC 6265, sections 5.2 and 5.3, would go
// back to an earlier one). What would end after the year 9999 ends with it. The limit of
// 400 days that browsers have is not applied.
func (c SetCookie) Expiry(now time.Time) (at time.Time, session bool) {
	return c.ExpiryDated(now, time.Time{})
}

// ExpiryDated is [SetCookie.Expiry] for a response whose Date header says date. Browsers
// take an Expires for a time of the same clock: one that is ten minutes after the Date is in
// ten minutes, however wrong the server's clock is. A zero date stands for a response without
// one, whose clock is believed.
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
		now = now.Truncate(time.Second) // as precise as a Date
		at = time.Unix(min(at.Unix()+now.Unix()-date.Unix(), maxSeconds), 0).UTC()
	}
	return at, false
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

// parseMaxAge reads the value of a Max-Age attribute (RFC 6265, section 5.2.2), with a plus
// sign too, as browsers do. Numbers out of range saturate.
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
