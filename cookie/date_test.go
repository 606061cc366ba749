package cookie_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stretchr/testify/require"
)

func TestParseDate_C6(t *testing.T) {
	want := time.Date(1994, 11, 6, 8, 49, 37, 0, time.UTC)
	for name, s := range map[string]string{
		"IMF-fixdate":             "Sun, 06 Nov 1994 08:49:37 GMT",
		"RFC 850":                 "Sunday, 06-Nov-94 08:49:37 GMT",
		"asctime":                 "Sun Nov  6 08:49:37 1994",
		"Netscape":                "Sun, 06-Nov-1994 08:49:37 GMT",
		"no weekday":              "06 Nov 1994 08:49:37",
		"no seconds' zero":        "6 nov 1994 8:49:37",
		"any order":               "1994 08:49:37 NOV 6",
		"time first":              "08:49:37 6/Nov/1994",
		"every delimiter":         "\t !\"#$%&'()*+,-./06;<=>?@Nov[\\]^_`1994{|}~08:49:37",
		"month in full":           "6 November 1994 08:49:37",
		"month with garbage":      "6 nov7 1994 08:49:37",
		"zone is not read":        "Sun, 06 Nov 1994 08:49:37 -0800",
		"zone's name is not read": "6 Nov 1994 08:49:37 PST",
		"second time is no time":  "6 Nov 1994 08:49:37 09:50:38",
		"words are skipped":       "on 6 Nov of 1994 at 08:49:37 sharp",
		"two-digit year":          "6 Nov 94 08:49:37",
		"first of two months":     "6 Nov 1994 08:49:37 Dec",
		"first of two years":      "6 Nov 1994 08:49:37 1995",
		"unfit number is skipped": "123456 6 Nov 1994 08:49:37",
		"bad times are skipped":   "6:7 6:7:8:9 6:7:8am 6 Nov 1994 08:49:37",
		"glued numbers too":       "7th 6 Nov 1995AD 1994 08:49:37",
		"month with a colon":      "6 Nov: 1994 08:49:37",
		"many digits":             "6 Nov 1994 0008:0049:00037",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := cookie.ParseDate(s)
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
}

func TestParseDate_C6_Years(t *testing.T) {
	for year, want := range map[string]int{
		"69": 2069, "70": 1970, "99": 1999, "00": 2000, "26": 2026, "1601": 1601, "1600": 1600, "9999": 9999, "0069": 2069, "070": 1970,
		"0": 2000, "9": 2009, "100": 100, "999": 999, "09999": 9999, "10000": 9999, "99999": 9999,
	} {
		got, err := cookie.ParseDate("1 Jan " + year + " 00:00:00")
		require.NoError(t, err, year)
		require.Equal(t, want, got.Year(), year)
	}
}

func TestParseDate_C6_EdgesOfRanges(t *testing.T) {
	for s, want := range map[string]time.Time{
		"29 Feb 2024 23:59:59": time.Date(2024, 2, 29, 23, 59, 59, 0, time.UTC),
		"29 Feb 2000 00:00:00": time.Date(2000, 2, 29, 0, 0, 0, 0, time.UTC),
		"31 Dec 9999 23:59:59": time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		"1 Jan 1601 0:0:0":     time.Date(1601, 1, 1, 0, 0, 0, 0, time.UTC),
		"1 Jan 10000 00:00:00": time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	} {
		got, err := cookie.ParseDate(s)
		require.NoError(t, err, s)
		require.Equal(t, want, got, s)
	}
	for i, month := range []string{"jan", "FEB", "Mar", "aPR", "may", "JUN", "Jul", "aug", "SEP", "Oct", "nov", "DEC"} {
		got, err := cookie.ParseDate("1 " + month + " 2026 00:00:00")
		require.NoError(t, err, month)
		require.Equal(t, time.Month(i+1), got.Month())
	}
}

func TestParseDate_C6_Refuses(t *testing.T) {
	for name, s := range map[string]string{
		"nothing":                    "",
		"a number":                   "0",
		"no time":                    "6 Nov 1994",
		"no day":                     "Nov 1994 08:49:37",
		"no month":                   "6 11 1994 08:49:37",
		"no year":                    "6 Nov 08:49:37",
		"hour":                       "6 Nov 1994 24:00:00",
		"minute":                     "6 Nov 1994 00:60:00",
		"second":                     "31 Dec 2016 23:59:60",
		"second 60":                  "6 Nov 1994 08:49:60",
		"day zero":                   "0 Nov 1994 08:49:37",
		"day 32":                     "32 Oct 1994 08:49:37",
		"31 November":                "31 Nov 1994 08:49:37",
		"29 February":                "29 Feb 2026 08:49:37",
		"29 February 1900":           "29 Feb 1900 08:49:37",
		"three-digit day":            "006 Nov 1994 08:49:37",
		"time without seconds":       "6 Nov 1994 08:49",
		"time with one empty field":  "6 Nov 1994 08::37",
		"second 371":                 "6 Nov 1994 08:49:371",
		"second beyond 32 bits":      "6 Nov 1994 08:49:4294967333",
		"day with suffix":            "6th Nov 1994 08:49:37",
		"day with an octet":          "6\xff Nov 1994 08:49:37",
		"year with suffix":           "6 Nov 1994AD 08:49:37",
		"time with suffix":           "6 Nov 1994 08:49:37GMT",
		"time with a colon":          "6 Nov 1994 08:49:37:",
		"colons are no delimiter":    "6: Nov 1994 08:49:37",
		"year of six digits":         "6 Nov 019940 08:49:37",
		"bad time first":             "6 Nov 1994 24:00:00 08:49:37",
		"31 April 1500":              "31 Apr 1500 08:49:37",
		"31 April 99999":             "31 Apr 99999 08:49:37",
		"month of two letters":       "6 No 1994 08:49:37",
		"month behind something":     "6 xNov 1994 08:49:37",
		"month that folds elsewhere": "6 \u017fep 1994 08:49:37",
		"token glued":                "6Nov1994 08:49:37",
		"not ASCII digits":           "\u0666 Nov 1994 08:49:37",
		"ISO 8601":                   "1994-11-06T08:49:37Z",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := cookie.ParseDate(s)
			require.ErrorIs(t, err, cookie.ErrMalformed)
			require.Zero(t, got)
		})
	}
}

// A delimiter in front of a month's name is skipped. Any other octet makes the name unreadable.
func TestParseDate_C6_Delimiters(t *testing.T) {
	const delimiters = "\t !\"#$%&'()*+,-./;<=>?@[\\]^_`{|}~"
	for c := range 256 {
		octet := string([]byte{byte(c)})
		got, err := cookie.ParseDate("1994 08:49:37 06 " + octet + "Nov")
		if strings.Contains(delimiters, octet) {
			require.NoError(t, err, "%q", octet)
			require.Equal(t, time.Date(1994, 11, 6, 8, 49, 37, 0, time.UTC), got)
		} else {
			require.ErrorIs(t, err, cookie.ErrMalformed, "%q", octet)
		}
	}
}

// In any order, each field gets the first token that fits it and that no earlier field of the
// algorithm has taken. So a second day is read as a year of two digits.
func TestParseDate_C6_FieldsTakeTurns(t *testing.T) {
	for s, want := range map[string]time.Time{
		"01 02 Mar 04:05:06":    time.Date(2002, 3, 1, 4, 5, 6, 0, time.UTC),
		"Mar 04:05:06 99 01":    {}, // day 99
		"04:05:06 01 99 Mar 31": time.Date(1999, 3, 1, 4, 5, 6, 0, time.UTC),
		"1:2:3 4:5:6 7 Mar 01":  time.Date(2001, 3, 7, 1, 2, 3, 0, time.UTC),
		"1:2:3 4:5:6 Mar 2001":  {}, // the second time is no day
	} {
		got, err := cookie.ParseDate(s)
		if want.IsZero() {
			require.ErrorIs(t, err, cookie.ErrMalformed, s)
			continue
		}
		require.NoError(t, err, s)
		require.Equal(t, want, got, s)
	}
}

// This package reads the same date as net/http, if net/http can read it.
func FuzzParseDate(f *testing.F) {
	for _, s := range []string{
		"Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994",
		"Thu, 31-Dec-37 23:55:55 GMT", "Mon, 30 Feb 2026 00:00:00 GMT", "6th nov 1994 8:49:37:1", "1:2:3 4:5:6 Mar 2001",
		"Monday, 01-Jan-69 00:00:00 GMT", "Mon Jan  1 00:00:00.5 2001", "Monday, 01-Jan-01 00:00:00 GMT+3", "Mon, 01 Jan 1600 00:00:00 GMT",
		"1 Jan 99999 00:00:00", "31 Dec 0100 23:59:59", "MondAY, 01-JAn-+0 0:00:00 AAA", "SundAY, 01-Nov--0 0:00:00 AAA", "Saturday, 01-Jan-00 00:00:00,1 GMT",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := cookie.ParseDate(s)
		if err == nil {
			require.Equal(t, time.UTC, got.Location())
			require.GreaterOrEqual(t, got.Year(), 100)
			require.LessOrEqual(t, got.Year(), 9999)
			again, err := cookie.ParseDate(got.Format(http.TimeFormat))
			require.NoError(t, err)
			require.Equal(t, got, again)
		} else {
			require.ErrorIs(t, err, cookie.ErrMalformed)
			require.Zero(t, got)
		}
		// Go's parser accepts more than the formats allow: signs, fractions of a second, zones and
		// wrong weekdays. If it prints the parsed date with the same text, the text is certainly an
		// HTTP date. The exceptions are years before 100, and 69, which is 1969 for Go and 2069 for
		// browsers.
		for _, layout := range []string{http.TimeFormat, time.RFC850, time.ANSIC} {
			std, stdErr := time.Parse(layout, s)
			if _, offset := std.Zone(); stdErr != nil || offset != 0 || std.Format(layout) != s || std.Year() < 100 || std.Year() == 1969 {
				continue
			}
			require.NoError(t, err)
			require.Equal(t, std.UTC(), got)
		}
	})
}

func BenchmarkParseDate(b *testing.B) {
	for name, s := range map[string]string{
		"fixdate": "Sun, 06 Nov 1994 08:49:37 GMT",
		"dashes":  "Sunday, 06-Nov-94 08:49:37 GMT",
		"hostile": strings.Repeat("1:2:3333 ", 1024/9),
	} {
		b.Run("date="+name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(s)))
			for b.Loop() {
				_, _ = cookie.ParseDate(s)
			}
		})
	}
}
