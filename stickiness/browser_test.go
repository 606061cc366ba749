package stickiness_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
)

// A recordedLine is a Set-Cookie line in testdata and what Chromium does with it over one scheme.
// The tests of wsproxy/peertest compare this record with a real browser.
type recordedLine struct{ title, line, scheme, verdict string }

func readRecord(t *testing.T) (all []recordedLine) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for paragraph := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
			if strings.HasPrefix(paragraph, "#") {
				continue
			}
			lines := strings.Split(paragraph, "\n")
			for _, recorded := range lines[2:] {
				schemes, verdict, _ := strings.Cut(recorded, ": ")
				for scheme := range strings.SplitSeq(schemes, ", ") {
					all = append(all, recordedLine{lines[0], expand(lines[1]), scheme, verdict})
				}
			}
		}
	}
	require.Greater(t, len(all), 500)
	return all
}

// Package cookie reads each line as Chromium does.
func TestParseSetCookie_C1_AsChromium(t *testing.T) {
	exceptions := map[string]string{
		"line of 17000 octets": "the time and the memory that a line may cost are bounded",
	}
	for _, l := range readRecord(t) {
		if exceptions[l.title] != "" {
			require.NotEqual(t, l.verdict, fate(l.line, l.scheme), "no exception any more: %s", l.title)
			continue
		}
		require.Equal(t, l.verdict, fate(l.line, l.scheme), "%s over %s: %s", l.title, l.scheme, l.line)
	}
}

// For each line, browsers store and delete the balancer's cookie together with the application's.
// The exception is a line that browsers refuse for the prefix of its name: the balancer's cookie is
// written then. Clients that do not know prefixes store both, and for the others the balancer's
// cookie has no effect.
func TestAppCookie_S10_LivesAndDiesWithTheApplications(t *testing.T) {
	for _, l := range readRecord(t) {
		c, err := cookie.ParseSetCookie(l.line)
		if err != nil || c.Name == "" || strings.HasPrefix(c.Name, "__") && errors.Is(c.Check(), cookie.ErrRefused) {
			continue
		}
		o := stickiness.AppCookieOptions{Name: "LB", AcceptTrailingSemicolon: true, PathSpelling: stickiness.SpellVerbatim}
		o.Cookie = c.Name
		p, err := stickiness.NewAppCookie(o)
		require.NoError(t, err, l.title)
		b := &stickiness.Binding{
			Request: httptest.NewRequest(http.MethodGet, l.scheme+"://"+recordHost+"/dir/page", nil),
			Header:  http.Header{"Set-Cookie": {l.line}},
			Target:  "app-1",
			TLS:     l.scheme == "https",
		}
		p.Bind(b)
		got := "refuses" // or has not been written
		if ours := b.Header["Set-Cookie"][1:]; len(ours) > 0 {
			got = pair.ReplaceAllString(fate(ours[0], l.scheme), "")
		}
		want := pair.ReplaceAllString(l.verdict, "")
		require.Equal(t, want, got, "%s over %s: %s", l.title, l.scheme, b.Header["Set-Cookie"])
	}
}

// pair is the name and the value in a verdict.
var pair = regexp.MustCompile(`^keeps "([^"\\]|\\.)*"="([^"\\]|\\.)*"`)

// The request is for a page of this host. The site is the part of it that Domain may name.
const (
	recordSite = "n0.corpus.example"
	recordHost = "www." + recordSite
)

// fate returns what browsers do with a line, in the words of the record.
func fate(line, scheme string) string {
	c, err := cookie.ParseSetCookie(line)
	if err != nil || c.Check() != nil {
		return "refuses"
	}
	_, secure := c.Attribute("Secure")
	domain, _ := c.Attribute("Domain")
	switch domain = strings.ToLower(strings.TrimPrefix(domain, ".")); {
	case secure && scheme == "http":
		return "refuses"
	case domain == "":
		if d, _ := c.Attribute("Domain"); d != "" {
			return "refuses"
		}
		domain = recordHost
	case strings.HasSuffix("."+recordHost, "."+domain) && strings.HasSuffix(domain, recordSite):
		domain = "." + domain
	default:
		return "refuses"
	}
	path, _ := c.Attribute("Path")
	if !strings.HasPrefix(path, "/") {
		path = "/dir"
	}
	now := time.Now()
	expires, session := c.Expiry(now)
	until := "the session's end"
	if !session {
		if !expires.After(now) {
			return "deletes"
		}
		until = instant(expires, now)
	}
	s := fmt.Sprintf("keeps %q=%q for %s%s until %s", c.Name, c.Value, domain, path, until)
	s = strings.ReplaceAll(s, recordSite, "{site}")
	if secure {
		s += ", Secure"
	}
	if _, ok := c.Attribute("HttpOnly"); ok {
		s += ", HttpOnly"
	}
	sameSite, _ := c.Attribute("SameSite")
	for _, known := range []string{"Strict", "Lax", "None"} {
		if strings.EqualFold(sameSite, known) {
			s += ", SameSite=" + known
		}
	}
	if _, ok := c.Attribute("Partitioned"); ok {
		s += ", Partitioned"
	}
	return s
}

// instant says when a cookie ends: relative to the [recordDate], or to the present.
func instant(at, now time.Time) string {
	if d := at.Sub(recordDate()); d.Abs() < 20*24*time.Hour {
		return fmt.Sprintf("the date%+ds", int(d/time.Second))
	}
	d := at.Sub(now).Round(time.Minute)
	if d >= 400*24*time.Hour {
		return "400 days"
	}
	return fmt.Sprintf("%d min", int(d/time.Minute))
}

// recordDate returns the date that replaces the dates in the record: the sixth of a month at
// 08:09:07, in two or three months. That is within the limit of 400 days that browsers have.
func recordDate() time.Time {
	t := time.Now().UTC().AddDate(0, 2, 0)
	if t.Day() > 6 {
		t = t.AddDate(0, 0, 1-t.Day()).AddDate(0, 1, 0)
	}
	return time.Date(t.Year(), t.Month(), 6, 8, 9, 7, 0, time.UTC)
}

var token = regexp.MustCompile(`\{[^{}]*\}`)

// expand returns a line of the record as it goes over the wire.
func expand(line string) string {
	return token.ReplaceAllStringFunc(line, func(s string) string {
		s = s[1 : len(s)-1]
		count, repeated := strings.CutPrefix(s, "x*")
		switch n, err := strconv.ParseUint(strings.TrimPrefix(s, "x"), 16, 8); {
		case s == "host":
			return recordHost
		case s == "site":
			return recordSite
		case repeated:
			n, err := strconv.Atoi(count)
			if err != nil {
				panic(err)
			}
			return strings.Repeat("x", n)
		case err == nil && len(s) == 3:
			return string([]byte{byte(n)})
		}
		return recordDate().Format(s)
	})
}
