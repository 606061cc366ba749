package health_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// twoBackends starts a healthy backend and an unhealthy one.
func twoBackends() (*balancer.Pool, func()) {
	well := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}))
	sick := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no database", http.StatusServiceUnavailable)
	}))
	wellURL, _ := url.Parse(well.URL)
	sickURL, _ := url.Parse(sick.URL)
	pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{
		{ID: "app-1", URL: wellURL},
		{ID: "app-2", URL: sickURL},
	}})
	if err != nil {
		log.Fatal(err)
	}
	return pool, func() { well.Close(); sick.Close() }
}

// The program of the package's documentation.
func Example() {
	pool, stop := twoBackends()
	defer stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	registry := &health.Registry{Pool: pool, Check: health.HTTP{Path: "/healthz"}}
	go registry.Run(ctx)
	if err := registry.Ready(ctx); err != nil {
		log.Fatal(err)
	}

	page := &health.Page{Registries: []*health.Registry{registry}}
	server := httptest.NewServer(page.Handler())
	defer server.Close()

	err := registry.Drain(ctx, "app-1", health.Drain{Grace: -1}) // sessions move at once
	fmt.Println(err)
	for _, t := range page.Status().Pools[0].Targets {
		fmt.Println(t.ID, t.Health, t.Admin)
	}
	// Output:
	// <nil>
	// app-1 healthy down
	// app-2 unhealthy ready
}

func ExampleRegistry() {
	pool, stop := twoBackends()
	defer stop()

	registry := &health.Registry{Pool: pool, Check: health.HTTP{Path: "/healthz"}}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go registry.Run(ctx)

	if err := registry.Ready(ctx); err != nil {
		log.Fatal(err)
	}
	for _, t := range registry.Status().Targets {
		fmt.Printf("%s is %v %q\n", t.ID, t.Health, t.Check.Error)
	}
	// Output:
	// app-1 is healthy ""
	// app-2 is unhealthy "status 503, expected 2xx or 3xx"
}

func ExampleRegistry_Drain() {
	pool, stop := twoBackends()
	defer stop()
	registry := &health.Registry{Pool: pool}

	// Sessions stay for a grace, and then move. After a minute, the remaining connections are cut.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := registry.Drain(ctx, "app-1", health.Drain{Grace: 10 * time.Millisecond})
	m, _ := pool.Member("app-1")
	fmt.Println(err, m.State().Admin)
	// Output: <nil> down
}

func ExampleRegistry_Subscribe() {
	pool, stop := twoBackends()
	defer stop()
	registry := &health.Registry{Pool: pool, Check: health.HTTP{}}
	events, unsubscribe := registry.Subscribe(16)
	defer unsubscribe()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go registry.Run(ctx)
	for range 2 {
		e := <-events
		fmt.Printf("%v: %s is %v %q\n", e.Kind, e.Target, e.State.Health, e.Reason)
	}
	// Unordered output:
	// target health changed: app-1 is healthy ""
	// target health changed: app-2 is unhealthy "status 503, expected 2xx or 3xx"
}

// One page for all pools of a process, on a listener of its own, which only operators reach.
func ExamplePage() {
	newRegistry := func(pool string, ids ...string) *health.Registry {
		var targets []balancer.Target
		for _, id := range ids {
			targets = append(targets, balancer.Target{ID: id, URL: &url.URL{Scheme: "http", Host: id + ".example"}})
		}
		p, err := balancer.New(balancer.Config{Name: pool, Targets: targets})
		if err != nil {
			log.Fatal(err)
		}
		return &health.Registry{Pool: p}
	}
	page := &health.Page{
		Registries: []*health.Registry{newRegistry("shop", "shop-1", "shop-2"), newRegistry("search", "search-1")},
		Who:        func(r *http.Request) string { return r.Header.Get("X-Authenticated-User") }, // set by a proxy in front
	}
	if err := page.Validate(); err != nil {
		log.Fatal(err)
	}
	admin := http.NewServeMux()
	admin.Handle("/targets", page.Handler())

	// A browser's button sends this form.
	form := url.Values{"pool": {"shop"}, "target": {"shop-2"}, "action": {"down"}}
	press := httptest.NewRequest("POST", "http://localhost/targets", strings.NewReader(form.Encode()))
	press.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	press.Header.Set("X-Authenticated-User", "alice")
	w := httptest.NewRecorder()
	admin.ServeHTTP(w, press)

	var status health.PageStatus
	if err := json.Unmarshal(w.Body.Bytes(), &status); err != nil {
		log.Fatal(err)
	}
	for _, pool := range status.Pools {
		fmt.Printf("%s: %d of %d serve\n", pool.Pool, pool.Serving, len(pool.Targets))
		for _, p := range pool.Presses {
			fmt.Println(p.By, p.Action, p.Target)
		}
	}
	// Output:
	// shop: 1 of 2 serve
	// alice down shop-2
	// search: 1 of 1 serve
}
