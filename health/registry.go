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

// Numbers that stand in for a [Registry]'s zero fields.
const (
	defaultInterval    = 10 * time.Second
	defaultTimeout     = 5 * time.Second
	defaultJitter      = 0.1
	defaultRise        = 2
	defaultFall        = 3
	defaultConcurrency = 256
)

// A Registry keeps watch over the health of a pool's targets. Set its fields, then call
// [Registry.Run]; afterwards they must not be changed. A Registry must not be copied. All its
// methods may be called concurrently.
//
// A target whose health is unknown is decided by its first probe. Later ones need Rise successes
// or Fall failures in a row, and each success or failure starts the other count anew. Between
// healthy and reserved one probe decides, see [ErrReserved]. A probe that fails for want of
// something on this machine says nothing about the target and counts as neither, see
// [balancer.Shortage]. A [Check] that panics has failed, and its stack is logged.
//
// Probes go on whatever the administrative state of a target, so that what comes back from
// maintenance has its health known. Targets that a [balancer.Pool.Update] brings are probed at
// once, those that it takes away no more.
type Registry struct {
	// Pool holds the targets. It is required. Only one running Registry should write to a
	// pool.
	Pool *balancer.Pool

	// Check is what a probe does. Nil means [TCP].
	Check Check

	// Interval is the time from one probe of a target to the next. Zero means 10 seconds. A
	// negative Interval means no probes: only live traffic teaches, and Ready does not wait.
	// The probes of a pool are spread evenly over the interval, the first ones aside, which
	// go out at once, and those that [Passive] asks for early.
	Interval time.Duration

	// Timeout limits one probe. Zero means 5 seconds. It may be longer than Interval: no
	// target ever has two probes under way, the ones that come due meanwhile are left out.
	Timeout time.Duration

	// Jitter is by how much the time between two probes of a target varies, as a share of
	// Interval, up or down. Zero means 0.1, a negative Jitter none. It does not add up: over
	// a day a target gets the number of probes that Interval says.
	Jitter float64

	// Rise is how many successes in a row make an unhealthy target healthy. Zero means 2.
	Rise int

	// Fall is how many failures in a row make a healthy target unhealthy. Zero means 3.
	Fall int

	// Concurrency limits how many probes are under way at once. Zero means 256. When it is
	// reached, probes start late, the longest due first; see [Status].
	Concurrency int

	// Passive says when the outcomes of live requests eject a target for a while. Nil means
	// the zero [Passive], with its defaults.
	Passive *Passive

	// Drains is how the page's button drains a target. The zero value is that of [Drain].
	Drains Drain

	// Prepare is called with the targets that the pool is about to have, in its order and with
	// their IDs filled in: by [Registry.Replace], where targets that are being drained are among
	// them, and before a drained target is removed. It is the place to store the table of a codec,
	// see cookie.InsecureTable: a table must know a target before it is chosen. An error refuses
	// the list; when a target is removed it is only logged. Calls come one at a time. Prepare must
	// not call Replace. Nil means that there is nothing to prepare.
	Prepare func(targets []balancer.Target) error

	// Logger gets the changes of state and the buttons of the page that were pressed (Info), and
	// the stacks of checks and hooks that panicked (Error). Each record has the attribute "pool" if
	// the pool has a name: do not add another by [slog.Logger.With]. Nil means [slog.Default].
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
	parting     []*exit       // those to be taken out of the pool
	settled     chan struct{} // closed when there is no exit left; nil until somebody waits

	drains drains
	order  sync.Mutex        // held while Replace, or what it has begun, changes the pool; before mu
	parted map[string]parted // by ID; guarded by order
}

// Classic returns a Registry for p with the numbers of a classic cloud load balancer: a probe
// every 30 seconds, 5 seconds for each, 2 failures to fall and 10 successes to rise; and a
// drain from the page takes sessions away at once and gives what is in flight 300 seconds. The
// fields may still be changed before [Registry.Run]. Nil for c means [TCP].
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

// A validator is a [Check] that knows what it cannot do before it has to.
type validator interface{ validate() error }

// Run probes the pool's targets and learns from the pool's live traffic until ctx has ended.
// By then it has ended every goroutine that it started, the targets keep the states that they
// have, and it returns nil. It returns an error, at once, only if the Registry's fields cannot
// be used or if it is running already. It may be called again once it has returned.
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
		return v.validate()
	}
	return nil
}

// holdsNil reports whether v is not nil itself and holds a nil pointer or func.
func holdsNil(v any) bool {
	r := reflect.ValueOf(v)
	return (r.Kind() == reflect.Pointer || r.Kind() == reflect.Func) && r.IsNil()
}

// Ready waits until every target that the pool had when [Registry.Run] began has been probed
// once, or has left the pool. It waits for Run to be called, too. It says nothing about how
// many targets are healthy: a caller that must not start without one looks at [Registry.Status].
// If ctx ends first, Ready returns its error.
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

// logger returns the logger, whose records name the pool.
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

// inPool adds the pool's name, if there is one, to err.
func (r *Registry) inPool(err error) error {
	if name := r.poolName(); name != "" {
		return fmt.Errorf("health: registry of pool %q: %w", name, err)
	}
	return err
}

// ofPool returns words that name the pool, with a space before them, and "" if it has no name.
func (r *Registry) ofPool() string {
	if name := r.poolName(); name != "" {
		return fmt.Sprintf(" of pool %q", name)
	}
	return ""
}

// logPanic logs a panic of the caller's code, with the stack. It is called where that is
// recovered. A logger that panics itself is not heard.
func (r *Registry) logPanic(of string, v any, attrs ...any) {
	defer func() { _ = recover() }()
	attrs = append(attrs, "panic", v, "stack", string(debug.Stack()))
	r.logger().Error("health: "+of+" has panicked", attrs...)
}
