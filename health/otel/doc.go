// Package otel exports what pools, health registries and proxies know as OpenTelemetry metrics. It
// starts no goroutine: it reads the registries when the meter's reader collects.
//
// One [Metrics] serves all pools of a process. The attribute pool tells them apart:
//
//	shop, err := balancer.New(balancer.Config{Name: "shop", Targets: shopTargets})
//	...
//	chat, err := balancer.New(balancer.Config{Name: "chat", Targets: chatTargets})
//	...
//	metrics, err := otel.Register(otel.Options{
//		Meter:      provider.Meter("stickylb"),
//		Registries: []*health.Registry{{Pool: shop}, {Pool: chat}}, // and Run them
//	})
//	...
//	defer metrics.Unregister()
//	defer metrics.Observe()()
//
//	http.Handle("shop.example/", &wsproxy.Proxy{Pool: shop, Trace: metrics.Trace(shop)})
//	http.Handle("chat.example/", &wsproxy.Proxy{Pool: chat, Trace: metrics.Trace(chat)})
//
// # Metrics
//
// The names begin with "stickylb.". Each metric has the attribute pool unless the pool has no name.
//
// The metrics below registry, zone, target and queue.waiting come from a registry while it runs.
// For a pool, they count its targets by health and administrative state. For each target, they show
// its state, share, load, tunnels, latency and checks, its ejections, those that were not allowed,
// and its requests by class of outcome and of status.
//
// [Metrics.Observe] adds request.latency by class of outcome, and queue.wait by how the wait ended:
// served, timeout, client gone, or refused because the targets went away.
//
// [Metrics.Trace] adds, for a proxy, policy.candidates by reason, policy.bindings by result,
// request.retries and request.failures by class of error, tunnel.ends by what ended the tunnel, and
// tunnel.duration. [Metrics.StreamTrace] adds the last four for a stream.Server.
//
// [Metrics.LearnTrace] adds session.store, by call and result, for the store of a
// [stickiness.Learn]. The results of find are asked, copied, remembered, none (there is no such
// session) and failed. Those of bind are bound and failed.
package otel
