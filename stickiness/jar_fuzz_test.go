package stickiness_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/internal/jar"
	"github.com/stretchr/testify/require"
)

// The choices of the clients and the application of FuzzAppCookie_S14_BrowserStore. No request has
// an encoded underscore in its path, because the balancer's cookies are deleted in both spellings.
var (
	jarURLs = []string{
		"https://www.example.com/", "https://www.example.com/app/page", "https://www.example.com/app/admin/x",
		"https://www.example.com/my_app/x", "https://www.example.com/apps", "https://shop.example.com/app/page",
		"https://192.0.2.1/app/page", "https://www.example.com/app/",
	}
	jarPaths    = []string{"", "; Path=/", "; Path=/app", "; Path=/app/admin", "; Path=/my_app", "; Path=app", "; Path=/app/", "; Path=/; path="}
	jarDomains  = []string{"", "; Domain=example.com", "; Domain=.Example.com", "; Domain=www.example.com", "; Domain=example.org", "; Domain=192.0.2.1", "; Domain", "; Domain=.org; domain=example.com"}
	jarFlags    = []string{"", "; Secure", "; Secure; Partitioned", "; Partitioned", "; SameSite=None", "; HttpOnly", "; Version=1", "; Secure; SameSite=None"}
	jarLifetime = []string{"", "; Max-Age=0", "; Max-Age=600", "; Max-Age=-1", "; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "; Max-Age=600; Max-Age=x", "; Expires=0", "; Max-Age=30; Expires=Thu, 01 Jan 1970 00:00:00 GMT"}
	jarServed   = []string{"", "app-1", "app-2", "app-3"} // "": the one that the session is bound to
)

// A jarSession is the cookie store of one client, with the sessions of the model.
type jarSession struct {
	*testing.T
	policy   stickiness.Policy
	jar      jar.Jar
	sessions map[string]modelled // by the cookie of the application
	step     int
}

type modelled struct {
	target string
	step   int // in which the session was begun or moved
}

// jarKey identifies a cookie of the application.
func jarKey(c jar.Cookie) string { return fmt.Sprint(c.Name, c.Place) }

// request returns what the client sends.
func (s *jarSession) request(url string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, url, nil)
	if line := jar.Line(s.jar.Send(r)); line != "" {
		r.Header.Set("Cookie", line)
	}
	return r
}

// sent returns which of the application's cookies go with r, the newest session first.
func (s *jarSession) sent(r *http.Request) (keys []string) {
	for _, c := range s.jar.Send(r) {
		if c.Name == "SID" {
			keys = append(keys, jarKey(c))
		}
	}
	slices.SortStableFunc(keys, func(a, b string) int { return s.sessions[b].step - s.sessions[a].step })
	return keys
}

// visit has target answer the client with these lines, and checks all requests that may follow. It
// returns false if the model cannot continue: if two sessions were begun at once, it does not know
// which of them moves.
func (s *jarSession) visit(url, target string, lines ...string) bool {
	time.Sleep(2 * time.Second)
	s.step++
	r := s.request(url)
	carried := s.sent(r)
	if target == "" {
		target = "app-1"
		if len(carried) > 0 {
			target = s.sessions[carried[0]].target
		}
	}
	moves := len(carried) > 0
	for _, key := range carried {
		moves = moves && s.sessions[key].target != target
	}
	if moves && len(carried) > 1 && s.sessions[carried[0]].step == s.sessions[carried[1]].step {
		return false
	}
	b := answer(s.policy, r, target, set(lines...), overTLS)
	s.jar.Receive(r, b.Header)
	now := map[string]modelled{}
	for _, key := range s.kept() {
		was, known := s.sessions[key]
		if !known {
			was = modelled{target, s.step}
		}
		now[key] = was
	}
	for _, line := range lines {
		c, err := cookie.ParseSetCookie(line)
		if err != nil || c.Name != "SID" {
			continue
		}
		place, ok := jar.PlaceOf(r, c)
		key := fmt.Sprint(c.Name, place)
		if _, is := now[key]; ok && is {
			now[key] = modelled{target, s.step}
		}
	}
	if moves {
		if _, is := now[carried[0]]; is {
			now[carried[0]] = modelled{target, s.step}
		}
	}
	s.sessions = now
	for _, url := range jarURLs {
		next := s.request(url)
		want := ""
		if keys := s.sent(next); len(keys) > 0 {
			want = s.sessions[keys[0]].target
		}
		got := ""
		for _, c := range s.policy.Lookup(next, nil) {
			if c.Reason == stickiness.Usable {
				got = c.Target
				break
			}
		}
		require.Equal(s, want, got, "step %d: %s after %s answered %s with %q, ours %q; sends %s", s.step, url, target, r.URL, lines, b.Header["Set-Cookie"][len(lines):], next.Header["Cookie"])
	}
	return true
}

// kept returns the keys of the application's cookies in the store.
func (s *jarSession) kept() (keys []string) {
	for _, c := range s.jar.All() {
		if c.Name == "SID" {
			keys = append(keys, jarKey(c))
		}
	}
	return keys
}

// For all cookies that an application sets and deletes, a request is bound if and only if the
// browser's store sends the application's cookie with it. It is bound to the target that began or
// took over the newest session in the request.
func FuzzAppCookie_S14_BrowserStore(f *testing.F) {
	p, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{
		Cookie:                  "SID",
		AcceptTrailingSemicolon: true,
		PathSpelling:            stickiness.SpellVerbatim, // the other spellings reach requests that the application's cookie does not
	})
	require.NoError(f, err)
	line := func(path, domain, flags, lifetime byte) []byte { return []byte{path | domain<<4, flags | lifetime<<4} }
	step := func(url, served byte, lines ...[]byte) []byte {
		return append([]byte{url | served<<3 | byte(len(lines))<<5}, slices.Concat(lines...)...)
	}
	f.Add(step(1, 1, line(1, 0, 0, 0), line(2, 0, 0, 1)), "")                                              // a new one, and another path's deleted
	f.Add(step(1, 1, line(2, 0, 0, 1), line(1, 0, 0, 0)), "")                                              // in the other order
	f.Add(slices.Concat(step(1, 1, line(2, 0, 0, 0)), step(1, 2, line(1, 0, 0, 0))), "")                   // a path that changed
	f.Add(slices.Concat(step(1, 1, line(1, 3, 0, 0)), step(1, 2, line(1, 0, 0, 0), line(1, 3, 0, 1))), "") // domain and host
	f.Add(slices.Concat(step(1, 1, line(1, 0, 2, 0)), step(1, 2, line(1, 0, 1, 0), line(1, 0, 2, 1))), "") // partitions
	f.Add(slices.Concat(step(1, 1, line(0, 0, 0, 0)), step(1, 1, line(2, 0, 0, 1))), "")                   // the default path
	f.Add(slices.Concat(step(1, 1, line(0, 0, 0, 0)), step(2, 2)), "")                                     // it moves deeper
	f.Add(slices.Concat(step(3, 1, line(4, 0, 0, 2)), step(0, 2), step(3, 3)), "")                         // an underscore
	f.Add(slices.Concat(step(1, 1, line(1, 0, 0, 0)), step(1, 2, line(1, 5, 0, 1))), "")                   // an address that is not the host's
	f.Add(slices.Concat(step(6, 1, line(1, 5, 0, 0)), step(6, 2, line(1, 0, 0, 1))), "")                   // one that is
	f.Add(step(1, 1, line(1, 0, 0, 0), line(1, 0, 4, 1)), "")                                              // a line that browsers refuse
	f.Add(slices.Concat(step(1, 1, line(1, 0, 1, 0)), step(1, 2, line(1, 0, 4, 0))), "")                   // one that they refuse as the session moves
	f.Add(step(1, 1, line(1, 0, 0, 0)), `SID="a b"; Path=/; Max-Age=+100;`)
	f.Add(step(1, 1), "SID=x; Path=/"+strings.Repeat("; path=/a", 20))
	f.Add(step(5, 1, line(1, 1, 0, 0)), "\tSID\t=; Expires=Thu, 1 Jan 1970 00:00:00GMT; Domain=EXAMPLE.com")
	f.Fuzz(func(t *testing.T, script []byte, raw string) {
		if len(raw) > 300 || strings.Count(raw, "_") > 3 {
			return // other tests cover lines that do not fit
		}
		synctest.Test(t, func(t *testing.T) {
			s := &jarSession{T: t, policy: p}
			for range 8 {
				if len(script) == 0 {
					break
				}
				head := script[0]
				script = script[1:]
				var lines []string
				for n := int(head>>5) % 4; n > 0 && len(script) >= 2; n-- {
					a, b := script[0], script[1]
					script = script[2:]
					lines = append(lines, fmt.Sprintf("SID=%d", s.step)+jarPaths[a&7]+jarDomains[a>>4&7]+jarFlags[b&7]+jarLifetime[b>>4&7])
				}
				if head>>7 == 1 || len(script) == 0 && raw != "" {
					lines = append(lines, raw)
				}
				if !s.visit(jarURLs[head&7], jarServed[head>>3&3], lines...) {
					return
				}
			}
		})
	})
}
