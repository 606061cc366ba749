package cookie_test

import (
	"math"
	"testing"
	"time"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stretchr/testify/require"
)

func TestSetCookieExpiry_S11(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 5e8, time.UTC)
	date := time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC)
	past := time.Date(2026, 3, 1, 11, 0, 0, 0, time.UTC)
	end := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	const in, before = "Expires=Sun, 01 Mar 2026 13:00:00 GMT", "Expires=Sun, 01-Mar-26 11:00:00 GMT"
	tests := map[string]struct {
		attributes string
		want       time.Time // zero: with the session
	}{
		"none":                     {"Path=/", time.Time{}},
		"Max-Age":                  {"Max-Age=60", now.Add(time.Minute)},
		"case":                     {"mAX-aGE=60", now.Add(time.Minute)},
		"zero":                     {"Max-Age=0", now},
		"negative":                 {"Max-Age=-1", now},
		"minus zero":               {"Max-Age=-0", now},
		"leading zeros":            {"Max-Age=0060", now.Add(time.Minute)},
		"far":                      {"Max-Age=3153600000", now.AddDate(0, 0, 36500)},
		"beyond int64":             {"Max-Age=99999999999999999999999", end},
		"at the limit of int64":    {"Max-Age=9223372036854775807", end},
		"below int64":              {"Max-Age=-99999999999999999999999", now},
		"Expires":                  {in, date},
		"Expires in the past":      {before, past},
		"Max-Age goes first":       {in + "; Max-Age=60", now.Add(time.Minute)},
		"in either order":          {"Max-Age=60; " + before, now.Add(time.Minute)},
		"Max-Age deletes":          {in + "; Max-Age=0", now},
		"last Max-Age rules":       {"Max-Age=0; Max-Age=60", now.Add(time.Minute)},
		"last Expires rules":       {before + "; " + in, date},
		"plus":                     {"Max-Age=+60; " + in, now.Add(time.Minute)},
		"plus zero":                {"Max-Age=+0", now},
		"unreadable Max-Age":       {"Max-Age=++60; " + in, date},
		"only a plus":              {"Max-Age=+; " + in, date},
		"two different signs":      {"Max-Age=+-1", time.Time{}},
		"letters":                  {"Max-Age=60s", time.Time{}},
		"the octet after 9":        {"Max-Age=1:", time.Time{}},
		"the octet before 0":       {"Max-Age=1/", time.Time{}},
		"quotes":                   {`Max-Age="0"`, time.Time{}},
		"fraction":                 {"Max-Age=0.5", time.Time{}},
		"only a sign":              {"Max-Age=-; " + in, date},
		"two signs":                {"Max-Age=--1", time.Time{}},
		"empty":                    {"Max-Age=", time.Time{}},
		"bare":                     {"Max-Age; Expires", time.Time{}},
		"unreadable Max-Age rules": {"Max-Age=60; Max-Age=never", time.Time{}},
		"so does a bare one":       {"Max-Age=0; Max-Age", time.Time{}},
		"and leaves it to Expires": {in + "; Max-Age=0; Max-Age=never", date},
		"unreadable date rules":    {before + "; Expires=0", time.Time{}},
		"day with suffix":          {"Expires=1st Mar 2026 11:00:00", time.Time{}},
		"both unreadable":          {"Max-Age=x; Expires=-1", time.Time{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := cookie.ParseSetCookie("a=b; " + tt.attributes)
			require.NoError(t, err)
			at, session := c.Expiry(now)
			require.Equal(t, tt.want.IsZero(), session)
			require.Equal(t, tt.want, at)
		})
	}
}

// With any clock, the instant is not before now, and only a deletion ends at now.
func TestSetCookieExpiry_AnyClock(t *testing.T) {
	for _, now := range []time.Time{
		{}, time.Unix(0, 0), time.Unix(-1, 0), time.Unix(253402300799, 0), time.Unix(math.MaxInt64>>1, 0), time.Now(),
		time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("east", 3600)),
	} {
		for value, deleted := range map[string]bool{"-9": true, "0": true, "1": false, "9223372036854775807": false} {
			c := cookie.SetCookie{Name: "a", Attributes: attrs{{Name: "Max-Age", Value: value}}}
			at, session := c.Expiry(now)
			require.False(t, session)
			require.False(t, at.Before(now), "%v %v", now, at)
			require.Equal(t, time.UTC, at.Location())
			if deleted {
				require.True(t, at.Equal(now), "%v %v", now, at)
			} else if now.Year() < 9999 {
				require.True(t, at.After(now), "%v %v", now, at)
			}
		}
	}
}

// Browsers read Expires and Date as times of one clock.
func TestSetCookieExpiryDated_S11(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 5e8, time.UTC)
	end := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	tests := map[string]struct {
		attributes string
		date       time.Time
		want       time.Time // zero: with the session
	}{
		"no Date":            {"Expires=Sun, 01 Mar 2026 12:10:00 GMT", time.Time{}, now.Truncate(time.Second).Add(10 * time.Minute)},
		"right clock":        {"Expires=Sun, 01 Mar 2026 12:10:00 GMT", now, now.Truncate(time.Second).Add(10 * time.Minute)},
		"clock behind":       {"Expires=Sun, 01 Mar 2026 11:10:00 GMT", now.Add(-time.Hour), now.Truncate(time.Second).Add(10 * time.Minute)},
		"clock ahead":        {"Expires=Sun, 01 Mar 2026 12:50:00 GMT", now.Add(time.Hour), now.Truncate(time.Second).Add(-10 * time.Minute)},
		"Max-Age":            {"Max-Age=60; Expires=Sun, 01 Mar 2026 11:10:00 GMT", now.Add(time.Hour), now.Add(time.Minute)},
		"session":            {"Expires=never", now.Add(time.Hour), time.Time{}},
		"end of time":        {"Expires=Fri, 31 Dec 9999 23:59:59 GMT", now.Add(-time.Hour), end},
		"Date from long ago": {"Expires=Fri, 31 Dec 9999 23:59:59 GMT", time.Date(1601, 1, 1, 0, 0, 0, 0, time.UTC), end},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := cookie.ParseSetCookie("a=b; " + tt.attributes)
			require.NoError(t, err)
			at, session := c.ExpiryDated(now, tt.date)
			require.Equal(t, tt.want.IsZero(), session)
			require.Equal(t, tt.want, at)
		})
	}
}
