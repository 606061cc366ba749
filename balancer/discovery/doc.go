// Package discovery reads targets from DNS or from a file. A source reports the complete set of
// targets whenever it changes.
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
// In most programs, Report calls the Replace of a health.Registry, as above: a target that
// disappears then drains before it is removed. The package checks no target and changes no pool.
//
// # Sources
//
// All sources have the same three parts:
//
//   - Report is a field. It is called with the first complete set, and then with each set that
//     differs from the one before. Calls do not overlap. Report may keep and change its argument,
//     for example to set limits, zones and labels. If Report returns an error, the set is reported
//     again at the next turn, and the error is logged once.
//   - Run(ctx) follows the targets until ctx ends, and then returns nil. It returns an error at
//     once if the fields cannot be used, or if it is running already. It may be called again after
//     it has returned.
//   - Ready(ctx) waits until Report has accepted a set. It also waits for Run to begin. If ctx ends
//     first, it returns an error that wraps ctx's and names the latest failure. If Run refuses the
//     fields, it returns that error.
//
// A failure removes no targets: the last set stays. Each kind of failure is logged once (Warn), and
// once more when it is over (Info).
//
// Use one source for each pool. Two sources that report to the same Registry would replace each
// other's targets. To join several sources, write a Report that keeps the latest set of each, and
// passes on all of them.
//
// Package kubernetes, a separate module, has a source of the same shape for the pods of a Service.
//
// # Security
//
// Whoever can forge the answers of DNS, or write the file, decides where requests go. With Scheme
// https, a proxy that verifies certificates also requires one for the name. MaxTargets and MaxSize
// limit answers and files. Errors and logs contain no password.
package discovery
