package main

import (
	"strings"

	"github.com/stickylb/stickylb/balancer"
)

// maxLoad bounds a target's load under the hash pickers to so many times the average: without a
// bound, all clients behind one address have one target.
const maxLoad = 1.25

// A picker is an algorithm of package balancer by its -picker name.
type picker struct {
	name string
	make func() balancer.Picker
}

// pickers are all of them. The first is the default.
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
