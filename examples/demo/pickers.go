package main

import (
	"strings"

	"github.com/stickylb/stickylb/balancer"
)

// maxLoad limits a target's load with the hash pickers, as a multiple of the average. Without a
// limit, all clients behind one address would use one target.
const maxLoad = 1.25

// A picker is a picker of package balancer with its name for -picker.
type picker struct {
	name string
	make func() balancer.Picker
}

// pickers are all pickers. The first is the default.
var pickers = []picker{
	{"least", func() balancer.Picker { return &balancer.LeastConnections{} }},
	{"roundrobin", func() balancer.Picker { return &balancer.RoundRobin{} }},
	{"random", func() balancer.Picker { return balancer.Random{} }},
	{"two-choices", func() balancer.Picker { return balancer.TwoChoices{} }},
	{"latency", func() balancer.Picker { return balancer.LatencyTwoChoices{} }},
	{"rendezvous", func() balancer.Picker { return &balancer.Rendezvous{MaxLoad: maxLoad} }},
	{"maglev", func() balancer.Picker { return &balancer.Maglev{MaxLoad: maxLoad} }},
	{"source", func() balancer.Picker { return &balancer.SourceAddress{} }},
	{"first", func() balancer.Picker { return balancer.First{} }},
}

func pickerNames() string {
	names := make([]string, len(pickers))
	for i, p := range pickers {
		names[i] = p.name
	}
	return strings.Join(names, ", ")
}
