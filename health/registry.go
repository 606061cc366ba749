package health

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"reflect"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// Defaults of the fields of [Registry].
const (
	defaultInterval    = 10 * time.Second
	defaultTimeout     = 5 * time.Second
	defaultJitter      = 0.1
	defaultRise        = 2
	defaultFall        = 3
	defaultConcurrency = 256
)

// A Registry monitors the health of a pool's targets. Set its fields, then call [Registry.Run]; do
// not change them afterwards. A Registry must not be copied. Its methods are safe for concurrent
// use.
//
// The first probe decides about a target whose health is unknown. After that, Rise successes or
// Fall failures in a row change its health, and a result of the other kind resets the count. One
// probe decides between healthy and reserved, see [ErrReserved]. A probe that fails because this
// machine lacks a resource counts as neither, see [balancer.Shortage]. A [Check] that panics has
// failed, and its stack is logged.
//
// Targets are probed in every administrative state, so that the health of a target is known when it
// comes back from maintenance. Targets that a [balancer.Pool.Update] adds are probed at once, and
// those that it removes are no longer probed.
type Registry struct {
	// Pool holds the targets. It is required. Only one Registry of a pool should run.
	Pool *balancer.Pool

	// Check is the check that probes the targets. Nil means [TCP].
	Check Check

	// Interval is the time between two probes of a target. Zero means 10 seconds. Negative means no
	// probes: only live traffic sets states, and Ready does not wait. The first probes of all
	// targets run at once. The later ones are spread evenly over the interval, except for those
	// that [Passive] requests early.
	Interval time.Duration

	// Timeout limits one probe. Zero means 5 seconds. It may be longer than Interval: a target
	// never has two probes at a time, and the probes that become due meanwhile are left out.
	Timeout time.Duration

	// Jitter is the largest variation of the time between two probes of a target, up or down, as a
	// share of Interval. Zero means 0.1. Negative means none. The variations do not add up: over a
	// day, there are as many probes as without them.
	Jitter float64

	// Rise is how many successes in a row make an unhealthy target healthy. Zero means 2.
	Rise int

	// Fall is how many failures in a row make a healthy target unhealthy. Zero means 3.
	Fall int

	// Concurrency limits how many probes run at once. Zero means 256. At the limit, probes start
	// late, the longest due first, see [Status].Late.
	Concurrency int

	// Passive says when the outcomes of live requests eject a target for a while. Nil means
	// the zero [Passive], with its defaults.
	Passive *Passive

	// Drains says how the page's button drains a target. The zero value is that of [Drain].
	Drains Drain

	// Prepare is called with the targets that the pool is about to have, in the pool's order and
	// with their IDs filled in. [Registry.Replace] calls it; its list then includes the targets
	// that are being drained. It is also called before a drained target is removed. Store the table
	// of a codec here, see cookie.InsecureTable: a table must know a target before the pool may
	// choose it. If Prepare returns an error, Replace refuses the list. At a removal the error is
	// only logged. Calls do not overlap. Prepare must not call Replace. Nil means that nothing
	// needs preparation.
	Prepare func(targets []balancer.Target) error

	// Logger receives changes of state and presses of the page's buttons (Info), and stacks of
	// checks and hooks that panicked (Error). Each record has the attribute "pool" if the pool has
	// a name, so do not add it by [slog.Logger.With]. Nil means [slog.Default].
	Logger *slog.Logger

	late   atomic.Int64 // how late the latest probe began, in nanoseconds
	tracks sync.Map     // *balancer.Member to *track, for every member that Run has seen

	mu          sync.Mutex
	run         *run // nil unless Run is running
	ready       chan struct{}
	undecided   int              // members whose first probe Ready waits for, while ready is open
	all         zone             // every member
	zones       map[string]*zone // by name; members without one are in the zone ""
	ejected     int
	subscribers map[*subscriber]struct{}
	presses     []Press // the latest, the newest last
	exits       map[*balancer.Member]*exit
	parting     []*exit       // exits whose members are to be removed next
	settled     chan struct{} // closed when no exit is left; nil until somebody waits

	drains drains
	order  sync.Mutex        // held while Replace or one of its tasks changes the pool; locked before mu
	parted map[string]parted // by ID; guarded by order
}

// Classic returns a Registry for p with the defaults of classic cloud load balancers: a probe every
// 30 seconds with a timeout of 5 seconds, Fall of 2 and Rise of 10. Its drains from the page move
// sessions at once, and give requests and tunnels in flight 300 seconds. The caller may change the
// fields before [Registry.Run]. If c is nil, the check is [TCP].
func Classic(p *balancer.Pool, c Check) *Registry {
	return &Registry{
		Pool:     p,
		Check:    c,
		Interval: 30 * time.Second,
		Timeout:  5 * time.Second,
		Rise:     10,
		Fall:     2,
		Drains:   Drain{Grace: -1, Limit: 300 * time.Second},
	}
}

// A validator is a [Check] that can validate its fields before the first probe.
type validator interface{ validate() error }

// Run probes the pool's targets and learns from the pool's live traffic until ctx has ended. Then
// it stops all goroutines that it started and returns nil. The targets keep their states. Run
// returns an error at once if the Registry's fields cannot be used or if it is running already. It
// may be called again after it has returned.
func (r *Registry) Run(ctx context.Context) error {
	if err := r.validate(); err != nil {
		return r.inPool(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	u, err := r.start(ctx)
	if err != nil {
		return r.inPool(err)
	}
	u.probeUntilDone()
	r.finish(u)
	return nil
}

func (r *Registry) validate() error {
	switch {
	case r.Pool == nil:
		return errors.New("health: Registry.Pool is nil")
	case r.Timeout < 0, r.Rise < 0, r.Fall < 0, r.Concurrency < 0:
		return errors.New("health: Registry.Timeout, Rise, Fall and Concurrency must not be negative")
	case r.Jitter > 1, math.IsNaN(r.Jitter):
		return errors.New("health: Registry.Jitter must not be more than 1")
	case holdsNil(r.Check):
		return fmt.Errorf("health: Registry.Check is a nil %T", r.Check)
	case r.Logger != nil && (r.Logger.Handler() == nil || holdsNil(r.Logger.Handler())):
		return errors.New("health: Registry.Logger has no handler")
	}
	if err := r.Passive.validate(); err != nil {
		return err
	}
	if v, ok := r.Check.(validator); ok {
		if err := v.validate(); err != nil {
			return err
		}
	}
	for _, m := range r.Pool.Members() {
		if err := r.admit(m.Target()); err != nil {
			return fmt.Errorf("health: target %q: %w", m.ID(), err)
		}
	}
	return nil
}

// A networked is a [Check] that connects to the target's URL.
type networked interface{ networked() }

// admit returns an error if the check cannot probe the target.
func (r *Registry) admit(t balancer.Target) error {
	if _, ok := r.check().(networked); ok && t.URL == nil && r.Interval >= 0 {
		return errNoURL
	}
	return nil
}

// holdsNil reports whether v is a non-nil interface that holds a nil pointer or func.
func holdsNil(v any) bool {
	r := reflect.ValueOf(v)
	return (r.Kind() == reflect.Pointer || r.Kind() == reflect.Func) && r.IsNil()
}

// Ready waits until every target that the pool had when [Registry.Run] began has been probed once
// or has left the pool. It also waits for Run to begin. It does not wait for healthy targets: a
// caller that needs one looks at [Registry.Status]. If ctx ends first, Ready returns an error that
// wraps ctx's.
func (r *Registry) Ready(ctx context.Context) error {
	r.mu.Lock()
	ready := r.readyLocked()
	r.mu.Unlock()
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("health: waiting for the first round of checks: %w", ctx.Err())
	}
}

func (r *Registry) readyLocked() chan struct{} {
	if r.ready == nil {
		r.ready = make(chan struct{})
	}
	return r.ready
}

func (r *Registry) check() Check {
	if r.Check == nil {
		return TCP{}
	}
	return r.Check
}

func (r *Registry) interval() time.Duration { return cmp.Or(r.Interval, defaultInterval) }
func (r *Registry) timeout() time.Duration  { return cmp.Or(r.Timeout, defaultTimeout) }
func (r *Registry) jitter() float64         { return max(0, cmp.Or(r.Jitter, defaultJitter)) }
func (r *Registry) rise() int               { return cmp.Or(r.Rise, defaultRise) }
func (r *Registry) fall() int               { return cmp.Or(r.Fall, defaultFall) }
func (r *Registry) concurrency() int        { return cmp.Or(r.Concurrency, defaultConcurrency) }

// logger returns the logger, with the pool's name as an attribute.
func (r *Registry) logger() *slog.Logger {
	l := cmp.Or(r.Logger, slog.Default())
	if name := r.poolName(); name != "" {
		l = l.With("pool", name)
	}
	return l
}

func (r *Registry) poolName() string {
	if r.Pool == nil {
		return ""
	}
	return r.Pool.Name()
}

// inPool wraps err with the pool's name, if there is one.
func (r *Registry) inPool(err error) error {
	if name := r.poolName(); name != "" {
		return fmt.Errorf("health: registry of pool %q: %w", name, err)
	}
	return err
}

// ofPool returns " of pool" and the pool's name, or "" if there is none.
func (r *Registry) ofPool() string {
	if name := r.poolName(); name != "" {
		return fmt.Sprintf(" of pool %q", name)
	}
	return ""
}

// logPanic logs a panic of the caller's code with its stack. The deferred function that recovers
// calls it. A panic of the logger is ignored.
func (r *Registry) logPanic(of string, v any, attrs ...any) {
	defer func() { _ = recover() }()
	attrs = append(attrs, "panic", v, "stack", string(debug.Stack()))
	r.logger().Error("health: "+of+" has panicked", attrs...)
}
