// Command rolling replaces a fleet by a new version while clients use it, and counts what they
// lose. It starts four targets of version v1, a balancer, and clients with sessions and WebSockets,
// all on loopback addresses. Then it replaces v1 by v2, one target after the other:
//
//	go run ./examples/rolling
//
// In a terminal a table shows each target with its load, and what the clients have seen. The last
// line should end with "0 lost". The exit code is 1 if something was lost, or if the update did not
// end in time. These count as lost:
//
//   - a request that failed, got another status than 200, or got a wrong octet,
//   - a session that moved although its target still served it,
//   - a WebSocket that was refused, got a wrong octet, or ended without being asked to leave.
//
// With -blue-green all new targets come at once. With -canary 5 one new target first gets 5% of the
// new sessions, until it has served 100 requests. If anything is lost by then, it is taken out
// again. To see what it looks like when something goes wrong, make a target crash during the update
// with -fault crash, or let v2 answer wrongly with -fault wrong.
//
// For production, call [health.Registry.Replace] with the complete list of targets whenever it
// changes, as the method update does, with a grace of minutes. End a target's process only after
// Settled has returned. Choose a check that fails until a target is ready: new targets serve as
// soon as they pass it.
package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// newPicker returns a picker that gives v2 some of the new sessions while v1 is there, too. With 0
// percent it does not look at versions.
func newPicker(canary int) balancer.Picker {
	if canary == 0 {
		return &balancer.LeastConnections{}
	}
	return &balancer.Split{
		When:  func(*balancer.Request) bool { return rand.IntN(100) < canary },
		Where: func(m *balancer.Member) bool { return m.Label("version") == "v2" },
	}
}

// update replaces all targets by ones of the new version.
func (f *fleet) update(ctx context.Context) error {
	drain := health.Drain{Grace: f.grace}
	list := f.list()
	first, err := f.start("v2")
	if err != nil {
		return err
	}
	if f.canary > 0 {
		f.say("the canary %s gets %d%% of the new sessions", first.ID, f.canary)
		if err := f.registry.Replace(append(list, first), drain); err != nil {
			return err
		}
		if err := f.watch(ctx, first.ID); err != nil {
			f.say("the canary is taken out: %v", err)
			return errors.Join(err, f.registry.Replace(list, health.Drain{Grace: -1}), f.registry.Settled(ctx))
		}
	}
	for i, old := range list {
		list[i] = first
		if i > 0 {
			if list[i], err = f.start("v2"); err != nil {
				return err
			}
		}
		if f.blueGreen && i < len(list)-1 {
			continue // all of them together
		}
		f.say("%s takes over from %s", list[i].ID, old.ID)
		if err := errors.Join(f.registry.Replace(list, drain), f.registry.Settled(ctx)); err != nil {
			return err
		}
		f.stopRemoved() // nothing is in flight there
	}
	return nil
}
