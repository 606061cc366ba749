// Package discovery finds targets where they live: in DNS or in a file. Every source reports
// complete sets of targets whenever they change.
//
//	registry := &health.Registry{Pool: pool}
//	go registry.Run(ctx)
//	source := &discovery.DNS{Name: "app.internal", Port: 8080}
//	source.Report = func(targets []balancer.Target) error {
//		return registry.Replace(targets, health.Drain{Grace: time.Minute})
//	}
//	go source.Run(ctx)
//	err := source.Ready(ctx) // the pool has the first targets
//
// Most callers give Report the Replace of a health.Registry, so that a target which goes drains
// first. The package checks no target and changes no pool.
//
// # Sources
//
// All sources have the same three parts:
//
//   - Report is a field. It is called with a complete set, first of all with the first one, and
//     then whenever the set changes. Calls do not overlap. Report may keep and change what it is
//     given: it sets limits, zones and labels, for example. If it returns an error, the same set is
//     offered again at the next turn, and the error is logged once.
//   - Run(ctx) looks for targets until ctx ends, and then returns nil. It returns an error at once
//     if the fields cannot be used, or if it is running already. It may be called again after it
//     has returned.
//   - Ready(ctx) waits until Report has accepted a set. It also waits for Run to begin. If ctx ends
//     first, it returns an error that wraps ctx's and names the latest failure. If Run refuses the
//     fields, it returns that error.
//
// Failures never take targets away: the last set stays. They are logged (Warn), once for each kind
// of failure until it is over (Info).
//
// The targets of a source belong to one pool. Two sources that report to the same Registry would
// replace each other's targets: a Report for several sources joins their latest sets.
//
// Package kubernetes, a module of its own, has a source of the same shape for the pods of a Service.
//
// # Security
//
// Whoever can forge the answers of DNS, or write the file, decides where requests go. With TLS
// (Scheme https) a target must also have a certificate for the name. Answers and files are bounded:
// see MaxTargets and MaxSize. Errors and logs repeat no password.
package discovery
