package stickinesstest_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/stickinesstest"
	"github.com/stretchr/testify/require"
)

// A merging policy treats lines of different cookies of the application as lines of one cookie. It
// follows the last of the lines with the same key.
type merging struct {
	stickiness.Policy
	key func(path, domain string, partitioned bool) string
}

func (p merging) Bind(b *stickiness.Binding) {
	all := b.Header["Set-Cookie"]
	last := map[string]string{}
	for _, line := range all {
		last[p.keyOf(line)] = line
	}
	followed := slices.DeleteFunc(slices.Clone(all), func(line string) bool { return last[p.keyOf(line)] != line })
	if b.Header["Set-Cookie"] = followed; len(all) == 0 {
		delete(b.Header, "Set-Cookie")
	}
	p.Policy.Bind(b)
	if own := b.Header["Set-Cookie"]; len(all) > 0 {
		b.Header["Set-Cookie"] = append(slices.Clone(all), own[min(len(followed), len(own)):]...)
	}
}

func (p merging) keyOf(line string) string {
	c, _ := cookie.ParseSetCookie(line)
	path, _ := c.Attribute("Path")
	domain, _ := c.Attribute("Domain")
	_, partitioned := c.Attribute("Partitioned")
	return p.key(path, domain, partitioned)
}

func TestTestPolicy_S14_FindsPoliciesThatMergeCookies(t *testing.T) {
	tests := map[string]struct {
		key  func(path, domain string, partitioned bool) string
		want string // empty: no fault
	}{
		"none":            {func(p, d string, x bool) string { return fmt.Sprint(p, ";", d, x) }, ""},
		"all of one name": {func(string, string, bool) string { return "" }, "another path"},
		"without path":    {func(_, d string, x bool) string { return fmt.Sprint(d, x) }, "another path"},
		"without domain":  {func(p, _ string, x bool) string { return fmt.Sprint(p, x) }, "another domain"},
		"without part":    {func(p, d string, _ bool) string { return p + ";" + d }, "another partition"},
		"no Path is root": {func(p, d string, x bool) string { return fmt.Sprint(rooted(p), ";", d, x) }, "another default path"},
		"the host is none": {func(p, d string, x bool) string {
			return fmt.Sprint(p, ";", strings.TrimPrefix(d, "www.example.com"), x)
		}, "another domain"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: "SID"})
			require.NoError(t, err)
			response := func() http.Header {
				return http.Header{"Set-Cookie": {fmt.Sprintf("SID=%d; Path=/; Secure", logins.Add(1))}}
			}
			err = stickinesstest.TestPolicy(merging{p, tt.key}, stickinesstest.Session{Response: response})
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func rooted(path string) string {
	if path == "" {
		return "/"
	}
	return path
}

// A literal policy distinguishes a cookie without a Path from one with the Path of its directory.
type literal struct{ stickiness.Policy }

func (p literal) Bind(b *stickiness.Binding) {
	all := b.Header["Set-Cookie"]
	if len(all) == 2 && !strings.Contains(all[0], "Path") {
		b.Header["Set-Cookie"] = all[:1:1]
		p.Policy.Bind(b)
		b.Header["Set-Cookie"] = append(slices.Clone(all), b.Header["Set-Cookie"][1:]...)
		return
	}
	p.Policy.Bind(b)
}

// lookups changes the candidates that a policy finds.
type lookups struct {
	stickiness.Policy
	change func([]stickiness.Candidate) []stickiness.Candidate
}

func (p lookups) Lookup(r *http.Request, found []stickiness.Candidate) []stickiness.Candidate {
	n := len(found)
	return append(found, p.change(p.Policy.Lookup(r, found)[n:])...)
}

func TestTestPolicy_S17_FindsPoliciesThatStarveOrStay(t *testing.T) {
	type found = []stickiness.Candidate
	oldest := func(f found) found {
		slices.SortStableFunc(f, func(a, b stickiness.Candidate) int { return a.Issued.Compare(b.Issued) })
		return f
	}
	rewrites := func(f found) found {
		for i := range f {
			f[i].Renew = f[i].Renew || len(f) > 1 && f[i].Reason == stickiness.Usable
		}
		return f
	}
	tests := map[string]struct {
		change func(found) found
		want   string
	}{
		"the oldest wins":  {oldest, "an older cookie"},
		"eight are opened": {func(f found) found { return f[:min(len(f), 8)] }, "nine unusable values"},
		"one spoils all": {func(f found) found {
			if len(f) > 0 && f[0].Reason != stickiness.Usable {
				return f[:1]
			}
			return f
		}, "nine unusable values"},
		"writes for ever": {rewrites, "on every response"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			lb, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{})
			require.NoError(t, err)
			require.ErrorContains(t, stickinesstest.TestPolicy(lookups{lb, tt.change}, stickinesstest.Session{}), tt.want)
			app, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: "SID"})
			require.NoError(t, err)
			require.ErrorContains(t, stickinesstest.TestPolicy(lookups{app, tt.change}, stickinesstest.Session{Response: login}), tt.want)
		})
	}
	app, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: "SID"})
	require.NoError(t, err)
	require.ErrorContains(t, stickinesstest.TestPolicy(literal{app}, stickinesstest.Session{Response: login}), "deleted by its directory")
}
