// Package underway knows the tunnels and connection attempts in progress at the members of a pool.
// It ends them when the administrative state of their member requires it.
//
// It picks no member, holds no lease and dials nothing. It starts the tunnels itself. Its users
// register everything else that can be cut.
package underway

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

// A Set has the work in progress at the members of the pools that it observes. It must observe a
// pool before any work begins there. When a member is moving, the Set asks the member's tunnels to
// end if there is a Farewell. When a member is down, the Set cuts the member's tunnels and
// everything else there.
//
// The zero value is ready to use. All methods are safe for concurrent use. A Set must not be
// copied.
type Set struct {
	// Farewell says how to ask the tunnels of a moving member to end. Nil means that they are left
	// alone until the member is down. Set it before the first tunnel.
	Farewell *tunnel.Farewell

	// Rebalance is how many tunnels per second are asked to end because their member does not keep
	// their session. Zero or negative means none, and so does a nil Farewell. Set it before the
	// first tunnel.
	Rebalance int

	engine tunnel.Engine

	mu       sync.Mutex
	closed   bool             // Drain or Shutdown has begun
	ending   chan struct{}    // closed when closed is set; nil until Closed is called
	late     *tunnel.Farewell // for tunnels that start during Drain
	refusing bool             // Start refuses
	coming   int              // number of holds
	came     chan struct{}    // closed when no hold is left; nil unless somebody waits
	tunnels  membersOf[Conn]  // until their Done has returned
	empty    chan struct{}    // closed when no tunnel is left; nil unless somebody waits
	others   membersOf[Cutter]
	moving   map[*balancer.Member]context.CancelFunc
	shed     shedding
	asking   sync.WaitGroup // goroutines that ask tunnels to end
}

// A Conn is an upgraded connection: a *tunnel.Tunnel, or one that [Set.Join] adds. Its type is
// comparable. Its methods return at once, because they may be called with the Set's lock held.
type Conn interface {
	tunnel.Asked
	Close(by tunnel.Reason)
}

// A Cutter is work in progress that can be cut. Its type is comparable. Cut is called without a
// lock, at most once for each change of the member's state. It may be called after the Cutter was
// removed.
type Cutter interface{ Cut() }

// membersOf has the work in progress of each member.
type membersOf[T comparable] map[*balancer.Member]map[T]struct{}

func (o *membersOf[T]) add(m *balancer.Member, v T) {
	if *o == nil {
		*o = make(membersOf[T])
	}
	if (*o)[m] == nil {
		(*o)[m] = make(map[T]struct{})
	}
	(*o)[m][v] = struct{}{}
}

func (o membersOf[T]) remove(m *balancer.Member, v T) {
	delete(o[m], v)
	if len(o[m]) == 0 {
		delete(o, m)
	}
}

// Hold announces a tunnel. Until Release, which must follow the tunnel's Start, Drain waits for the
// tunnel and asks it to end as well. Without a hold a client might be promised a tunnel that is
// then closed without a close frame. After Drain or Shutdown has begun, Hold reports false and
// holds nothing.
func (s *Set) Hold() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.coming++
	return true
}

// Release ends a hold.
func (s *Set) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.coming--; s.coming == 0 && s.came != nil {
		close(s.came)
		s.came = nil
	}
}

// released waits until no hold is left or ctx ends.
func (s *Set) released(ctx context.Context) {
	s.mu.Lock()
	if s.coming == 0 {
		s.mu.Unlock()
		return
	}
	if s.came == nil {
		s.came = make(chan struct{})
	}
	came := s.came
	s.mu.Unlock()
	select {
	case <-came:
	case <-ctx.Done():
	}
}

// Start runs a tunnel for m. Its o.Done is called when it has ended. Once Drain or Shutdown has
// begun, a tunnel without a hold may be refused: both connections are closed and o.Done gets the
// reason [tunnel.Shutdown].
func (s *Set) Start(m *balancer.Member, client, backend tunnel.Side, o tunnel.Options) {
	s.StartFor(Session{}, m, client, backend, o)
}

// StartFor is Start for a tunnel of that session, which is bound to m.
func (s *Set) StartFor(of Session, m *balancer.Member, client, backend tunnel.Side, o tunnel.Options) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var t *tunnel.Tunnel
	done := o.Done
	o.Done = func(end tunnel.End) {
		s.mu.Lock() // wait until t is set
		delete(s.shed.sessions, t)
		s.mu.Unlock()
		if done != nil {
			done(end)
		}
		s.forget(m, t)
	}
	if s.refusing {
		t = s.engine.Refuse(client, backend, o)
		s.tunnels.add(m, t)
		return
	}
	t = s.engine.Start(client, backend, o)
	s.addLocked(of, m, t)
}

// addLocked adds a connection that has begun, and tells it what the others have been told. s.mu is
// held.
func (s *Set) addLocked(of Session, m *balancer.Member, t Conn) {
	s.tunnels.add(m, t)
	s.know(t, m, of)
	if s.late != nil {
		t.CloseFrame(*s.late, time.Time{})
	}
	switch m.State().Admin { // the state may have changed since the lease was taken
	case balancer.Moving:
		if s.Farewell != nil {
			t.CloseFrame(*s.Farewell, time.Time{})
		}
	case balancer.Down:
		t.Close(tunnel.Moved)
	}
}

// Join adds a connection of that session, which is bound to m, and whose bytes somebody else moves.
// Leave must follow at its end. Where Start would refuse, Join closes the connection.
func (s *Set) Join(of Session, m *balancer.Member, c Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addLocked(of, m, c)
	if s.refusing {
		c.Close(tunnel.Shutdown)
	}
}

// Leave removes a connection that has joined and ended.
func (s *Set) Leave(m *balancer.Member, c Conn) {
	s.mu.Lock()
	delete(s.shed.sessions, c)
	s.mu.Unlock()
	s.forget(m, c)
}

// Add records c as work in progress at m until it is removed. It reports false if m is down.
func (s *Set) Add(m *balancer.Member, c Cutter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.others.add(m, c)
	return m.State().Admin != balancer.Down
}

// Remove removes c.
func (s *Set) Remove(m *balancer.Member, c Cutter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.others.remove(m, c)
}

// Closing reports whether Drain or Shutdown has begun.
func (s *Set) Closing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Closed returns a channel that is closed when Drain or Shutdown begins.
func (s *Set) Closed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending == nil {
		s.ending = make(chan struct{})
		if s.closed {
			close(s.ending)
		}
	}
	return s.ending
}

// Drain asks all tunnels to end, whatever their member, spread over f.Window, and waits until they
// have ended. Tunnels with a hold are asked when they start. When ctx ends first, Drain cuts the
// remaining tunnels, waits for their end and returns ctx's error. Afterwards Start refuses.
func (s *Set) Drain(ctx context.Context, f tunnel.Farewell) error {
	later := f // for tunnels that start during Drain
	s.close(&later)
	tunnel.Ask(ctx, f, s.all()...)
	s.released(ctx)
	s.refuse()
	f.Window = 0 // all have been asked, unless ctx has ended
	tunnel.Ask(ctx, f, s.all()...)
	return s.wait(ctx, f.By)
}

// Shutdown waits until all tunnels have ended. When ctx ends first, it cuts the remaining tunnels,
// waits for their end and returns ctx's error. Start refuses from now on.
func (s *Set) Shutdown(ctx context.Context) error {
	s.close(nil)
	s.refuse()
	return s.wait(ctx, tunnel.Shutdown)
}

// refuse makes Start refuse.
func (s *Set) refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusing = true
}

// wait waits until no tunnel is left. When ctx ends first, it cuts the tunnels with that reason,
// waits for their end and returns ctx's error.
func (s *Set) wait(ctx context.Context, by tunnel.Reason) error {
	defer s.engine.Wait()
	empty := s.emptied()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
	}
	all := s.all()
	if len(all) == 0 {
		return nil
	}
	for _, t := range all {
		t.Close(by)
	}
	<-empty
	return ctx.Err()
}

// emptied returns a channel that is closed when no tunnel is left.
func (s *Set) emptied() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tunnels) == 0 {
		none := make(chan struct{})
		close(none)
		return none
	}
	if s.empty == nil {
		s.empty = make(chan struct{})
	}
	return s.empty
}

// forget removes a tunnel after its Done has returned.
func (s *Set) forget(m *balancer.Member, t Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tunnels.remove(m, t)
	if len(s.tunnels) == 0 && s.empty != nil {
		close(s.empty)
		s.empty = nil
	}
}

// all returns all tunnels.
func (s *Set) all() []Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Conn
	for _, tunnels := range s.tunnels {
		all = slices.AppendSeq(all, maps.Keys(tunnels))
	}
	return all
}

// close marks the set as closed and stops asking members' tunnels. f is for tunnels that start
// later; it may be nil.
func (s *Set) close(f *tunnel.Farewell) {
	s.mu.Lock()
	if !s.closed && s.ending != nil {
		close(s.ending)
	}
	s.closed, s.late = true, f
	for m := range s.moving {
		s.stopAsking(m)
	}
	s.stopShedding()
	s.mu.Unlock()
	s.asking.Wait()
}

// Released implements balancer.Observer.
func (s *Set) Released(*balancer.Member, balancer.Outcome) {}

// Changed implements balancer.Observer.
func (s *Set) Changed(m *balancer.Member, state balancer.State) {
	for _, c := range s.follow(m, state.Admin) {
		c.Cut()
	}
}

// follow does what the state of m requires and returns what the caller has to cut. That may take a
// moment, so the caller does it without the lock.
func (s *Set) follow(m *balancer.Member, admin balancer.Admin) []Cutter {
	s.mu.Lock()
	defer s.mu.Unlock()
	if admin == balancer.Moving {
		s.askMember(m)
		return nil
	}
	s.stopAsking(m)
	s.share(m)
	if admin != balancer.Down {
		return nil
	}
	for t := range s.tunnels[m] {
		t.Close(tunnel.Moved)
	}
	return slices.Collect(maps.Keys(s.others[m]))
}

// askMember starts a goroutine that asks m's tunnels to end. s.mu is held.
func (s *Set) askMember(m *balancer.Member) {
	if s.Farewell == nil || s.moving[m] != nil || s.closed || len(s.tunnels[m]) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	if s.moving == nil {
		s.moving = make(map[*balancer.Member]context.CancelFunc)
	}
	s.moving[m] = cancel
	tunnels := slices.Collect(maps.Keys(s.tunnels[m]))
	s.asking.Go(func() {
		tunnel.Ask(ctx, *s.Farewell, tunnels...)
		s.mu.Lock()
		defer s.mu.Unlock()
		if ctx.Err() == nil {
			s.stopAsking(m)
		}
	})
}

// stopAsking stops what askMember started. Tunnels that have not been asked stay. s.mu is held.
func (s *Set) stopAsking(m *balancer.Member) {
	if cancel := s.moving[m]; cancel != nil {
		cancel()
		delete(s.moving, m)
	}
}
