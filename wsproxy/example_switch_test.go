package wsproxy_test

import (
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// An operator changes a listener's stickiness from the admin listener, while it serves. Sessions go
// on: for a day the new policy also reads what the former one wrote.
func Example_switch() {
	one, two := namedBackend("app-1"), namedBackend("app-2")
	defer one.Close()
	defer two.Close()
	pool, err := balancer.New(balancer.Config{
		Picker:  &balancer.RoundRobin{},
		Targets: []balancer.Target{target("app-1", one.URL), target("app-2", two.URL)},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	keys := [][]byte{cookie.NewKey()}
	policies := map[string]func() (stickiness.Policy, error){
		"session": func() (stickiness.Policy, error) {
			return stickiness.NewLBCookie(stickiness.LBCookieOptions{Name: "lb-session", Keys: keys})
		},
		"hour": func() (stickiness.Policy, error) {
			return stickiness.NewLBCookie(stickiness.LBCookieOptions{Name: "lb-hour", Period: time.Hour, Keys: keys})
		},
		"none": func() (stickiness.Policy, error) { return nil, nil },
	}

	var policy stickiness.Switch
	admin := http.NewServeMux() // behind the operators' login
	admin.HandleFunc("POST /stickiness/{name}", func(w http.ResponseWriter, r *http.Request) {
		newPolicy, ok := policies[r.PathValue("name")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		next, err := newPolicy()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		previous := policy.Load()
		if next != nil && previous != nil {
			both := stickiness.First(next, stickiness.ReadOnly(previous))
			policy.Store(both)
			time.AfterFunc(24*time.Hour, func() {
				if policy.Load() == both { // not switched again
					policy.Store(next)
				}
			})
			return
		}
		policy.Store(next)
	})
	front := httptest.NewServer(&wsproxy.Proxy{Pool: pool, Policy: &policy})
	defer front.Close()
	set := func(name string) {
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/stickiness/"+name, nil))
		fmt.Print(name, " ", w.Code, ": ")
	}

	jar, _ := cookiejar.New(nil)
	client := &http.Client{Jar: jar}
	for _, name := range []string{"none", "session", "hour", "bogus"} {
		set(name)
		fmt.Println(get(client, front.URL), get(client, front.URL), get(client, front.URL))
	}
	// Output:
	// none 200: app-1 app-2 app-1
	// session 200: app-2 app-2 app-2
	// hour 200: app-2 app-2 app-2
	// bogus 404: app-2 app-2 app-2
}
