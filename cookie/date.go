package cookie

import (
	"math"
	"strings"
	"time"
)

// ParseDate parses a date as browsers read the Expires attribute of a cookie. The date has a time
// of day, a day of the month, a month and a year, in any order and between any delimiters. Other
// words are skipped. The time zone is always UTC. ParseDate reads all three date formats of HTTP
// and most of what servers write instead of them.
//
// The algorithm is that of RFC 6265, section 5.1.1, with these differences, which follow Chromium:
// a number with other characters attached ("1st", "00:00:00GMT") is skipped; an hour, a minute and
// a second may have any number of digits; a year has one to five digits. A year after 9999 gives
// the last second of 9999, the latest date that can be written.
//
// ParseDate returns [ErrMalformed] if one of the four parts is missing or out of range, or if the
// calendar has no such day.
func ParseDate(s string) (time.Time, error) {
	var d dateFields
	for i := 0; i < len(s); {
		if isDelimiter(s[i]) {
			i++
			continue
		}
		start := i
		for i < len(s) && !isDelimiter(s[i]) {
			i++
		}
		d.take(s[start:i])
	}
	return d.time()
}

// dateFields has the parts of a date that were found so far.
type dateFields struct {
	hasTime, hasDay, hasMonth, hasYear bool

	hour, minute, second, day, month, year int
}

// take stores a token in the first missing field that it fits. The day is tried before the year.
func (d *dateFields) take(token string) {
	if !isDigit(token[0]) {
		if !d.hasMonth {
			d.month = monthOf(token)
			d.hasMonth = d.month != 0
		}
		return
	}
	if n, ok := number(token); !ok {
		if h, m, s, ok := timeOfDay(token); ok && !d.hasTime {
			d.hour, d.minute, d.second, d.hasTime = h, m, s, true
		}
	} else if !d.hasDay && len(token) <= 2 {
		d.day, d.hasDay = n, true
	} else if !d.hasYear && len(token) <= 5 {
		d.year, d.hasYear = n, true
	}
}

// time returns the date if it is complete and exists.
func (d *dateFields) time() (time.Time, error) {
	year := d.year
	switch {
	case 70 <= year && year <= 99:
		year += 1900
	case year <= 69:
		year += 2000
	}
	if !d.hasTime || !d.hasDay || !d.hasMonth || !d.hasYear ||
		d.hour > 23 || d.minute > 59 || d.second > 59 {
		return time.Time{}, ErrMalformed
	}
	t := time.Date(year, time.Month(d.month), d.day, d.hour, d.minute, d.second, 0, time.UTC)
	if t.Day() != d.day {
		return time.Time{}, ErrMalformed // time.Date makes 30 February the first of March
	}
	if t.Unix() > maxSeconds {
		t = time.Unix(maxSeconds, 0).UTC()
	}
	return t, nil
}

// timeOfDay reads "h:m:s".
func timeOfDay(s string) (hour, minute, second int, ok bool) {
	h, s, _ := strings.Cut(s, ":")
	m, s, _ := strings.Cut(s, ":")
	hour, okHour := number(h)
	minute, okMinute := number(m)
	second, okSecond := number(s)
	return hour, minute, second, okHour && okMinute && okSecond
}

// number parses a decimal number of at most 32 bits. It accepts digits only.
func number(s string) (n int, ok bool) {
	for i := range len(s) {
		if !isDigit(s[i]) || n > (math.MaxUint32-9)/10 {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, s != ""
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// monthOf returns the number of the month whose English name begins as s does, or 0.
func monthOf(s string) int {
	const names = "janfebmaraprmayjunjulaugsepoctnovdec"
	if len(s) < 3 {
		return 0
	}
	for i := 0; i < len(names); i += 3 {
		if equalFold(s[:3], names[i:i+3]) {
			return i/3 + 1
		}
	}
	return 0
}

// isDelimiter reports whether c separates the tokens of a date.
func isDelimiter(c byte) bool {
	return c == '\t' || ' ' <= c && c <= '/' || ';' <= c && c <= '@' || '[' <= c && c <= '`' || '{' <= c && c <= '~'
}
