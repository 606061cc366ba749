// Package source has what the sources of package discovery have in common: they report complete
// sets, try again after a failure, and log a failure once.
package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// A Source is embedded, as an unexported field, in each kind of source. The zero value is ready to
// use. Start, Stop and Ready are safe for concurrent use. Offer, Failed and Succeeded belong to the
// goroutine that called Start.
type Source struct {
	last     []balancer.Target // the set that Report has accepted
	accepted bool              // last is valid
	failing  string            // the kind of the failure that was logged; empty: none

	mu      sync.Mutex
	running bool
	settled chan struct{} // closed when Ready can return
	isReady bool
	err     error // why Run refused its fields, or the latest failure
	refused bool  // err is a refusal
}

// Start begins a run. It returns the error that Run has to return if invalid is not nil, which says
// that the fields cannot be used, or if the source is running already.
func (s *Source) Start(invalid error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.running:
		return errors.New("discovery: the source is running already")
	case s.refused:
		s.refused, s.err, s.settled = false, nil, nil
	}
	if invalid != nil {
		s.refused, s.err = true, invalid
		s.settleLocked()
		return invalid
	}
	s.running = true
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
	s.mu.Lock()
	settled := s.settledLocked()
	s.mu.Unlock()
	select {
	case <-settled:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.isReady:
		return nil
	case s.refused:
		return s.err
	case s.err != nil:
		return fmt.Errorf("discovery: waiting for the first targets: %w: %w", ctx.Err(), s.err)
	}
	return fmt.Errorf("discovery: waiting for the first targets: %w", ctx.Err())
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

// Offer calls report with a complete set, unless the set equals the one that report has accepted
// last. It returns the error of report. The set is then offered again by the next call.
func (s *Source) Offer(report func([]balancer.Target) error, targets []balancer.Target) error {
	targets, err := balancer.Normalize(targets...)
	if err != nil {
		return err
	}
	if s.accepted && reflect.DeepEqual(targets, s.last) {
		return nil
	}
	theirs, err := balancer.Normalize(targets...) // a copy, which report may change
	if err != nil {
		return err
	}
	if err := report(theirs); err != nil {
		return fmt.Errorf("reporting %d targets: %w", len(targets), err)
	}
	s.last, s.accepted = targets, true
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isReady = true
	s.settleLocked()
	return nil
}

// Failed logs a failure (Warn), unless the failure before it was of the same kind.
func (s *Source) Failed(l *slog.Logger, kind string, err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	if s.failing == kind {
		return
	}
	s.failing = kind
	l.Warn("discovery: the targets stay as they are", "error", err)
}

// Succeeded logs that the source works again (Info), if it failed before.
func (s *Source) Succeeded(l *slog.Logger) {
	s.mu.Lock()
	s.err = nil
	s.mu.Unlock()
	if s.failing == "" {
		return
	}
	s.failing = ""
	l.Info("discovery: the source works again")
}

// Floor is the shortest time between two turns.
const Floor = time.Second

// jitter is the largest variation of the time between two turns, as a share of it.
const jitter = 0.1

// Loop calls turn until ctx ends. The time between two turns is interval, or Floor if that is
// longer. After a failure it is Floor, and doubles with each further one until it reaches interval.
// All times vary by jitter, so that many instances do not ask at once.
func Loop(ctx context.Context, interval time.Duration, turn func(context.Context) error) {
	interval = max(interval, Floor)
	retry := Floor
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		pause := interval
		if err := turn(ctx); err != nil {
			pause = min(retry, interval)
			retry = pause * 2
		} else {
			retry = Floor
		}
		timer.Reset(max(Floor, varied(pause)))
	}
}

func varied(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()*2-1)*jitter*float64(d))
}
