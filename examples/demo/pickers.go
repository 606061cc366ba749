package main

import (
	"strings"

	"github.com/stickylb/stickylb/balancer"
)

// pickers are the algorithms of package balancer by their -picker names. The first is the default.
var pickers = []struct {
	name string
	make func() balancer.Picker
}{
	{"least", func() balancer.Picker { return &balancer.LeastConnections{} }},
	{"roundrobin", func() balancer.Picker { return &balancer.RoundRobin{} }},
}

func pickerNames() string {
	names := make([]string, len(pickers))
	for i, p := range pickers {
		names[i] = p.name
	}
	return strings.Join(names, ", ")
}
