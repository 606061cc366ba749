package cookie

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/stickylb/stickylb/cookie/internal/xxh64"
)

// InsecureHAProxy is the [Codec] of HAProxy's "cookie NAME insert", with "indirect" and
// "nocache" or without, and with the dates of "maxidle" and "maxlife":
//
//	value[|last seen[|first seen]]
//
// Its table maps a target to what the server line has behind "cookie", or to what
// [InsecureHAProxyDynamic] returns. It is insecure because nothing protects the value or
// the dates from a client that wants others; see [InsecureTable]. A value that HAProxy
// cannot have written is malformed, although HAProxy itself would read past some errors.
//
// [Ticket.Seen] is the last date and [Ticket.Issued] the first. Encode writes the present
// as the last date and the issue time as the first, so that MaxLife counts from when the
// client was bound, however often the dates are refreshed; an unknown issue time counts as
// the present. Decode asks for a refresh with [Ticket.OldKey] exactly when HAProxy does: as
// soon as the last date is in the past, hence once per four seconds at most, and when the
// dates present do not fit the fields.
//
// The fields must not be changed while it is in use. Otherwise it is safe for concurrent
// use, and its zero value is an empty table of values without dates.
type InsecureHAProxy struct {
	// MaxIdle and MaxLife end a session when its last or its first date is longer ago, or
	// more than a day ahead. They are rounded up to seconds; zero and less mean no
	// end. A value without dates is accepted and due to get them.
	MaxIdle, MaxLife time.Duration

	table table
}

// Store replaces the table, as [InsecureTable] does. It refuses values with a bar, too.
func (c *InsecureHAProxy) Store(idToValue map[string]string) error {
	for id, value := range idToValue {
		if strings.Contains(value, "|") {
			return fmt.Errorf("cookie: table has a value for target %q with a bar, which separates dates", id)
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

// dateOf returns the time of a date, the zero time if it is absent.
func dateOf(date int64) time.Time {
	if date == 0 {
		return time.Time{}
	}
	return time.Unix(date, 0).UTC()
}

// outlived reports whether a date ends a session that may last for limit seconds from it.
func outlived(date, limit, now int64) bool {
	const day = 86400 // the clocks of two balancers may differ by a wrong time zone
	return date != 0 && limit > 0 && (now-date > limit || date-now > day)
}

// ceilSeconds rounds up to seconds. Nothing positive becomes zero, which means no limit.
func ceilSeconds(d time.Duration) int64 {
	s := int64(d / time.Second)
	if d%time.Second > 0 {
		s++
	}
	return max(s, 0)
}

const base64Digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// haproxyDate writes a date: units of four seconds since 1970, rounded up, in five base64
// digits of which the first is the highest. They last until the year 2106; 0, which
// would mean no date, and what does not fit become the nearest that does.
func haproxyDate(t time.Time) string {
	units := min(max((t.Unix()+3)>>2, 1), 1<<30-1)
	var b [5]byte
	for i := range b {
		b[i] = base64Digits[units>>(24-6*i)&63]
	}
	return string(b[:])
}

// cutHAProxyDates splits a value. A date that is absent is 0, others are Unix seconds.
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

// InsecureHAProxyDynamic returns the value of a server under "cookie NAME dynamic" and
// that dynamic-cookie-key. It is empty for the zero AddrPort; zones are not part of it.
//
// It is insecure in spite of its key: XXH64 is no message authentication code, and one
// known value lets a client try keys as fast as it can compute.
func InsecureHAProxyDynamic(key string, addr netip.AddrPort) string {
	if !addr.IsValid() {
		return ""
	}
	b := append([]byte(key), addr.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(addr.Port()))
	return fmt.Sprintf("%016x", xxh64.Sum(b))
}
