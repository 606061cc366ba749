// Package otel exports what pools, their registries of health and their proxies know as OpenTelemetry
// metrics. It starts no goroutine: a registry is read when the meter's reader asks.
//
// One [Metrics] serves all pools of a process, each by its name:
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
// The names begin with "stickylb.", and each has the attribute pool unless the pool has no name. From
// the registry, while it runs, are those below registry, zone, target and queue.waiting: targets by
// health and administrative state, and for each target its state, share, load, tunnels, latency,
// checks, ejections (those that were not allowed too) and requests by class of outcome and of status.
//
// While Observe lasts: request.latency by class of outcome, and queue.wait by how the wait ended:
// served, timeout, client gone, or refused because the targets went away.
//
// From a proxy with the Trace of these Metrics: policy.candidates by reason, policy.bindings by result,
// request.retries and request.failures by class of error, tunnel.ends by what ended the tunnel, and
// tunnel.duration. A stream.Server with StreamTrace has the last four.
package otel
