package main

import (
	"context"
	"sync"
	"time"
)

// A schedule has n arrivals at a fixed rate. An arrival does not wait for earlier ones.
type schedule struct {
	start time.Time
	rate  int // a second
	n     int
	sleep func(time.Duration)
}

// due returns the instant of arrival i.
func (s schedule) due(i int) time.Time {
	return s.start.Add(time.Duration(i) * time.Second / time.Duration(s.rate))
}

// run calls arrive for each arrival when it is due, or at once if it is late, until ctx ends. The
// function must not block.
func (s schedule) run(ctx context.Context, arrive func(i int, due time.Time)) {
	for i := 0; i < s.n && ctx.Err() == nil; i++ {
		due := s.due(i)
		if wait := time.Until(due); wait > 0 {
			s.sleep(wait)
		}
		arrive(i, due)
	}
}

// openLoop distributes the arrivals of a schedule to the workers in turn. A worker handles one at a
// time, and later arrivals wait for it. The function returns the durations from the instants when
// the arrivals were due, so an arrival that waited behind a slow one counts as slow too. The first
// error ends the loop.
func openLoop(ctx context.Context, s schedule, workers []func() error) ([]time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var work sync.WaitGroup
	queues := make([]chan time.Time, len(workers))
	took := make([][]time.Duration, len(workers))
	for i, do := range workers {
		queue := make(chan time.Time, s.n/len(workers)+1) // room for all arrivals, so that none blocks
		queues[i] = queue
		work.Go(func() {
			for due := range queue {
				if ctx.Err() != nil {
					return
				}
				if err := do(); err != nil {
					cancel(err)
					return
				}
				took[i] = append(took[i], time.Since(due))
			}
		})
	}
	s.run(ctx, func(i int, due time.Time) { queues[i%len(queues)] <- due })
	for _, queue := range queues {
		close(queue)
	}
	work.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	var all []time.Duration
	for _, some := range took {
		all = append(all, some...)
	}
	return all, nil
}

// closedLoop lets every worker make one call after the other until the duration is over, and at
// least one. It returns the number of calls. The first error ends the loop.
func closedLoop(ctx context.Context, d time.Duration, workers []func() error) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var work sync.WaitGroup
	end := time.Now().Add(d)
	done := make([]int, len(workers))
	for i, do := range workers {
		work.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				if err := do(); err != nil {
					cancel(err)
					return
				}
				if done[i] = n; !time.Now().Before(end) {
					return
				}
			}
		})
	}
	work.Wait()
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	total := 0
	for _, n := range done {
		total += n
	}
	return total, nil
}
