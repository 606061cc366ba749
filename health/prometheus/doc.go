// Package prometheus exports what pools, health registries and proxies know as Prometheus metrics.
// It starts no goroutine: it reads the registries at each scrape.
//
// One [Collector] serves all pools of a process. The label pool tells them apart:
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
// The names begin with stickylb_, and each metric has the label pool.
//
// Most metrics come from a registry while it runs. For a pool, they count its targets by health and
// administrative state, and the targets that serve, are ejected or are leaving. They also show
// panics, zones and the length of the queue. For each target, they show its state, share, load,
// tunnels, latency and checks, and its requests by class of outcome and of status. They count its
// ejections in target_ejections_total, and those that were not allowed in
// target_ejections_refused_total.
//
// [Collector.Observe] adds request_latency_seconds by class of outcome, and queue_wait_seconds by
// how the wait ended: served, timeout, client gone, or refused because the targets went away.
//
// [Collector.Trace] adds, for a proxy, policy_candidates_total by reason, policy_bindings_total by
// result, request_retries_total and request_failures_total by class of error, tunnel_ends_total by
// what ended the tunnel, and tunnel_duration_seconds. [Collector.StreamTrace] adds the last four
// for a stream.Server.
//
// [Collector.LearnTrace] adds session_store_seconds, by call and result, for the store of a
// [stickiness.Learn]. The results of find are asked, copied, remembered, none (there is no such
// session) and failed. Those of bind are bound and failed.
//
// The file dashboard.json in the package's directory is a Grafana dashboard of these metrics, with
// variables for the data source, the pool and the target.
package prometheus
