package main

import (
	"maps"
	"slices"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/elb/internal/classic"
)

// The states of an instance, and the reasons for them.
const (
	inService    = "InService"
	outOfService = "OutOfService"

	noReason       = "N/A"
	reasonBalancer = "ELB"
	reasonInstance = "Instance"
)

// Instance implements classic.World.
func (t *traffic) Instance(id string) bool {
	_, ok := t.instances[id]
	return ok
}

// Certificate implements classic.World.
func (t *traffic) Certificate(arn string) bool {
	_, err := t.certificates.load(arn)
	return err == nil
}

// DNSName implements classic.World.
func (t *traffic) DNSName(name string) string { return t.names(name) }

// Leaving implements classic.World.
func (t *traffic) Leaving(b *classic.LoadBalancer) (ids []string) {
	known := make(map[string]bool, len(b.Instances))
	for _, id := range b.Instances {
		known[id] = true
	}
	for _, f := range t.group(b.Name).all() {
		members := f.pool.Members()
		if len(members) == int(f.registered.Load()) {
			continue // the usual case: nobody is leaving
		}
		for _, m := range members {
			if !known[m.ID()] {
				known[m.ID()] = true
				ids = append(ids, m.ID())
			}
		}
	}
	return ids
}

// States implements classic.World. The states are those by which the listeners choose.
func (t *traffic) States(b *classic.LoadBalancer, ids []string) []classic.InstanceState {
	g := t.group(b.Name)
	if g == nil { // deleted meanwhile
		return []classic.InstanceState{}
	}
	checked := g.checks.status()
	registered := make(map[string]bool, len(b.Instances))
	for _, id := range b.Instances {
		registered[id] = true
	}
	leaving := t.Leaving(b)
	g.mu.Lock()
	told := maps.Clone(g.told)
	g.mu.Unlock()
	states := make([]classic.InstanceState, 0, len(ids))
	state := func(id, state, code, text string) {
		states = append(states, classic.InstanceState{InstanceId: id, State: state, ReasonCode: code, Description: text})
	}
	for _, id := range ids {
		i, exists := t.instances[id]
		status, ok := checked[id]
		switch {
		case !registered[id] && slices.Contains(leaving, id):
			state(id, inService, noReason, "Instance deregistration is in progress: requests in flight are finishing.")
		case !registered[id]:
			state(id, outOfService, reasonInstance, "The instance is not registered with this load balancer.")
		case !exists:
			state(id, outOfService, reasonInstance, "The program was started without this instance.")
		case !zoneServes(b.Zones, i.zone):
			state(id, outOfService, reasonBalancer, "The load balancer does not serve the Availability Zone "+i.zone+" of the instance.")
		case !ok || status.Health == balancer.HealthUnknown:
			state(id, outOfService, reasonBalancer, "Instance registration is in progress: no health check has ended yet.")
		case status.Health == balancer.Healthy && !told[id]:
			state(id, outOfService, reasonBalancer, "The instance has passed its health checks, and the listeners are about to use it.")
		case status.Health == balancer.Healthy:
			state(id, inService, noReason, noReason)
		default:
			text := "The instance has failed its health checks."
			if status.Check.Error != "" {
				text = "The instance has failed its health checks: " + status.Check.Error + "."
			}
			state(id, outOfService, reasonInstance, text)
		}
	}
	return states
}
