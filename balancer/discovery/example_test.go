package discovery_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/balancer/discovery"
	"github.com/stickylb/stickylb/health"
)

func ExampleDNS() {
	pool, _ := balancer.New(balancer.Config{})
	registry := &health.Registry{Pool: pool, Interval: -1} // no checks here
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go registry.Run(ctx)

	var z zone // instead of a DNS server
	z.set("app.internal.", "10.0.0.2", "10.0.0.1")
	source := &discovery.DNS{Name: "app.internal", Port: 8080, Resolver: z.resolver()}
	source.Report = func(targets []balancer.Target) error {
		for i := range targets {
			targets[i].MaxRequests = 100
		}
		return registry.Replace(targets, health.Drain{Grace: time.Minute})
	}
	go source.Run(ctx)
	if err := source.Ready(ctx); err != nil {
		log.Fatal(err)
	}
	for _, m := range pool.Members() {
		fmt.Println(m.Target())
	}
	// Output:
	// 10.0.0.1:8080=http://app.internal:8080;addr=10.0.0.1:8080;max-requests=100
	// 10.0.0.2:8080=http://app.internal:8080;addr=10.0.0.2:8080;max-requests=100
}

func ExampleFile() {
	dir, err := os.MkdirTemp("", "targets")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "targets")
	text := "app-1=http://10.0.0.1:3000\napp-2=http://10.0.0.2:3000;weight=2\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		log.Fatal(err)
	}

	pool, _ := balancer.New(balancer.Config{})
	registry := &health.Registry{Pool: pool, Interval: -1} // no checks here
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go registry.Run(ctx)
	source := &discovery.File{Path: path}
	source.Report = func(targets []balancer.Target) error {
		return registry.Replace(targets, health.Drain{Grace: time.Minute})
	}
	go source.Run(ctx)
	if err := source.Ready(ctx); err != nil {
		log.Fatal(err)
	}
	for _, m := range pool.Members() {
		fmt.Println(m.Target())
	}
	// Output:
	// app-1=http://10.0.0.1:3000
	// app-2=http://10.0.0.2:3000;weight=2
}

func ExampleParse() {
	_, err := discovery.Parse([]byte("app-1=http://10.0.0.1:3000\n\napp-2=10.0.0.2:3000\n"))
	fmt.Println(err)
	// Output: discovery: line 3: the URL has no scheme: write "http://10.0.0.2:3000"
}
