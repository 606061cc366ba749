package cookie

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/stickylb/stickylb/cookie/internal/xxh64"
)

// InsecureHAProxy is the [Codec] of HAProxy's "cookie NAME insert", with or without "indirect" and
// "nocache", and with the dates of "maxidle" and "maxlife":
//
//	value[|last seen[|first seen]]
//
// Its table maps a target to the value after "cookie" in HAProxy's server line, or to the result of
// [InsecureHAProxyDynamic]. It is insecure because a client can change the value and the dates; see
// [InsecureTable]. Decode returns [ErrMalformed] for every value that HAProxy cannot have written,
// although HAProxy itself tolerates some errors.
//
// [Ticket.Seen] is the last date and [Ticket.Issued] the first. Encode writes the current time as
// the last date and the issue time as the first, so that MaxLife counts from when the client was
// bound, and a refresh does not extend it. If the issue time is not known, it is the current time.
// Decode sets [Ticket.OldKey] in the two cases in which HAProxy refreshes a cookie. In the first,
// the last date is in the past, which happens at most once in four seconds. In the second, the
// value does not have the dates that MaxIdle and MaxLife need, or has others.
//
// The fields must not be changed while the codec is in use. Otherwise it is safe for concurrent
// use. The zero value is an empty table whose values have no dates.
type InsecureHAProxy struct {
	// MaxIdle bounds the age of the last date and MaxLife that of the first. A session has expired
	// when a date is older than its bound, or more than a day in the future. Both are rounded up to
	// seconds. Zero and negative values mean no bound. A value without dates is accepted, and gets
	// them with the next refresh.
	MaxIdle, MaxLife time.Duration

	table table
}

// Store replaces the table, like [InsecureTable.Store]. It also refuses values that contain a bar.
func (c *InsecureHAProxy) Store(idToValue map[string]string) error {
	for id, value := range idToValue {
		if strings.Contains(value, "|") {
			return fmt.Errorf("cookie: value of target %q contains a bar, which separates dates", id)
		}
	}
	return c.table.Store(idToValue)
}

// Encode implements [Codec].
func (c *InsecureHAProxy) Encode(t *Ticket) (string, error) {
	value, err := c.table.Encode(t)
	if err != nil || c.MaxIdle <= 0 && c.MaxLife <= 0 {
		return value, err
	}
	now := time.Now()
	value += "|" + haproxyDate(now)
	if c.MaxLife > 0 {
		first := t.Issued
		if first.IsZero() {
			first = now
		}
		value += "|" + haproxyDate(first)
	}
	return value, nil
}

// Decode implements [Codec]. Its errors are [ErrMalformed], [ErrUnknownTarget] and
// [ErrExpired].
func (c *InsecureHAProxy) Decode(value string) (Ticket, error) {
	server, last, first, err := cutHAProxyDates(value)
	if err != nil {
		return Ticket{}, err
	}
	t, err := c.table.Decode(server)
	if err != nil {
		return Ticket{}, err
	}
	now, idle, life := time.Now().Unix(), ceilSeconds(c.MaxIdle), ceilSeconds(c.MaxLife)
	if outlived(first, life, now) || outlived(last, idle, now) {
		return Ticket{}, ErrExpired
	}
	stale := (idle > 0 || last != 0) && last < now
	t.OldKey = stale || (life > 0) != (first != 0)
	t.Issued, t.Seen = dateOf(first), dateOf(last)
	return t, nil
}

// dateOf returns the time of a date, or the zero time if the date is absent.
func dateOf(date int64) time.Time {
	if date == 0 {
		return time.Time{}
	}
	return time.Unix(date, 0).UTC()
}

// outlived reports whether the date is older than limit seconds, or too far in the future. It
// returns false if the date is absent or limit is zero.
func outlived(date, limit, now int64) bool {
	const day = 86400 // the clocks of two balancers may differ by a wrong time zone
	return date != 0 && limit > 0 && (now-date > limit || date-now > day)
}

// ceilSeconds rounds up to seconds. It returns zero, which means no limit, unless d is positive.
func ceilSeconds(d time.Duration) int64 {
	s := int64(d / time.Second)
	if d%time.Second > 0 {
		s++
	}
	return max(s, 0)
}

const base64Digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// haproxyDate writes a date as five base64 digits, the most significant first. They count units of
// four seconds since 1970, rounded up, and reach until the year 2106. A date out of range becomes
// the nearest one that can be written. Zero is not used because it means no date.
func haproxyDate(t time.Time) string {
	units := min(max((t.Unix()+3)>>2, 1), 1<<30-1)
	var b [5]byte
	for i := range b {
		b[i] = base64Digits[units>>(24-6*i)&63]
	}
	return string(b[:])
}

// cutHAProxyDates splits a value. The dates are in Unix seconds, or 0 if they are absent.
func cutHAProxyDates(value string) (server string, last, first int64, err error) {
	if len(value) > MaxSize {
		return "", 0, 0, ErrMalformed
	}
	server, dates, dated := strings.Cut(value, "|")
	if !dated {
		return server, 0, 0, nil
	}
	text, text2, two := strings.Cut(dates, "|")
	if last, err = parseHAProxyDate(text); err == nil && two {
		first, err = parseHAProxyDate(text2)
	}
	return server, last, first, err
}

func parseHAProxyDate(s string) (int64, error) {
	if len(s) != 5 {
		return 0, ErrMalformed
	}
	var units int64
	for i := range len(s) {
		digit := strings.IndexByte(base64Digits, s[i])
		if digit < 0 {
			return 0, ErrMalformed
		}
		units = units<<6 | int64(digit)
	}
	if units == 0 {
		return 0, ErrMalformed
	}
	return units << 2, nil
}

// InsecureHAProxyDynamic returns the value of a server under "cookie NAME dynamic" with that
// dynamic-cookie-key. It ignores zones, and returns the empty string for the zero AddrPort.
//
// It is insecure in spite of its key: XXH64 is not a message authentication code, and a client that
// has one value can try keys as fast as it can compute.
func InsecureHAProxyDynamic(key string, addr netip.AddrPort) string {
	if !addr.IsValid() {
		return ""
	}
	b := append([]byte(key), addr.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(addr.Port()))
	return fmt.Sprintf("%016x", xxh64.Sum(b))
}
