package kubernetes_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/balancer/discovery/kubernetes"
	"github.com/stickylb/stickylb/health"
	"k8s.io/client-go/rest"
)

func ExampleService() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	config, err := rest.InClusterConfig()
	if err != nil {
		config = exampleConfig() // an API server with two pods, for this example
	}

	pool, err := balancer.New(balancer.Config{})
	if err != nil {
		log.Fatal(err)
	}
	registry := &health.Registry{Pool: pool, Interval: -1} // the pods' own readiness decides
	go registry.Run(ctx)

	pods := &kubernetes.Service{Config: config, Namespace: "default", Name: "web", Port: "http"}
	pods.Report = func(targets []balancer.Target) error {
		return registry.Replace(targets, health.Drain{Grace: -1, Limit: time.Minute})
	}
	go pods.Run(ctx)
	if err := pods.Ready(ctx); err != nil {
		log.Fatal(err)
	}
	for _, m := range pool.Members() {
		t := m.Target()
		fmt.Println(t.ID, t.URL, "backup:", t.Backup)
	}
	// Output:
	// web-0-1b4e28ba http://10.244.1.7:8080 backup: false
	// web-1-6fa459ea http://10.244.2.9:8080 backup: true
}

func exampleConfig() *rest.Config {
	api := newAPIServer()
	first, second := endpoint("web-0", "10.244.1.7", isReady), endpoint("web-1", "10.244.2.9", isTerminating)
	first.TargetRef.UID, second.TargetRef.UID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427", "6fa459ea-ee8a-3ca4-894e-db77e160355e"
	api.set(slice("web-abcde", first, second))
	return api.config()
}
