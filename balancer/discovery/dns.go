package discovery

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/balancer/discovery/internal/source"
)

// DNS reports the addresses of a name. Set its fields, then call [DNS.Run]; do not change them
// afterwards. A DNS must not be copied. Its methods are safe for concurrent use.
type DNS struct {
	// Name is the name to look up.
	Name string

	// Port is the port of the targets. Zero means that Name has SRV records.
	Port uint16

	// Report is called with every new set of targets. It is required.
	Report func([]balancer.Target) error

	// Resolver looks names up. Nil means [net.DefaultResolver].
	Resolver *net.Resolver

	// Interval is the time between two lookups. Zero means 30 seconds.
	Interval time.Duration

	// Logger receives failures (Warn) and their ends (Info). Nil means [slog.Default].
	Logger *slog.Logger

	source source.Source
}

// Run looks the name up until ctx ends, and then returns nil.
func (d *DNS) Run(ctx context.Context) error {
	return d.source.Start(nil)
}

// Ready waits until Report has accepted a set.
func (d *DNS) Ready(ctx context.Context) error { return d.source.Ready(ctx) }
