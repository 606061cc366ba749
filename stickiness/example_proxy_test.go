package stickiness_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// A client that sends its cookie back stays with its target.
func Example() {
	backend := httptest.NewServer(http.NotFoundHandler())
	defer backend.Close()
	u, _ := url.Parse(backend.URL) // cannot fail
	pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{{ID: "app-1", URL: u}}})
	if err != nil {
		fmt.Println(err)
		return
	}

	keys := [][]byte{cookie.NewKey()}
	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{
		Period: time.Hour,
		Keys:   keys, // the same on all instances, and after a restart
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	proxy := &wsproxy.Proxy{Pool: pool, Policy: policy}

	w := httptest.NewRecorder()
	proxy.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	bound := w.Result().Cookies()[0]
	fmt.Println(bound.Name, bound.MaxAge)

	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.AddCookie(bound)
	fmt.Println(policy.Lookup(r, nil)[0].Target)
	// Output:
	// AWSELB 3600
	// app-1
}
