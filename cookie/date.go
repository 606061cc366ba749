package cookie

import "time"

// ParseDate parses a date as browsers read the Expires attribute of a cookie (RFC 6265,
// section 5.1.1): a time of day, a day of the month, a month and a year in any order and
// between any delimiters, other words being skipped, always in UTC. It reads all three
// date formats of HTTP and most of what servers write instead of them.
//
// It returns [ErrMalformed] if one of the four is missing, or out of range, or if there
// is no such day in the calendar.
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

// dateFields has what was found in a date so far.
type dateFields struct {
	hasTime, hasDay, hasMonth, hasYear bool

	hour, minute, second, day, month, year int
}

// take gives a token to the first field that is still missing and that it fits. The
// order of the fields matters: RFC 6265 tries them in this one.
func (d *dateFields) take(token string) {
	if !d.hasTime {
		if h, m, s, ok := timeOfDay(token); ok {
			d.hour, d.minute, d.second, d.hasTime = h, m, s, true
			return
		}
	}
	n, width := number(token)
	switch {
	case !d.hasDay && (width == 1 || width == 2):
		d.day, d.hasDay = n, true
		return
	case !d.hasMonth && width == 0:
		if m := monthOf(token); m != 0 {
			d.month, d.hasMonth = m, true
			return
		}
	}
	if !d.hasYear && 2 <= width && width <= 4 {
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
		year < 1601 || d.hour > 23 || d.minute > 59 || d.second > 59 {
		return time.Time{}, ErrMalformed
	}
	t := time.Date(year, time.Month(d.month), d.day, d.hour, d.minute, d.second, 0, time.UTC)
	if t.Day() != d.day {
		return time.Time{}, ErrMalformed // time.Date makes 30 February the first of March
	}
	return t, nil
}

// timeOfDay reads "h:m:s", each of one or two digits, up to the end or to something that
// is not a digit.
func timeOfDay(s string) (hour, minute, second int, ok bool) {
	var field [3]int
	for i := range field {
		n, width := number(s)
		if width < 1 || width > 2 {
			return 0, 0, 0, false
		}
		field[i] = n
		s = s[width:]
		if i < 2 {
			if s == "" || s[0] != ':' {
				return 0, 0, 0, false
			}
			s = s[1:]
		}
	}
	return field[0], field[1], field[2], true
}

// number reads the digits in front of s. A width of 5 stands for all larger ones: no
// field has as many.
func number(s string) (n, width int) {
	for width < len(s) && width < 5 && '0' <= s[width] && s[width] <= '9' {
		n = n*10 + int(s[width]-'0')
		width++
	}
	return n, width
}

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
