package cookie_test

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stretchr/testify/require"
)

// at runs f in a bubble whose clock shows that Unix time.
func at(t *testing.T, unix int64, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Unix(unix, 0)))
		f(t)
	})
}

func haproxy(t testing.TB, idle, life time.Duration) *cookie.InsecureHAProxy {
	t.Helper()
	c := &cookie.InsecureHAProxy{MaxIdle: idle, MaxLife: life}
	require.NoError(t, c.Store(map[string]string{"app-1": "s1", "app-2": "s2"}))
	return c
}

func TestInsecureHAProxy_C8_WorkedValues(t *testing.T) {
	c := haproxy(t, 30*time.Minute, 8*time.Hour)
	for now, want := range map[int64]string{1700000000: "s1|ZVPxA|ZVPxA", 1700000001: "s1|ZVPxB|ZVPxB", 1700000004: "s1|ZVPxB|ZVPxB"} {
		at(t, now, func(t *testing.T) {
			require.Equal(t, want, encode(t, c, cookie.Ticket{Target: "app-1", Issued: time.Now()}))
			require.Equal(t, want, encode(t, c, cookie.Ticket{Target: "app-1"}), "an unknown issue time is now")
		})
	}
	at(t, 1700000101, func(t *testing.T) {
		ticket, err := c.Decode("s1|ZVPxB|ZVPxB")
		require.NoError(t, err)
		require.True(t, ticket.OldKey)
		require.Equal(t, "s1|ZVPxa|ZVPxB", encode(t, c, ticket), "last renewed, first kept")
		ticket, err = c.Decode("s2|ZVPxa|ZVPxB")
		require.NoError(t, err)
		want := cookie.Ticket{Target: "app-2", Issued: time.Unix(1700000004, 0).UTC(), Seen: time.Unix(1700000104, 0).UTC()}
		require.Equal(t, want, ticket)
	})
}

// A value is refreshed when its last date is in the past. Because dates are rounded up, this
// happens at most once in four seconds.
func TestInsecureHAProxy_C8_Refresh(t *testing.T) {
	const both, last, none = "s1|ZVPxB|ZVPxB", "s1|ZVPxB", "s1" // 1700000004
	tests := []struct {
		name       string
		idle, life time.Duration
		value      string
		now        int64
		refresh    bool
		then       string // the refreshed value
	}{
		{"not before", time.Hour, time.Hour, both, 1700000001, false, ""},
		{"last second", time.Hour, time.Hour, both, 1700000004, false, ""},
		{"in the past", time.Hour, time.Hour, both, 1700000005, true, "s1|ZVPxC|ZVPxB"},
		{"idle only, in time", time.Hour, 0, last, 1700000004, false, ""},
		{"idle only", time.Hour, 0, last, 1700000005, true, "s1|ZVPxC"},
		{"idle only, superfluous first", time.Hour, 0, both, 1700000004, true, "s1|ZVPxB"},
		{"life only, in time", 0, time.Hour, both, 1700000004, false, ""},
		{"life only", 0, time.Hour, both, 1700000005, true, "s1|ZVPxC|ZVPxB"},
		{"life, first missing", 0, time.Hour, last, 1700000004, true, "s1|ZVPxB|ZVPxB"},
		{"life, first missing, later", 0, time.Hour, last, 1700000009, true, "s1|ZVPxD|ZVPxD"},
		{"no dates wanted", 0, 0, both, 1700000004, true, "s1"},
		{"no date wanted, in time", 0, 0, last, 1700000004, false, ""},
		{"no date wanted", 0, 0, last, 1700000005, true, "s1"},
		{"idle, no date", time.Hour, 0, none, 1700000001, true, "s1|ZVPxB"},
		{"life, no date", 0, time.Hour, none, 1700000001, true, "s1|ZVPxB|ZVPxB"},
		{"idle of a second, no date", time.Second, 0, none, 1700000001, true, "s1|ZVPxB"},
		{"life of a second, no date", 0, time.Second, none, 1700000001, true, "s1|ZVPxB|ZVPxB"},
		{"no date, none wanted", 0, 0, none, 1700000001, false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			at(t, tt.now, func(t *testing.T) {
				c := haproxy(t, tt.idle, tt.life)
				ticket, err := c.Decode(tt.value)
				require.NoError(t, err)
				require.Equal(t, "app-1", ticket.Target)
				require.Equal(t, tt.refresh, ticket.OldKey)
				if tt.refresh {
					again := encode(t, c, ticket)
					require.Equal(t, tt.then, again)
					fresh, err := c.Decode(again)
					require.NoError(t, err)
					require.False(t, fresh.OldKey, "not twice")
				}
			})
		})
	}
}

func TestInsecureHAProxy_C8_Expiry(t *testing.T) {
	const day, date = 86400, int64(1700000004) // ZVPxB
	tests := map[string]struct {
		idle, life time.Duration
		value      string
		now        int64
		expired    bool
	}{
		"idle, last second":         {30 * time.Minute, 8 * time.Hour, "s1|ZVPxB|ZVPxB", date + 1800, false},
		"idle, over":                {30 * time.Minute, 8 * time.Hour, "s1|ZVPxB|ZVPxB", date + 1801, true},
		"life, last second":         {0, 8 * time.Hour, "s1|ZVPxB|ZVPxB", date + 28800, false},
		"life, over":                {0, 8 * time.Hour, "s1|ZVPxB|ZVPxB", date + 28801, true},
		"life, over, seen lately":   {time.Hour, 8 * time.Hour, "s1|ZVUN1|ZVPxB", date + 28801, true},
		"idle limit, only first":    {time.Hour, 0, "s1|ZVUN1|ZVPxB", date + 28801, false},
		"no limits":                 {0, 0, "s1|ZVPxB|ZVPxB", date + 1e8, false},
		"no dates":                  {time.Second, time.Second, "s1", date, false},
		"first missing":             {0, time.Hour, "s1|ZVPxB", date + 3601, false},
		"a day ahead":               {time.Hour, time.Hour, "s1|ZVPxB|ZVPxB", date - day, false},
		"more than a day, first":    {0, time.Hour, "s1|ZVPxB|ZVPxB", date - day - 1, true},
		"more than a day, last":     {time.Hour, 0, "s1|ZVPxB", date - day - 1, true},
		"more than a day, limits 0": {0, 0, "s1|ZVPxB|ZVPxB", date - day - 1, false},
		"part of a second":          {1, 0, "s1|ZVPxB", date + 1, false},
		"part of a second, over":    {1, 0, "s1|ZVPxB", date + 2, true},
		"negative limits":           {-time.Hour, -time.Hour, "s1|ZVPxB|ZVPxB", date + 1e6, false},
		"beyond 2038":               {time.Hour, time.Hour, "s1|gAAAA|gAAAA", 1 << 31, false},
		"last date of all":          {time.Hour, 0, "s1|/////", 1<<32 - 4, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			at(t, tt.now, func(t *testing.T) {
				ticket, err := haproxy(t, tt.idle, tt.life).Decode(tt.value)
				if tt.expired {
					require.ErrorIs(t, err, cookie.ErrExpired)
					require.Zero(t, ticket)
					return
				}
				require.NoError(t, err)
				require.Equal(t, "app-1", ticket.Target)
			})
		})
	}
}

// The first date is carried through all refreshes, so that MaxLife ends the session.
func TestInsecureHAProxy_C8_LifeIsNotRenewed(t *testing.T) {
	at(t, 1700000000, func(t *testing.T) {
		c := haproxy(t, time.Minute, 10*time.Minute)
		value := encode(t, c, cookie.Ticket{Target: "app-1", Issued: time.Now()})
		refreshes := 0
		for range 600 {
			ticket, err := c.Decode(value)
			require.NoError(t, err)
			if ticket.OldKey {
				refreshes++
				value = encode(t, c, ticket)
			}
			require.True(t, strings.HasSuffix(value, "|ZVPxA"), value)
			time.Sleep(time.Second)
		}
		require.Equal(t, 150, refreshes, "once per four seconds")
		time.Sleep(time.Second)
		_, err := c.Decode(value)
		require.ErrorIs(t, err, cookie.ErrExpired)
	})
}

func TestInsecureHAProxy_C8_DatesThatDoNotFit(t *testing.T) {
	at(t, 1<<32+100, func(t *testing.T) {
		require.Equal(t, "s1|/////", encode(t, haproxy(t, 1, 0), cookie.Ticket{Target: "app-1"}))
	})
	at(t, 1700000000, func(t *testing.T) {
		c := haproxy(t, 0, 1)
		require.Equal(t, "s1|ZVPxA|AAAAB", encode(t, c, cookie.Ticket{Target: "app-1", Issued: time.Unix(0, 0)}))
		require.Equal(t, "s1|ZVPxA|AAAAB", encode(t, c, cookie.Ticket{Target: "app-1", Issued: time.Unix(-99, 0)}))
	})
}

func TestInsecureHAProxy_S16_Malformed(t *testing.T) {
	c := haproxy(t, time.Hour, time.Hour)
	for value, want := range map[string]error{
		"":                        cookie.ErrUnknownTarget,
		"s3":                      cookie.ErrUnknownTarget,
		"S1":                      cookie.ErrUnknownTarget,
		"s3|ZVPxB":                cookie.ErrUnknownTarget,
		"|ZVPxB":                  cookie.ErrUnknownTarget,
		"s1|":                     cookie.ErrMalformed,
		"s1|ZVPx":                 cookie.ErrMalformed,
		"s1|ZVPxBB":               cookie.ErrMalformed,
		"s1|ZVPx=":                cookie.ErrMalformed,
		"s1|ZVPx-":                cookie.ErrMalformed,
		"s1|AAAAA":                cookie.ErrMalformed,
		"s1|ZVPxB|":               cookie.ErrMalformed,
		"s1|ZVPxB|ZVPx":           cookie.ErrMalformed,
		"s1|ZVPxB|ZVPxB|":         cookie.ErrMalformed,
		"s1|ZVPxB|ZVPxB|ZVPxB":    cookie.ErrMalformed,
		"s1|ZVPxB|AAAAA":          cookie.ErrMalformed,
		"s1||ZVPxB":               cookie.ErrMalformed,
		strings.Repeat("|", 5000): cookie.ErrMalformed,
	} {
		got, err := c.Decode(value)
		require.ErrorIs(t, err, want, "%.20q", value)
		require.Zero(t, got)
	}
}

func TestInsecureHAProxy_StoreRefuses(t *testing.T) {
	c := haproxy(t, 0, 0)
	require.Error(t, c.Store(map[string]string{"app-1": "s|1"}))
	require.Error(t, c.Store(map[string]string{"app-1": "s", "app-2": "s"}))
	_, err := c.Decode("s2")
	require.NoError(t, err, "the table stays")
	_, err = c.Encode(&cookie.Ticket{Target: "app-3"})
	require.ErrorIs(t, err, cookie.ErrUnknownTarget)
	_, err = new(cookie.InsecureHAProxy).Decode("s1")
	require.ErrorIs(t, err, cookie.ErrUnknownTarget)
}

func TestInsecureHAProxyDynamic_C8_WorkedValues(t *testing.T) {
	for _, tt := range []struct{ key, server, want string }{
		{"MYKEY", "127.0.0.1:9000", "ff57a519390d4984"},
		{"MYKEY", "127.0.0.1:9001", "6bbdc36b631e0347"},
		{"MYKEY", "192.168.0.42:80", "f965a14637446c81"},
		{"MYKEY", "[::1]:9000", "a758c9e58c2406a0"},
		{"MYKEY", "[2001:db8::1]:443", "c04f91103db6c1ed"},
		{"MYKEY", "[2001:db8::1%eth0]:443", "c04f91103db6c1ed"},
		{"other", "127.0.0.1:9000", "1743c454bec32919"},
	} {
		require.Equal(t, tt.want, cookie.InsecureHAProxyDynamic(tt.key, addr(tt.server)), tt.server)
	}
	require.Empty(t, cookie.InsecureHAProxyDynamic("MYKEY", netip.AddrPort{}))
}

func FuzzInsecureHAProxyDecode(f *testing.F) {
	for _, v := range []string{"s1", "s1|ZVPxB", "s1|ZVPxB|ZVPxB", "s2|/////|AAAAB", "s1|AAAAA", "s1|ZVPxB|", "s1|ZVPx=", "|||", "s1\n", ""} {
		f.Add(v)
	}
	c := haproxy(f, 0, 0)
	idle, life := haproxy(f, time.Hour, 0), haproxy(f, 0, time.Hour)
	f.Fuzz(func(t *testing.T, value string) {
		ticket, err := c.Decode(value)
		if err != nil {
			require.Zero(t, ticket)
			for _, c := range []*cookie.InsecureHAProxy{idle, life} {
				_, other := c.Decode(value)
				require.Equal(t, err, other, "no limit makes a value good")
			}
			return
		}
		server, dates, dated := strings.Cut(value, "|")
		require.Equal(t, server, encode(t, c, ticket))
		if dated {
			require.Contains(t, []int{5, 11}, len(dates), "one spelling: nothing behind the dates")
			require.False(t, ticket.Seen.IsZero())
			require.Equal(t, len(dates) == 5, ticket.Issued.IsZero())
		}
	})
}

func BenchmarkInsecureHAProxyDecode(b *testing.B) {
	c := haproxy(b, time.Hour, 100*365*24*time.Hour)
	dated := encode(b, c, cookie.Ticket{Target: "app-1"})
	for name, v := range map[string]string{"dated": dated, "plain": "s1", "hostile": "s1|" + strings.Repeat("|", 4000)} {
		b.Run("value="+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = c.Decode(v)
			}
		})
	}
}
