package health_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// reconcile gives the registry's pool the targets in a JSON file. Call it whenever the file may
// have changed.
func reconcile(registry *health.Registry, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var entries []struct {
		ID, URL string
		Weight  int
	}
	if err := json.Unmarshal(text, &entries); err != nil {
		return err
	}
	targets := make([]balancer.Target, len(entries))
	for i, e := range entries {
		u, err := url.Parse(e.URL)
		if err != nil {
			return err
		}
		targets[i] = balancer.Target{ID: e.ID, URL: u, Weight: e.Weight}
	}
	return registry.Replace(targets, health.Drain{Grace: 20 * time.Millisecond, Limit: time.Minute})
}

func ExampleRegistry_Replace() {
	pool, _ := balancer.New(balancer.Config{})
	registry := &health.Registry{Pool: pool, Interval: -1} // no checks here
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go registry.Run(ctx)
	if err := registry.Ready(ctx); err != nil { // it runs
		log.Fatal(err)
	}

	dir, err := os.MkdirTemp("", "targets")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "targets.json")
	apply := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			log.Fatal(err)
		}
		fmt.Println("error:", reconcile(registry, file))
		for _, m := range pool.Members() {
			fmt.Println(m.ID(), m.Target().Weight)
		}
	}

	apply(`[{"id": "app-1", "url": "http://10.0.0.1:3000"}, {"id": "app-2", "url": "http://10.0.0.2:3000"}]`)
	request, err := pool.AcquireBound(ctx, "app-1", &balancer.Request{})
	if err != nil {
		log.Fatal(err)
	}
	apply(`[{"id": "app-2", "url": "http://10.0.0.2:3000", "weight": 3}, {"id": "app-3", "url": "http://10.0.0.3:3000"}]`)
	apply(`[{"id": "app-4"}]`)          // changes nothing
	request.Release(balancer.Outcome{}) // app-1 was waiting for it
	fmt.Println("settled:", registry.Settled(ctx))
	for _, m := range pool.Members() {
		fmt.Println(m.ID())
	}
	// Output:
	// error: <nil>
	// app-1 1
	// app-2 1
	// error: <nil>
	// app-1 1
	// app-2 3
	// app-3 1
	// error: health: replacing targets: balancer: target 0 ("app-4"): the URL is empty
	// app-1 1
	// app-2 3
	// app-3 1
	// settled: <nil>
	// app-2
	// app-3
}
