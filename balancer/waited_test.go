package balancer_test

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
)

// A waitKeeper is an observer that records the waits of a queue.
type waitKeeper struct{ waits chan balancer.Wait }

func (waitKeeper) Released(*balancer.Member, balancer.Outcome) {}
func (waitKeeper) Changed(*balancer.Member, balancer.State)    {}
func (k waitKeeper) Waited(w balancer.Wait)                    { k.waits <- w }

// For each way in which a wait can end, the observer is called once, with the duration. A request
// that did not wait is not reported.
func TestQueue_B4_WaitsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p := newPool(t, balancer.Config{Name: "shop", Targets: limited(1), Queue: 1, QueueTimeout: time.Minute,
			Logger: slog.New(slog.NewTextHandler(&log, nil))})
		k := waitKeeper{make(chan balancer.Wait, 10)}
		defer p.Observe(panickingWaiter{})()
		defer p.Observe(k)()
		leases := fill(t, p)
		require.Empty(t, k.waits, "nobody has waited")

		acquire := func(ctx context.Context, id string) <-chan error {
			done := make(chan error, 1)
			go func() {
				var l balancer.Lease
				var err error
				if id == "" {
					l, err = p.Acquire(ctx, &balancer.Request{})
				} else {
					l, err = p.AcquireBound(ctx, id, &balancer.Request{})
				}
				l.Release(balancer.Outcome{})
				done <- err
			}()
			synctest.Wait()
			return done
		}
		told := func(done <-chan error, d time.Duration, bound bool, is error) {
			t.Helper()
			err := <-done
			require.ErrorIs(t, err, is)
			require.Len(t, k.waits, 1)
			w := <-k.waits
			require.Equal(t, err, w.Err)
			require.Equal(t, d, w.Duration)
			require.Equal(t, bound, w.Bound)
			require.Same(t, p, w.Pool)
			require.Equal(t, err == nil, w.Member != nil)
			require.False(t, w.Tunnel)
		}

		done := acquire(t.Context(), "")
		require.Equal(t, 1, p.Waiting())
		full := acquire(t.Context(), "")
		require.ErrorIs(t, <-full, balancer.ErrFull)
		require.Empty(t, k.waits, "there was no room in the queue")
		time.Sleep(time.Second)
		leases["t00"].Release(balancer.Outcome{})
		told(done, time.Second, false, nil)
		require.Zero(t, p.Waiting())

		fill(t, p)
		told(acquire(t.Context(), ""), time.Minute, false, balancer.ErrFull)
		told(acquire(t.Context(), "t00"), time.Minute, true, balancer.ErrFull)

		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		told(acquire(ctx, ""), 2*time.Second, false, context.DeadlineExceeded)

		done = acquire(t.Context(), "t00")
		time.Sleep(3 * time.Second)
		p.Members()[0].SetAdmin(balancer.Down)
		told(done, 3*time.Second, true, balancer.ErrDown)
		require.Contains(t, log.String(), "WaitObserver.Waited has panicked")
	})
}

type panickingWaiter struct{ waitKeeper }

func (panickingWaiter) Waited(balancer.Wait) { panic("mine") }
