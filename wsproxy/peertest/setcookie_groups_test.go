package peertest_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness"
)

// testSameCookies (S14) has an application set and delete cookies of one name, several in a
// response, for paths, domains and partitions of all kinds. Behind an AppCookie, the browser keeps a
// cookie of the balancer's for each one of the application's, as long, and no other.
func testSameCookies(t *testing.T, b browser) {
	random := rand.New(rand.NewPCG(1, 14))
	pick := func(among ...string) string { return among[random.IntN(len(among))] }
	responses := make(map[*lineCase][][]string)
	var cases []*lineCase
	for i := range 80 {
		c := &lineCase{index: i}
		cases = append(cases, c)
		for range 1 + random.IntN(3) {
			var lines []string
			for range 1 + random.IntN(4) {
				lines = append(lines, expand(fmt.Sprintf("app=%d", random.IntN(1000))+
					pick("", "; Path=/", "; Path=/dir", "; Path=/dir/", "; path=/other", "; Path=relative")+
					pick("", "", "; Domain={host}", "; Domain={site}", "; Domain=.{site}", "; Domain=")+
					pick("", "; Secure", "; Secure; SameSite=None; Partitioned", "; HttpOnly")+
					pick("", "; Max-Age=6000", "; Max-Age=0", "; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "; Max-Age=x",
						"; Expires={Mon, 02 Jan 2006 15:04:05 GMT}"), c.site()))
			}
			responses[c] = append(responses[c], behindAppCookie(t, c, lines))
		}
	}
	began := time.Now()
	several := 0
	for batch := range slices.Chunk(cases, 16) { // a browser keeps 10 KB of a site in a partition
		for i, kept := range fetchAll(t, b, "https", batch, func(c *lineCase) [][]string { return responses[c] }) {
			var app, own []string
			for _, k := range kept {
				what := strings.SplitN(describe(k, batch[i].site(), began), " for ", 2)[1]
				if k.Name == "app" {
					app = append(app, what)
				} else {
					own = append(own, what)
				}
			}
			slices.Sort(app)
			slices.Sort(own)
			require.Equal(t, app, own, "%q", responses[batch[i]])
			if len(app) > 1 {
				several++
			}
		}
	}
	require.Greater(t, several, 10, "cases with several cookies")
}

// behindAppCookie returns the Set-Cookie lines of a response behind an AppCookie.
func behindAppCookie(t *testing.T, c *lineCase, lines []string) []string {
	t.Helper()
	policy := newAppCookie(t, stickiness.AppCookieOptions{})
	binding := &stickiness.Binding{
		Request: httptest.NewRequest(http.MethodGet, "https://www."+c.site()+"/dir/page", nil),
		Header:  http.Header{"Set-Cookie": lines},
		Target:  "a",
		TLS:     true,
	}
	policy.Bind(binding)
	return binding.Header["Set-Cookie"]
}
