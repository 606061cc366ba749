// Package prometheus exports what pools, their registries of health and their proxies know as
// Prometheus metrics. It starts no goroutine: a registry is read when the metrics are asked for.
//
// One [Collector] serves all pools of a process, each by its name:
//
//	shop, err := balancer.New(balancer.Config{Name: "shop", Targets: shopTargets})
//	...
//	chat, err := balancer.New(balancer.Config{Name: "chat", Targets: chatTargets})
//	...
//	collector, err := prometheus.New(prometheus.Options{Registries: []*health.Registry{
//		{Pool: shop}, {Pool: chat}, // and Run them
//	}})
//	...
//	prom.MustRegister(collector)
//	defer collector.Observe()()
//
//	http.Handle("shop.example/", &wsproxy.Proxy{Pool: shop, Trace: collector.Trace(shop)})
//	http.Handle("chat.example/", &wsproxy.Proxy{Pool: chat, Trace: collector.Trace(chat)})
//	http.Handle("/metrics", promhttp.Handler())
//
// # Metrics
//
// The names begin with stickylb_, and each has the label pool. From the registry, while it runs:
// targets by health and administrative state, those that serve, are ejected or are leaving, panics,
// zones, the queue's length; and for each target its state, share, load, tunnels, latency, checks,
// ejections (target_ejections_total, and target_ejections_refused_total where too few would have been
// left) and requests by class of outcome and of status.
//
// While Observe lasts: request_latency_seconds by class of outcome, and queue_wait_seconds by how the
// wait ended: served, timeout, client gone, or refused because the targets went away.
//
// From a proxy with the Collector's Trace: policy_candidates_total by reason, policy_bindings_total by
// result, request_retries_total and request_failures_total by class of error, tunnel_ends_total by
// what ended the tunnel, and tunnel_duration_seconds. A stream.Server with StreamTrace has the last
// four.
//
// Beside the package lies dashboard.json, a Grafana dashboard of these metrics, with variables for the
// data source, the pool and the target.
package prometheus
