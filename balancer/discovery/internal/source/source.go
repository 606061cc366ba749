// Package source has the parts that all sources of package discovery share. They report complete
// sets, try again after a failure, and log a failure once.
package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// A Source is part of each kind of source. The zero value is ready to use. Start, Stop and Ready
// are safe for concurrent use. The other methods belong to the goroutine that called Start.
type Source struct {
	last     []balancer.Target // the set that Report has accepted
	accepted bool              // last is valid
	logged   map[string]string // by trouble, the detail that was logged

	mu      sync.Mutex
	running bool
	settled chan struct{} // closed when Ready can return
	isReady bool
	refusal error // why Run refused the fields
	latest  error // the latest trouble, for Ready
}

// Start begins a run. It returns invalid if that is not nil, which says why the fields cannot be
// used, and an error if the source is running already. Run must then return the error.
func (s *Source) Start(invalid error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		return errors.New("discovery: the source is running already")
	}
	if s.refusal != nil && !s.isReady {
		s.settled = nil
	}
	s.refusal = invalid
	if invalid != nil {
		s.settleLocked()
		return invalid
	}
	s.running, s.accepted, s.latest, s.logged = true, false, nil, map[string]string{}
	return nil
}

// Stop ends a run.
func (s *Source) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = false
}

// Ready waits until Report has accepted a set. It returns an error if ctx ends first, or if Run
// refuses the fields.
func (s *Source) Ready(ctx context.Context) error {
	for {
		s.mu.Lock()
		settled := s.settledLocked()
		isReady, refusal, latest := s.isReady, s.refusal, s.latest
		s.mu.Unlock()
		switch err := ctx.Err(); {
		case isReady:
			return nil
		case refusal != nil:
			return refusal
		case err != nil && latest != nil:
			return fmt.Errorf("discovery: waiting for the first targets: %w: %w", err, latest)
		case err != nil:
			return fmt.Errorf("discovery: waiting for the first targets: %w", err)
		}
		select {
		case <-settled:
		case <-ctx.Done():
		}
	}
}

func (s *Source) settledLocked() chan struct{} {
	if s.settled == nil {
		s.settled = make(chan struct{})
	}
	return s.settled
}

func (s *Source) settleLocked() {
	select {
	case <-s.settledLocked():
	default:
		close(s.settled)
	}
}

// notAccepted is the kind of trouble that Offer logs.
const notAccepted = "the targets are not accepted, and are offered again"

// Offer calls report with a complete set, unless it equals the set that report accepted last. It
// logs and returns report's error. The next call with a refused set reports that set again.
func (s *Source) Offer(l *slog.Logger, report func([]balancer.Target) error, targets []balancer.Target) error {
	targets, err := balancer.Normalize(targets...)
	if err == nil && s.accepted && reflect.DeepEqual(targets, s.last) {
		return nil
	}
	if err == nil {
		theirs, _ := balancer.Normalize(targets...) // a copy, which report may change
		err = report(theirs)
	}
	if err != nil {
		err = fmt.Errorf("discovery: %d targets are not accepted: %w", len(targets), err)
		s.Trouble(l, notAccepted, "", err)
		return err
	}
	s.Over(l, notAccepted)
	s.last, s.accepted = targets, true
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isReady = true
	s.settleLocked()
	return nil
}

// Trouble logs trouble of one kind (Warn), unless it has logged that kind with the same detail
// already. Ready returns the latest err.
func (s *Source) Trouble(l *slog.Logger, kind, detail string, err error) {
	s.mu.Lock()
	s.latest = err
	s.mu.Unlock()
	if was, ok := s.logged[kind]; ok && was == detail {
		return
	}
	s.logged[kind] = detail
	l.Warn("discovery: "+kind, "error", err)
}

// Over logs that trouble of one kind is over (Info), if there was any.
func (s *Source) Over(l *slog.Logger, kind string) {
	if _, ok := s.logged[kind]; ok {
		delete(s.logged, kind)
		l.Info("discovery: over: " + kind)
	}
}

// Floor is the shortest time between two turns.
const Floor = time.Second

// jitter is the largest variation of the time between two turns, as a share of it.
const jitter = 0.1

// ErrAgain is the error of a turn that has not failed, but needs another one after Floor.
var ErrAgain = errors.New("discovery: another turn is needed")

// Loop calls turn until ctx ends. The time between two turns is interval, or Floor if that is
// longer. After an error it is Floor, and it doubles with each further error until it reaches
// interval. After [ErrAgain] it is Floor. All times vary by jitter, so that instances
// do not ask at the same time.
func Loop(ctx context.Context, interval time.Duration, turn func(context.Context) error) {
	interval = min(max(interval, Floor), never)
	retry := Floor
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return
		}
		pause := interval
		switch err := turn(ctx); {
		case err == nil:
			retry = Floor
		case errors.Is(err, ErrAgain):
			pause, retry = Floor, Floor
		default:
			pause = min(retry, interval)
			retry = pause * 2
		}
		timer.Reset(max(Floor, varied(pause)))
	}
}

// never is the longest interval. Doubling and varying it does not overflow.
const never = math.MaxInt64 / 4

func varied(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()*2-1)*jitter*float64(d))
}
