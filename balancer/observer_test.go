package balancer_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
)

// A listener is an observer that counts its calls, and panics if it is set to.
type listener struct {
	panics bool

	mu       sync.Mutex
	changed  []string // IDs, "left" behind those that have
	released int
}

func (l *listener) Released(*balancer.Member, balancer.Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.released++
	if l.panics {
		panic("at a release")
	}
}

func (l *listener) Changed(m *balancer.Member, _ balancer.State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	word := m.ID()
	if m.Removed() {
		word += " left"
	}
	l.changed = append(l.changed, word)
	if l.panics {
		panic("at a change")
	}
}

// When an observer panics, on any goroutine, all observers still get all events, and the pool
// continues.
func TestObserver_PanicsAreContained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p := newPool(t, balancer.Config{Targets: targets(2), Logger: slog.New(slog.NewTextHandler(&log, nil))})
		rude, honest := &listener{panics: true}, &listener{}
		defer p.Observe(rude)()
		defer p.Observe(honest)()
		m := member(t, p, "t00")
		m.SetHealth(balancer.Healthy)
		report(t, p, "t00", balancer.Outcome{})
		m.Eject(time.Now().Add(time.Minute)) // ends on the timer's goroutine
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.NoError(t, p.Update(target("t01"), target("new")))
		want := []string{"t00", "t00", "t00", "t00 left", "new"}
		require.Equal(t, want, honest.changed)
		require.Equal(t, want, rude.changed)
		require.Equal(t, 1, honest.released)
		require.Equal(t, 1, rude.released)
		require.Contains(t, log.String(), "Observer.Changed has panicked")
		require.Contains(t, log.String(), "at a release")
		require.Contains(t, log.String(), "observer_test.go")
	})
}

// Observers are told only once that a member has left, even if it changes at the same time.
func TestObserver_B3_RemovedOnce(t *testing.T) {
	t.Run("a change that was not told yet", func(t *testing.T) {
		p := newPool(t, balancer.Config{Targets: targets(1)})
		l := &listener{}
		first := true
		defer p.Observe(react{func(m *balancer.Member, _ balancer.State) {
			if first { // within the first event, two more come
				first = false
				m.SetAdmin(balancer.Draining)
				require.NoError(t, p.Update())
				require.False(t, m.Removed(), "not told yet")
			}
		}})()
		defer p.Observe(l)()
		m := member(t, p, "t00")
		m.SetHealth(balancer.Healthy)
		require.Equal(t, []string{"t00", "t00", "t00 left"}, l.changed)
		require.True(t, m.Removed())
	})
	t.Run("at once", func(t *testing.T) {
		for range 200 {
			p := newPool(t, balancer.Config{Targets: targets(3)})
			l := &listener{}
			stop := p.Observe(l)
			var all sync.WaitGroup
			for _, m := range p.Members() {
				all.Go(func() {
					for i := range 20 {
						m.SetAdmin(balancer.Admin(i % 2))
					}
				})
			}
			all.Go(func() { p.Update() })
			all.Wait()
			stop()
			left := 0
			for _, word := range l.changed {
				if word[len(word)-1] == 't' {
					left++
				}
			}
			require.Equal(t, 3, left)
		}
	})
}

// A bouncer is an observer that takes no targets of a scheme.
type bouncer struct {
	react
	scheme string
}

func (b bouncer) Admit(t balancer.Target) error {
	if t.URL.Scheme == b.scheme {
		return fmt.Errorf("no %s here", b.scheme)
	}
	return nil
}

// Update refuses a target that an observer does not admit, and changes nothing.
func TestAdmitter_B3_UpdateAsks(t *testing.T) {
	tcp := balancer.Target{ID: "db", URL: parse(t, "tcp://db:1")}
	p := newPool(t, balancer.Config{Targets: targets(2)})
	told := 0
	stop := p.Observe(bouncer{react{func(*balancer.Member, balancer.State) { told++ }}, "tcp"})
	before := p.Members()
	require.EqualError(t, p.Update(targets(1)[0], tcp), `balancer: target 1 ("db"): no tcp here`)
	require.Equal(t, before, p.Members())
	require.Zero(t, told)
	require.NoError(t, p.Update(targets(3)...))
	require.Equal(t, 1, told)
	stop()
	require.NoError(t, p.Update(tcp))
}
