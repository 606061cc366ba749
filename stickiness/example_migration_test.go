package stickiness_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
)

// route prints where a policy sends a request.
func route(p stickiness.Policy, path string, header ...string) {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	for _, c := range p.Lookup(r, nil) {
		fmt.Println(c.Target, c.Reason)
	}
}

// From nginx's "sticky cookie route" to a sealed cookie of another name: clients keep their targets
// and get the new cookie.
func ExampleReadOnly() {
	var table cookie.InsecureTable
	err := table.Store(map[string]string{
		"app-1": cookie.InsecureNginxMD5("127.0.0.1:9000"),
		"app-2": cookie.InsecureNginxMD5("127.0.0.1:9001"),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	nginx, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Name: "route", Codec: &table, CORS: stickiness.CORSNever})
	if err != nil {
		fmt.Println(err)
		return
	}
	sealed, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Period: time.Hour})
	if err != nil {
		fmt.Println(err)
		return
	}
	policy := stickiness.First(sealed, stickiness.ReadOnly(nginx))

	route(policy, "/", "Cookie", "route=422db4e6da7b4bba46bd476612df0469")
	// Output: app-2 usable
}

// A cookie keeps its name while its values change from those of a table to sealed ones. The next
// response replaces a value that the table reads.
func ExampleLBCookieOptions_former() {
	var table cookie.InsecureTable
	if err := table.Store(map[string]string{"app-1": "s1", "app-2": "s2"}); err != nil {
		fmt.Println(err)
		return
	}
	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Name: "SRV", Former: []cookie.Codec{&table}})
	if err != nil {
		fmt.Println(err)
		return
	}
	route(policy, "/", "Cookie", "SRV=s2")
	// Output: app-2 usable
}

// HAProxy's "cookie SRV insert indirect nocache maxidle 30m maxlife 8h".
func ExampleNewLBCookie_haproxyInsert() {
	codec := &cookie.InsecureHAProxy{MaxIdle: 30 * time.Minute, MaxLife: 8 * time.Hour}
	if err := codec.Store(map[string]string{"app-1": "s1", "app-2": "s2"}); err != nil {
		fmt.Println(err)
		return
	}
	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Name: "SRV", Codec: codec, CORS: stickiness.CORSNever})
	if err != nil {
		fmt.Println(err)
		return
	}
	route(policy, "/", "Cookie", "SRV=s2")
	route(policy, "/", "Cookie", "SRV=s2|ZVPxB|ZVPxB") // last seen in 2023
	// Output:
	// app-2 usable
	//  expired
}

// HAProxy's "cookie JSESSIONID prefix".
func ExamplePrefixCookie() {
	var table cookie.InsecureTable
	if err := table.Store(map[string]string{"app-1": "s1", "app-2": "s2"}); err != nil {
		fmt.Println(err)
		return
	}
	policy, err := stickiness.NewPrefixCookie(stickiness.PrefixCookieOptions{Cookie: "JSESSIONID", Codec: &table})
	if err != nil {
		fmt.Println(err)
		return
	}
	b := &stickiness.Binding{Header: http.Header{"Set-Cookie": {"JSESSIONID=ABC123; Path=/"}}, Target: "app-1"}
	policy.Bind(b)
	fmt.Println(b.Header.Get("Set-Cookie"))

	out := httptest.NewRequest(http.MethodGet, "/", nil)
	out.Header.Set("Cookie", "JSESSIONID=s1~ABC123")
	policy.Forward(out, policy.Lookup(out, nil))
	fmt.Println(out.Header.Get("Cookie"))
	// Output:
	// JSESSIONID=s1~ABC123; Path=/
	// JSESSIONID=ABC123
}

// Tomcat's and Jetty's routes, in the cookie or in the path.
func ExampleRoute() {
	var table cookie.InsecureTable
	if err := table.Store(map[string]string{"app-1": "jvm1", "app-2": "jvm2"}); err != nil {
		fmt.Println(err)
		return
	}
	policy, err := stickiness.NewRoute(stickiness.RouteOptions{Cookie: "JSESSIONID", PathParam: "jsessionid", Codec: &table})
	if err != nil {
		fmt.Println(err)
		return
	}
	route(policy, "/app/page", "Cookie", "JSESSIONID=0123ABCD.jvm2")
	route(policy, "/app/page;jsessionid=0123ABCD.jvm1")
	// Output:
	// app-2 usable
	// app-1 usable
}

// A trusted gateway in front names the target itself.
func ExampleNamed() {
	policy, err := stickiness.NewNamed(stickiness.NamedOptions{
		From:          []stickiness.Source{stickiness.FromHeader("X-Target"), stickiness.FromQuery("target")},
		InsecurePlain: true,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	route(policy, "/?target=app-1", "X-Target", "app-2")
	// Output: app-2 usable
}

// Clients of the Model Context Protocol keep no cookies, but send a header back.
func ExampleLearn() {
	policy, err := stickiness.NewLearn(stickiness.LearnOptions{Store: &stickiness.MemoryStore{}, Header: "Mcp-Session-Id", TTL: time.Hour})
	if err != nil {
		fmt.Println(err)
		return
	}
	policy.Bind(&stickiness.Binding{
		Request: httptest.NewRequest(http.MethodPost, "/mcp", nil),
		Header:  http.Header{"Mcp-Session-Id": {"1868a90c"}},
		Target:  "app-3",
	})
	route(policy, "/mcp", "Mcp-Session-Id", "1868a90c")
	// Output: app-3 usable
}

// Members of the shop are bound by its session cookie, all others by one of our own.
func ExampleFirst() {
	members, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: "SID", Name: "lb-member"})
	if err != nil {
		fmt.Println(err)
		return
	}
	visitors, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Name: "lb"})
	if err != nil {
		fmt.Println(err)
		return
	}
	policy := stickiness.First(members, visitors)

	b := &stickiness.Binding{Request: httptest.NewRequest(http.MethodGet, "/", nil), Header: http.Header{}, Target: "app-1"}
	policy.Bind(b)
	fmt.Println(b.Result, len(b.Header["Set-Cookie"]))
	// Output: bound 1
}
