package stickiness_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/stickinesstest"
)

// A policy needs no proxy and no backend, only a request and the header of a response.
func ExampleLBCookie() {
	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{
		Period: time.Hour,
		Keys:   [][]byte{cookie.NewKey()}, // the same on all instances, and after a restart
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	// A new client: the policy finds nothing, some target answers, and the client is bound.
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	b := &stickiness.Binding{Request: r, Header: http.Header{}, Target: "app-2", Seen: policy.Lookup(r, nil)}
	policy.Bind(b)
	fmt.Println(len(b.Seen), b.Result)

	// The client comes back with its cookie.
	value, _, _ := strings.Cut(b.Header.Get("Set-Cookie"), ";")
	r.Header.Set("Cookie", value)
	found := policy.Lookup(r, nil)
	fmt.Println(found[0].Target, found[0].Reason)

	// Its target answers, and nothing is written.
	b = &stickiness.Binding{Request: r, Header: http.Header{}, Target: "app-2", From: &found[0], Seen: found}
	policy.Bind(b)
	fmt.Println(b.Result, len(b.Header))
	// Output:
	// 0 bound
	// app-2 usable
	// kept 0
}

func ExampleNewLBCookie() {
	_, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Name: "__Host-lb"})
	fmt.Println(err)
	// Output: stickiness: LBCookie: cookie: browsers refuse it: a name with __Host- needs Secure
}

// The balancer's cookie takes the attributes of the application's cookie, and is deleted with it.
func ExampleAppCookie() {
	policy, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: "JSESSIONID"})
	if err != nil {
		fmt.Println(err)
		return
	}
	respond := func(line string) {
		b := &stickiness.Binding{
			Request: httptest.NewRequest(http.MethodGet, "/shop/", nil),
			Header:  http.Header{"Set-Cookie": {line}},
			Target:  "app-1",
		}
		policy.Bind(b)
		_, attributes, _ := strings.Cut(b.Header["Set-Cookie"][1], "; ")
		fmt.Printf("%v: %s\n", b.Result, attributes)
	}
	respond("JSESSIONID=0A1B; Path=/shop; HttpOnly")
	respond("JSESSIONID=; Path=/shop; Max-Age=0")
	// Output:
	// bound: Path=/shop; HttpOnly
	// freed: Path=/shop; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT
}

// byTenant binds all requests of a tenant to the target that the caller's table names.
type byTenant map[string]string

func (t byTenant) Lookup(r *http.Request, found []stickiness.Candidate) []stickiness.Candidate {
	if target, ok := t[r.Header.Get("X-Tenant")]; ok {
		found = append(found, stickiness.Candidate{Target: target})
	}
	return found
}

func (byTenant) Bind(*stickiness.Binding) {} // nothing to write: the table says it all

// A policy of your own is tested alone: the result of Lookup for a request, and the whole contract
// in one call.
func ExamplePolicy() {
	policy := byTenant{"acme": "app-1", "ajax": "app-2", "apex": "app-3"}

	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("X-Tenant", "ajax")
	fmt.Println(policy.Lookup(r, nil)[0].Target)

	tenants := map[string]string{"app-1": "acme", "app-2": "ajax", "app-3": "apex"}
	fmt.Println(stickinesstest.TestPolicy(policy, stickinesstest.Session{
		Request: func(target string) *http.Request {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set("X-Tenant", tenants[target])
			return r
		},
	}))
	// Output:
	// app-2
	// <nil>
}
