package underway

import (
	"context"
	"time"

	"github.com/stickylb/stickylb/balancer"
)

// A Session identifies the session of a tunnel; see [balancer.Request]. The zero value means that
// it is not known.
type Session struct {
	ID     uint64
	Issued time.Time
}

// shedOver is the shortest time over which a Set spreads its requests to end. It asks the tunnels
// whose member does not keep their session.
const shedOver = 5 * time.Second

// shedLater is the pause before the next try when no tunnel could be asked because no other member
// takes sessions yet.
const shedLater = time.Second

// shedding is the part of a Set that asks tunnels to end because their member does not keep their
// session.
type shedding struct {
	sessions map[Conn]*shedEntry
	queue    []Conn // tunnels to ask; some may have ended
	batch    int    // length of the queue when a tunnel was last added
	stop     context.CancelFunc
}

type shedEntry struct {
	member *balancer.Member
	Session
	queued bool // the tunnel is in the queue, or was asked
}

// know records the session of a tunnel. s.mu is held.
func (s *Set) know(t Conn, m *balancer.Member, of Session) {
	if s.Rebalance <= 0 || s.Farewell == nil || of.ID == 0 {
		return
	}
	if s.shed.sessions == nil {
		s.shed.sessions = make(map[Conn]*shedEntry)
	}
	e := &shedEntry{member: m, Session: of}
	s.shed.sessions[t] = e
	s.enqueue(t, e)
	s.startShedding()
}

// share queues the tunnels of m whose session m does not keep. s.mu is held.
func (s *Set) share(m *balancer.Member) {
	if len(s.shed.sessions) == 0 {
		return
	}
	for t := range s.tunnels[m] {
		if e := s.shed.sessions[t]; e != nil {
			s.enqueue(t, e)
		}
	}
	s.startShedding()
}

// enqueue queues t if its member does not keep its session. s.mu is held.
func (s *Set) enqueue(t Conn, e *shedEntry) {
	if !e.queued && !e.member.Keeps(e.ID, e.Issued) {
		e.queued = true
		s.shed.queue = append(s.shed.queue, t)
		s.shed.batch = len(s.shed.queue)
	}
}

// startShedding starts the goroutine for the queue unless it runs. s.mu is held.
func (s *Set) startShedding() {
	if len(s.shed.queue) == 0 || s.shed.stop != nil || s.closed {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.shed.stop = cancel
	s.asking.Go(func() { s.workOff(ctx) })
}

// workOff asks the tunnels in the queue to end, one after another.
func (s *Set) workOff(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	asked := true
	for {
		pause, more := s.shedPause()
		if !more {
			return
		}
		if !asked {
			pause = max(pause, shedLater)
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		asked = s.askNext()
	}
}

// shedPause returns the pause before the next tunnel is asked, and whether there is a tunnel.
func (s *Set) shedPause() (time.Duration, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.shed.queue) == 0 {
		s.stopShedding()
		return 0, false
	}
	return max(shedOver/time.Duration(s.shed.batch), time.Second/time.Duration(s.Rebalance)), true
}

// stopShedding stops the goroutine for the queue. s.mu is held.
func (s *Set) stopShedding() {
	if s.shed.stop != nil {
		s.shed.stop()
		s.shed.stop = nil
	}
}

// askNext asks the first tunnel in the queue whose client would come back to another member. It
// reports false if there is none.
func (s *Set) askNext() bool {
	for t, e := range s.takeTurns {
		if e.member.Moves(e.ID, e.Issued) {
			t.CloseFrame(*s.Farewell, time.Time{})
			return true
		}
		s.putBack(t, e)
	}
	return false
}

// takeTurns removes the tunnels from the queue, one after another, and yields those that have not
// ended.
func (s *Set) takeTurns(yield func(Conn, *shedEntry) bool) {
	s.mu.Lock()
	n := len(s.shed.queue)
	s.mu.Unlock()
	for range n {
		s.mu.Lock()
		t := s.shed.queue[0]
		s.shed.queue = s.shed.queue[1:]
		e := s.shed.sessions[t]
		s.mu.Unlock()
		if e != nil && !yield(t, e) {
			return
		}
	}
}

// putBack puts a tunnel at the end of the queue, unless its member keeps its session by now.
func (s *Set) putBack(t Conn, e *shedEntry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.queued = !e.member.Keeps(e.ID, e.Issued); e.queued {
		s.shed.queue = append(s.shed.queue, t)
	}
}
