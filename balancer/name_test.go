package balancer_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
)

func TestNew_Name(t *testing.T) {
	for name, refused := range map[string]bool{
		"":                          false,
		"shop":                      false,
		"shop of Zürich, 1/2 \"a\"": false,
		strings.Repeat("a", 128):    false,
		strings.Repeat("a", 129):    true,
		"a\nlevel=ERROR":            true,
		"a\x00":                     true,
		"a\u00a0b":                  true, // no-break space
		"a\u202eb":                  true, // right-to-left override
		"a\u200bb":                  true, // zero width space
		"\xff":                      true,
	} {
		p, err := balancer.New(balancer.Config{Name: name})
		if refused {
			require.ErrorContains(t, err, "balancer: Name ", "%q", name)
			require.NotContains(t, err.Error(), "\n")
			continue
		}
		require.NoError(t, err, "%q", name)
		require.Equal(t, name, p.Name())
	}
}

// Every error of a pool says once which pool it is about, and still matches what it matched.
func TestPool_ErrorsNameThePool(t *testing.T) {
	at := func(id string) balancer.Target {
		return balancer.Target{ID: id, URL: &url.URL{Scheme: "http", Host: id + ".invalid"}, MaxRequests: 1}
	}
	for _, name := range []string{"", "shop"} {
		named := func(err, is error) {
			t.Helper()
			require.ErrorIs(t, err, is)
			e, ok := errors.AsType[*balancer.PoolError](err)
			require.Equal(t, name != "", ok, err)
			if ok {
				require.Equal(t, name, e.Pool)
				require.Equal(t, 1, strings.Count(err.Error(), `balancer: pool "shop": `), err)
			}
			require.Equal(t, 1, strings.Count(strings.ReplaceAll(err.Error(), "(balancer: ", "("), "balancer: "), err)
		}
		_, err := balancer.New(balancer.Config{Name: name, SlowStart: -1})
		named(err, err)
		_, err = balancer.New(balancer.Config{Name: name, Targets: []balancer.Target{at("a"), at("a")}})
		named(err, err)

		p, err := balancer.New(balancer.Config{Name: name, Queue: 1, QueueTimeout: time.Nanosecond})
		require.NoError(t, err)
		acquire := func(id string) error {
			_, err := p.AcquireBound(t.Context(), id, &balancer.Request{})
			return err
		}
		_, err = p.Acquire(t.Context(), &balancer.Request{})
		named(err, balancer.ErrNoTarget)
		err = p.Update(balancer.Target{})
		named(err, err)
		require.NoError(t, p.Update(at("a")))
		named(acquire("b"), balancer.ErrUnknown)

		lease, err := p.Acquire(t.Context(), &balancer.Request{})
		require.NoError(t, err)
		a := lease.Member()
		require.Same(t, p, a.Pool())
		named(acquire("a"), balancer.ErrFull)
		_, err = p.Acquire(t.Context(), &balancer.Request{})
		named(err, balancer.ErrFull)
		lease.Release(balancer.Outcome{})

		q := &balancer.Request{}
		q.Exclude(a)
		_, err = p.Acquire(t.Context(), q)
		named(err, balancer.ErrExcluded)
		_, err = p.AcquireBound(t.Context(), "a", q)
		named(err, balancer.ErrExcluded)

		a.Eject(time.Now().Add(time.Hour))
		named(acquire("a"), balancer.ErrEjected)
		a.Eject(time.Time{})
		a.SetAdmin(balancer.Moving)
		named(acquire("a"), balancer.ErrMoving)
		a.SetAdmin(balancer.Down)
		named(acquire("a"), balancer.ErrDown)
		a.SetAdmin(balancer.Ready)
		require.NoError(t, p.Update(at("a"), at("b"))) // the session can move to b
		require.NoError(t, a.SetShare(0))
		_, err = p.AcquireBound(t.Context(), "a", &balancer.Request{Session: 1})
		named(err, balancer.ErrShare)
	}
}

// An error of the context that a request waited with does not name the pool, and still matches the
// context's error.
func TestPool_AWaitsContextHasNoName(t *testing.T) {
	p, err := balancer.New(balancer.Config{Name: "shop", Queue: 1, Targets: []balancer.Target{
		{ID: "a", URL: &url.URL{Scheme: "http", Host: "a.invalid"}, MaxRequests: 1},
	}})
	require.NoError(t, err)
	lease, err := p.Acquire(t.Context(), &balancer.Request{})
	require.NoError(t, err)
	defer lease.Release(balancer.Outcome{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = p.Acquire(ctx, &balancer.Request{})
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, balancer.ErrNoTarget)
}

// Every request may be refused, so the pool's name must not cost an allocation in a refusal.
func TestPool_ANamedRefusalAllocatesNothing(t *testing.T) {
	p, err := balancer.New(balancer.Config{Name: "shop"})
	require.NoError(t, err)
	q, ctx := &balancer.Request{}, t.Context()
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if _, err := p.AcquireBound(ctx, "gone", q); err == nil {
			t.Fail()
		}
	}))
}

type panicking struct{}

func (panicking) Released(*balancer.Member, balancer.Outcome) { panic("mine") }
func (panicking) Changed(*balancer.Member, balancer.State)    {}

// Each record of the pool's log has its name once, or no name if it has none.
func TestPool_LogNamesThePool(t *testing.T) {
	for name, want := range map[string]int{"shop": 1, "": 0} {
		var log bytes.Buffer
		p, err := balancer.New(balancer.Config{Name: name, Logger: slog.New(slog.NewTextHandler(&log, nil)),
			Targets: []balancer.Target{{ID: "a", URL: &url.URL{Scheme: "http", Host: "a.invalid"}}}})
		require.NoError(t, err)
		defer p.Observe(panicking{})()
		lease, err := p.Acquire(t.Context(), &balancer.Request{})
		require.NoError(t, err)
		lease.Release(balancer.Outcome{})
		require.Contains(t, log.String(), "Observer.Released has panicked")
		require.Equal(t, want, strings.Count(log.String(), " pool="), log.String())
		require.Equal(t, want, strings.Count(log.String(), " pool=shop "))
	}
}
