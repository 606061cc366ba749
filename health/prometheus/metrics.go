package prometheus

import prom "github.com/prometheus/client_golang/prometheus"

// The metrics, and all of them but the histogram in a list for Describe.
var (
	running    = describe("stickylb_registry_running", "Whether the registry of health runs.")
	targets    = describe("stickylb_targets", "Targets by health and administrative state.", "health", "admin")
	serving    = describe("stickylb_targets_serving", "Targets that may take new sessions.")
	ejectedNow = describe("stickylb_targets_ejected", "Targets that live traffic has ejected for now.")
	panicking  = describe("stickylb_panic", "Whether the pool panics, because too few targets are left.", "mode")
	checkDelay = describe("stickylb_check_delay_seconds", "How long after its time the latest check began.")

	zoneTargets = describe("stickylb_zone_targets", "Targets of the zone.", "zone")
	zoneServing = describe("stickylb_zone_targets_serving", "Targets of the zone that may take new sessions.", "zone")

	leaving         = describe("stickylb_targets_leaving", "Targets that have left the pool and have something in flight yet.")
	leavingInFlight = describe("stickylb_target_leaving_in_flight", "Requests and tunnels in flight at targets of this name that have left the pool.", "target", "zone")
	leavingTunnels  = describe("stickylb_target_leaving_tunnels", "Tunnels that are open at targets of this name that have left the pool.", "target", "zone")

	targetState     = describe("stickylb_target_state", "1, with the target's state in the labels.", "target", "zone", "health", "admin")
	targetServing   = describe("stickylb_target_serving", "Whether the target may take new sessions.", "target", "zone")
	targetShare     = describe("stickylb_target_share_ratio", "Share of its bound sessions that the target keeps; 1 is all.", "target", "zone")
	targetEjected   = describe("stickylb_target_ejected", "Whether live traffic has ejected the target for now.", "target", "zone")
	targetInFlight  = describe("stickylb_target_in_flight", "Requests and tunnels in flight.", "target", "zone")
	targetTunnels   = describe("stickylb_target_tunnels", "Tunnels that are open.", "target", "zone")
	targetLatency   = describe("stickylb_target_latency_seconds", "Moving peak of the latency; 0 while unknown.", "target", "zone")
	targetCheckTime = describe("stickylb_target_check_duration_seconds", "How long the latest check took.", "target", "zone")
	targetChecks    = describe("stickylb_target_checks_total", "Checks by result, since the registry runs.", "target", "zone", "result")
	targetEjections = describe("stickylb_target_ejections_total", "Ejections, since the registry runs.", "target", "zone")
	targetRequests  = describe("stickylb_target_requests_total", "Requests and tunnels that ended, by class of outcome and of status code.", "target", "zone", "class", "code")
)

var descriptions []*prom.Desc

func describe(name, help string, labels ...string) *prom.Desc {
	d := prom.NewDesc(name, help, labels, nil)
	descriptions = append(descriptions, d)
	return d
}
