package prometheus

import prom "github.com/prometheus/client_golang/prometheus"

// tunnelBuckets are the upper bounds of the buckets of tunnel durations, in seconds: from one
// second to a day.
var tunnelBuckets = []float64{1, 10, 60, 5 * 60, 15 * 60, 3600, 4 * 3600, 12 * 3600, 24 * 3600}

// descriptions describe the metrics that come from a pool's registry. The pool's name is a constant
// label, so the metrics of different pools are different for Prometheus, and several collectors can
// be registered together.
type descriptions struct {
	all []*prom.Desc

	running, targets, serving, ejectedNow, panicking, checkDelay, waiting *prom.Desc

	zoneTargets, zoneServing *prom.Desc

	leaving, leavingInFlight, leavingTunnels *prom.Desc

	targetState, targetServing, targetShare, targetEjected, targetInFlight, targetTunnels *prom.Desc
	targetLatency, targetCheckTime, targetChecks, targetRequests                          *prom.Desc
	targetEjections, targetRefused                                                        *prom.Desc
}

func describe(pool string) *descriptions {
	d := &descriptions{}
	metric := func(name, help string, labels ...string) *prom.Desc {
		m := prom.NewDesc("stickylb_"+name, help, labels, poolLabel(pool))
		d.all = append(d.all, m)
		return m
	}
	d.running = metric("registry_running", "Whether the registry of health runs.")
	d.targets = metric("targets", "Targets by health and administrative state.", "health", "admin")
	d.serving = metric("targets_serving", "Targets that may take new sessions.")
	d.ejectedNow = metric("targets_ejected", "Targets that live traffic has ejected for now.")
	d.panicking = metric("panic", "Whether the pool panics, because too few targets are left.", "mode")
	d.checkDelay = metric("check_delay_seconds", "How long after its time the latest check began.")
	d.waiting = metric("queue_waiting", "Requests that wait in the pool's queue.")

	d.zoneTargets = metric("zone_targets", "Targets of the zone.", "zone")
	d.zoneServing = metric("zone_targets_serving", "Targets of the zone that may take new sessions.", "zone")

	d.leaving = metric("targets_leaving", "Targets that have left the pool and have something in flight yet.")
	d.leavingInFlight = metric("target_leaving_in_flight", "Requests and tunnels in flight at targets of this name that have left the pool.", "target", "zone")
	d.leavingTunnels = metric("target_leaving_tunnels", "Tunnels that are open at targets of this name that have left the pool.", "target", "zone")

	d.targetState = metric("target_state", "1, with the target's state in the labels.", "target", "zone", "health", "admin")
	d.targetServing = metric("target_serving", "Whether the target may take new sessions.", "target", "zone")
	d.targetShare = metric("target_share_ratio", "Share of its bound sessions that the target keeps; 1 is all.", "target", "zone")
	d.targetEjected = metric("target_ejected", "Whether live traffic has ejected the target for now.", "target", "zone")
	d.targetInFlight = metric("target_in_flight", "Requests and tunnels in flight.", "target", "zone")
	d.targetTunnels = metric("target_tunnels", "Tunnels that are open.", "target", "zone")
	d.targetLatency = metric("target_latency_seconds", "Moving peak of the latency; a failure counts as a second or twice the peak, up to a minute; 0 while unknown.", "target", "zone")
	d.targetCheckTime = metric("target_check_duration_seconds", "How long the latest check took.", "target", "zone")
	d.targetChecks = metric("target_checks_total", "Checks by result, since the registry runs.", "target", "zone", "result")
	d.targetEjections = metric("target_ejections_total", "Ejections, since the registry runs.", "target", "zone")
	d.targetRefused = metric("target_ejections_refused_total", "Ejections that were not allowed, because too few targets would have been left, since the registry runs.", "target", "zone")
	d.targetRequests = metric("target_requests_total", "Requests and tunnels that ended, by class of outcome and of status code.", "target", "zone", "class", "code")
	return d
}

func poolLabel(name string) prom.Labels { return prom.Labels{"pool": name} }

// instruments are the metrics that hooks fill. A vector has no metric before its first use.
type instruments struct {
	latency    *prom.HistogramVec // by class
	waits      *prom.HistogramVec // by result
	tunnelLife prom.Histogram
	tunnelEnds *prom.CounterVec   // by what ended the tunnel
	failures   *prom.CounterVec   // by class
	retries    *prom.CounterVec   // by class
	candidates *prom.CounterVec   // by reason
	bindings   *prom.CounterVec   // by result
	store      *prom.HistogramVec // by call and result
}

func instrument(pool string, buckets []float64) *instruments {
	counter := func(name, help, label string) *prom.CounterVec {
		return prom.NewCounterVec(prom.CounterOpts{Name: "stickylb_" + name, Help: help, ConstLabels: poolLabel(pool)}, []string{label})
	}
	histogram := func(name, help string, buckets []float64) prom.HistogramOpts {
		return prom.HistogramOpts{Name: "stickylb_" + name, Help: help, Buckets: buckets, ConstLabels: poolLabel(pool)}
	}
	return &instruments{
		latency: prom.NewHistogramVec(histogram("request_latency_seconds",
			"Time from sending a request to the header of its answer, or to its failure, by class of outcome.", buckets), []string{"class"}),
		waits: prom.NewHistogramVec(histogram("queue_wait_seconds",
			"Time that a request waited in the pool's queue, by how that ended.", buckets), []string{"result"}),
		tunnelLife: prom.NewHistogram(histogram("tunnel_duration_seconds", "Time that a tunnel was open.", tunnelBuckets)),
		tunnelEnds: counter("tunnel_ends_total", "Tunnels that ended, by what ended them.", "ended_by"),
		failures:   counter("request_failures_total", "Requests and connections that the proxy could not serve, by class of error.", "class"),
		retries:    counter("request_retries_total", "Attempts that were made again elsewhere, by class of the error before.", "class"),
		candidates: counter("policy_candidates_total", "Bindings that the policy found in requests, by whether they are usable; none counts requests without any.", "reason"),
		bindings:   counter("policy_bindings_total", "Responses that the policy has seen, by what it did.", "result"),
		store: prom.NewHistogramVec(histogram("session_store_seconds",
			"Time that a request waited for the store of learned sessions, by call (find or bind) and by what the store said.", buckets), []string{"call", "result"}),
	}
}

func (i *instruments) collectors() []prom.Collector {
	return []prom.Collector{i.latency, i.waits, i.tunnelLife, i.tunnelEnds, i.failures, i.retries, i.candidates, i.bindings, i.store}
}
