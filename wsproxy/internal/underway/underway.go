// Package underway keeps what is under way at the members of a pool, and ends it when their
// administrative state says so.
//
// It picks no member, holds no lease and dials nothing. What is under way is either a tunnel,
// which it starts, or something else that can be cut, which it is told of.
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

// A Set is what is under way at the members of the pools that it observes: have it observe a
// pool before anything is under way there. When a member is moving, its tunnels are asked to
// end if there is a Farewell; when it is down, they are cut, and so is all else.
//
// The zero value is ready to use. All methods are safe for concurrent use. A Set must not be
// copied.
type Set struct {
	// Farewell is how the tunnels of a member that is moving are asked to end. Nil means that
	// they are left alone until it is down. It must be set before the first tunnel.
	Farewell *tunnel.Farewell

	// Rebalance is how many tunnels per second are asked to end because their member does not keep
	// their session. Zero or negative, or without a Farewell: none. It must be set before the first
	// tunnel.
	Rebalance int

	engine tunnel.Engine

	mu       sync.Mutex
	closed   bool                      // Drain or Shutdown has begun
	ending   chan struct{}             // closed when closed is set; nil until somebody asks for it
	late     *tunnel.Farewell          // for tunnels that start during Drain
	refusing bool                      // Start refuses
	coming   int                       // holds
	came     chan struct{}             // closed when there is no hold left; nil until somebody waits
	tunnels  membersOf[*tunnel.Tunnel] // until their Done has returned
	empty    chan struct{}             // closed when no tunnel is left; nil until somebody waits
	others   membersOf[Cutter]
	moving   map[*balancer.Member]context.CancelFunc
	shed     shedding
	asking   sync.WaitGroup // goroutines that ask tunnels to end
}

// A Cutter is something under way that can be cut. Its type is comparable. Cut is called
// without a lock, at most once for each change of the member's state, and may come after the
// Cutter was removed.
type Cutter interface{ Cut() }

// membersOf has what is under way by member.
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

// Hold announces a tunnel: until Release, which must follow its Start, Drain waits for it and
// asks it to end as well. Without a hold the tunnel might be promised to a client and then be
// closed without a word. Hold reports false, and holds nothing, after Drain or Shutdown has begun.
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

// released waits until there is no hold left, or ctx ends.
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
		s.mu.Lock() // waits until t is set
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
	s.tunnels.add(m, t)
	s.know(t, m, of)
	if s.late != nil {
		t.CloseFrame(*s.late, time.Time{})
	}
	switch m.State().Admin { // as it is since the lease was taken
	case balancer.Moving:
		if s.Farewell != nil {
			t.CloseFrame(*s.Farewell, time.Time{})
		}
	case balancer.Down:
		t.Close(tunnel.Moved)
	}
}

// Add notes that c is under way at m until it is removed. It reports false when m is down.
func (s *Set) Add(m *balancer.Member, c Cutter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.others.add(m, c)
	return m.State().Admin != balancer.Down
}

// Remove forgets c.
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
// have ended. Tunnels with a hold are asked when they start. When ctx ends first, Drain cuts those
// that are left, waits for their end and returns ctx's error. Start refuses what comes later.
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

// Shutdown waits until all tunnels have ended. When ctx ends first, it cuts those that are left,
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

// forget removes a tunnel whose Done has returned.
func (s *Set) forget(m *balancer.Member, t *tunnel.Tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tunnels.remove(m, t)
	if len(s.tunnels) == 0 && s.empty != nil {
		close(s.empty)
		s.empty = nil
	}
}

func (s *Set) all() []*tunnel.Tunnel {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*tunnel.Tunnel
	for _, tunnels := range s.tunnels {
		all = slices.AppendSeq(all, maps.Keys(tunnels))
	}
	return all
}

// close stops the asking of members' tunnels. f is for those that start later, nil for none.
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

// follow does what a member's state asks for, and returns what is to be cut: without the lock,
// because that may take a moment.
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

// askMember begins to ask m's tunnels to end. s.mu is held.
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

// stopAsking ends what askMember began. Tunnels that have not been asked stay. s.mu is held.
func (s *Set) stopAsking(m *balancer.Member) {
	if cancel := s.moving[m]; cancel != nil {
		cancel()
		delete(s.moving, m)
	}
}
