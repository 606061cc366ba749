package kubernetes_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/balancer/discovery/kubernetes"
	"github.com/stickylb/stickylb/health"
	"github.com/stretchr/testify/require"
	discoveryv1 "k8s.io/api/discovery/v1"
)

func TestService_SlicesAreMergedByAddress(t *testing.T) {
	for _, order := range [][2]string{{"web-1", "web-2"}, {"web-2", "web-1"}} {
		run(t, func(f *fixture) { // any ready one wins, whichever slice comes first
			f.api.set(
				slice(order[0], endpoint("a", "10.0.0.1", isUnready), endpoint("b", "10.0.0.2", isReady)),
				slice(order[1], endpoint("a", "10.0.0.1", isReady), endpoint("b", "10.0.0.2", isTerminating)))
			f.requireSet("a 10.0.0.1 ready", "b 10.0.0.2 ready")
		})
	}
}

func TestService_SlicesSplitAndMove(t *testing.T) {
	run(t, func(f *fixture) {
		a, b, c := endpoint("a", "10.0.0.1", isReady), endpoint("b", "10.0.0.2", isReady), endpoint("c", "10.0.0.3", isReady)
		f.api.set(slice("web-1", a, b, c))
		all := []string{"a 10.0.0.1 ready", "b 10.0.0.2 ready", "c 10.0.0.3 ready"}
		f.requireSet(all...)
		reports := f.count()

		f.api.set(slice("web-2", c), slice("web-1", a, b)) // in both for a moment
		f.requireSet(all...)
		f.api.set(slice("web-1", a), slice("web-3", b)) // in none for a moment
		f.requireSet(all...)
		f.api.delete("web-3")
		f.api.set(slice("web-2", b, c))
		f.requireSet(all...)
		require.Equal(f.t, reports, f.count(), "nothing has changed for the pool")

		f.api.set(slice("web-1")) // for longer
		f.requireSet("a 10.0.0.1 draining", "b 10.0.0.2 ready", "c 10.0.0.3 ready")
		f.api.set(slice("web-2", a, b, c))
		f.requireSet(all...)
	})
}

func TestService_VanishedPodsAreHeld(t *testing.T) {
	a, b := endpoint("a", "10.0.0.1", isReady), endpoint("b", "10.0.0.2", isReady)
	t.Run("all slices are deleted and made again", func(t *testing.T) {
		run(t, func(f *fixture) {
			f.api.set(slice("web-1", a), slice("web-2", b))
			f.requireSet("a 10.0.0.1 ready", "b 10.0.0.2 ready")
			f.api.delete("web-1", "web-2")
			f.requireSet("a 10.0.0.1 draining", "b 10.0.0.2 draining")
			f.api.set(slice("web-3", a, b))
			f.requireSet("a 10.0.0.1 ready", "b 10.0.0.2 ready")
		})
	})
	t.Run("for two seconds", func(t *testing.T) {
		run(t, func(f *fixture) {
			f.api.set(slice("web-1", a, b))
			f.settle()
			f.api.set(slice("web-1", b))
			time.Sleep(time.Second)
			f.requireSet("a 10.0.0.1 draining", "b 10.0.0.2 ready")
			time.Sleep(time.Second)
			f.requireSet("b 10.0.0.2 ready")
			f.api.delete("web-1")
			time.Sleep(2100 * time.Millisecond)
			f.requireSet([]string{}...)
		})
	})
	t.Run("reserved ones as such", func(t *testing.T) {
		run(t, func(f *fixture) {
			f.api.set(slice("web-1", endpoint("a", "10.0.0.1", isUnready)))
			f.requireSet("a 10.0.0.1 reserved")
			f.api.set(slice("web-1"))
			f.requireSet("a 10.0.0.1 reserved")
		})
	})
	t.Run("not if they terminated", func(t *testing.T) {
		run(t, func(f *fixture) {
			f.api.set(slice("web-1", endpoint("a", "10.0.0.1", isTerminating), b))
			f.requireSet("a 10.0.0.1 draining", "b 10.0.0.2 ready")
			f.api.set(slice("web-1", b))
			f.requireSet("b 10.0.0.2 ready")
		})
	})
	t.Run("not if another pod has the address", func(t *testing.T) {
		run(t, func(f *fixture) {
			f.api.set(slice("web-1", a))
			f.settle()
			f.api.set(slice("web-1", endpoint("c", "10.0.0.1", isReady)))
			f.requireSet("c 10.0.0.1 ready")
		})
	})
	t.Run("not without a hold", func(t *testing.T) {
		run(t, func(f *fixture) {
			f.api.set(slice("web-1", a, b))
			f.settle()
			f.api.set(slice("web-1", b))
			f.requireSet("b 10.0.0.2 ready")
		}, func(s *kubernetes.Service) { s.Hold = -1 })
	})
}

func TestService_StartingPodsAreLeftOut(t *testing.T) {
	run(t, func(f *fixture) {
		a := endpoint("a", "10.0.0.1", isReady)
		f.api.set(slice("web-1", a))
		f.settle()
		f.api.set(slice("web-1", a, endpoint("b", "10.0.0.2", isUnready)))
		f.requireSet("a 10.0.0.1 ready")
		f.api.forget()
		f.api.drop("", false)
		time.Sleep(5 * time.Second) // another list shows it too
		f.requireSet("a 10.0.0.1 ready")
		f.api.set(slice("web-1", a, endpoint("b", "10.0.0.2", isReady)))
		f.requireSet("a 10.0.0.1 ready", "b 10.0.0.2 ready")
		f.api.set(slice("web-1", a, endpoint("b", "10.0.0.2", isUnready)))
		f.requireSet("a 10.0.0.1 ready", "b 10.0.0.2 reserved")
	})
}

// Pods that were started and became unready while no events came may have sessions of other
// instances.
func TestService_UnreadyPodsOfAListAreReserved(t *testing.T) {
	run(t, func(f *fixture) {
		a := endpoint("a", "10.0.0.1", isReady)
		f.api.set(slice("web-1", a))
		f.settle()
		f.api.failWith(func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "", http.StatusServiceUnavailable)
			return true
		})
		f.api.drop("", true)
		f.api.set(slice("web-1", a, endpoint("b", "10.0.0.2", isUnready)))
		f.api.forget()
		f.requireSet("a 10.0.0.1 ready")
		f.api.failWith(nil)
		time.Sleep(time.Minute)
		f.requireSet("a 10.0.0.1 ready", "b 10.0.0.2 reserved")
	})
}

func TestService_DualStackPodsAreOneTarget(t *testing.T) {
	v4 := func(c discoveryv1.EndpointConditions) *discoveryv1.EndpointSlice {
		return slice("web-4", endpoint("a", "10.0.0.1", c))
	}
	v6 := func(c discoveryv1.EndpointConditions) *discoveryv1.EndpointSlice {
		return slice("web-6", endpoint("a", "fd00::1", c))
	}
	run(t, func(f *fixture) {
		f.api.set(v6(isReady), v4(isReady))
		f.requireSet("a 10.0.0.1 ready")
		f.api.set(v4(isTerminating))
		f.requireSet("a 10.0.0.1 ready") // until both slices say so
		f.api.set(v6(isTerminating))
		f.requireSet("a 10.0.0.1 draining")
	})
	run(t, func(f *fixture) { // a pod keeps the address that it had
		f.api.set(v6(isReady))
		f.requireSet("a fd00::1 ready")
		f.api.set(v4(isReady))
		f.requireSet("a fd00::1 ready")
		f.api.delete("web-6")
		f.requireSet("a 10.0.0.1 ready")
	})
	run(t, func(f *fixture) {
		f.api.set(v4(isReady), v6(isReady))
		f.requireSet("a fd00::1 ready")
		f.api.delete("web-6")
		time.Sleep(3 * time.Second)
		f.requireSet([]string{}...)
	}, func(s *kubernetes.Service) { s.Family = discoveryv1.AddressTypeIPv6 })
}

func TestService_AnAddressOfAnotherPodIsAnotherTarget(t *testing.T) {
	run(t, func(f *fixture) {
		f.api.set(slice("web-1", endpoint("a", "10.0.0.1", isTerminating)), slice("web-2", endpoint("b", "10.0.0.1", isReady)))
		f.requireSet("b 10.0.0.1 ready")
		require.Equal(f.t, "b-00000062", f.all[0][0].ID)
	})
}

func TestService_ByName(t *testing.T) {
	first := endpoint("web-0", "10.0.0.1", isReady)
	next := endpoint("web-0", "10.0.0.2", isReady)
	next.TargetRef.UID = "another"
	for _, byName := range []bool{false, true} {
		run(t, func(f *fixture) {
			f.api.set(slice("web-1", first))
			f.settle()
			ended := first
			ended.Conditions = isTerminating
			f.api.set(slice("web-1", ended), slice("web-2", next)) // a StatefulSet does not do this, an old slice does
			f.settle()
			last := f.all[len(f.all)-1]
			if !byName {
				require.Len(f.t, last, 2)
				require.NotEqual(f.t, last[0].ID, last[1].ID)
				return
			}
			require.Len(f.t, last, 1)
			require.Equal(f.t, "web-0", last[0].ID)
			require.Equal(f.t, "10.0.0.2:8080", last[0].URL.Host)
		}, func(s *kubernetes.Service) { s.ByName = byName })
	}
}

func TestService_ChangesAreCoalesced(t *testing.T) {
	run(t, func(f *fixture) {
		for i := range 50 {
			f.api.set(slice("web-1", endpoint("a", fmt.Sprintf("10.0.0.%d", i+1), isReady)))
			time.Sleep(time.Millisecond)
		}
		require.Zero(f.t, f.count())
		f.requireSet("a 10.0.0.50 ready")
		require.Equal(f.t, 1, f.count())
		began := time.Now()
		for time.Since(began) < time.Second { // endless changes hold nothing up
			f.api.set(slice("web-1", endpoint("a", fmt.Sprintf("10.0.1.%d", time.Since(began)/(10*time.Millisecond)+1), isReady)))
			time.Sleep(10 * time.Millisecond)
		}
		f.settle()
		require.InDelta(f.t, 11, f.count(), 1)
	})
}

func TestService_ReportRefuses(t *testing.T) {
	run(t, func(f *fixture) {
		f.refuse(errors.New("no room"))
		f.api.set(slice("web-1", endpoint("a", "10.0.0.1", isReady)))
		ctx, cancel := context.WithTimeout(f.t.Context(), 30*time.Second)
		defer cancel()
		err := f.service.Ready(ctx)
		require.ErrorIs(f.t, err, context.DeadlineExceeded)
		require.ErrorContains(f.t, err, "no room")
		f.refuse(nil)
		time.Sleep(5 * time.Second)
		f.requireSet("a 10.0.0.1 ready")
		require.NoError(f.t, f.service.Ready(f.t.Context()))
	})
}

// A pod's conditions neither end nor advance an operator's drain.
func TestService_S22_OperatorsDecide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, err := balancer.New(balancer.Config{})
		require.NoError(t, err)
		registry := &health.Registry{Pool: pool, Interval: -1}
		ctx, cancel := context.WithCancel(t.Context())
		go registry.Run(ctx)
		api := newAPIServer()
		service := &kubernetes.Service{Config: api.config(), Namespace: "default", Name: "web", Report: func(ts []balancer.Target) error {
			return registry.Replace(ts, health.Drain{Grace: -1, Limit: time.Minute})
		}}
		go service.Run(ctx)
		pods := func(a, b discoveryv1.EndpointConditions) {
			api.set(slice("web-1", endpoint("a", "10.0.0.1", a), endpoint("b", "10.0.0.2", b)))
			time.Sleep(200 * time.Millisecond)
			synctest.Wait()
		}
		pods(isReady, isReady)
		require.NoError(t, registry.Drain(ctx, "a-00000061", health.Drain{Grace: -1}))
		a, ok := pool.Member("a-00000061")
		require.True(t, ok)
		for _, c := range []discoveryv1.EndpointConditions{isUnready, isReady, isTerminating, isEnding, isReady} {
			pods(c, isReady)
			require.Equal(t, balancer.Down, a.State().Admin)
			now, _ := pool.Member("a-00000061")
			require.Same(t, a, now)
		}
		a.SetAdmin(balancer.Ready)
		pods(isReady, isTerminating)
		require.Equal(t, balancer.Ready, a.State().Admin)

		// New sessions go to terminating pods only when nothing else serves.
		choose := func() string {
			lease, err := pool.Acquire(ctx, &balancer.Request{})
			if err != nil {
				return err.Error()
			}
			defer lease.Release(balancer.Outcome{})
			return lease.Member().ID()
		}
		bound := func(id string) error {
			lease, err := pool.AcquireBound(ctx, id, &balancer.Request{})
			if err == nil {
				lease.Release(balancer.Outcome{})
			}
			return err
		}
		require.Equal(t, "a-00000061", choose())
		require.NoError(t, bound("b-00000062"))
		pods(isUnready, isTerminating)
		require.Equal(t, "b-00000062", choose())
		require.NoError(t, bound("a-00000061"))
		pods(isUnready, isEnding)
		require.Equal(t, balancer.ErrNoTarget.Error(), choose())
		require.NoError(t, bound("a-00000061"))
		cancel()
		synctest.Wait()
	})
}
