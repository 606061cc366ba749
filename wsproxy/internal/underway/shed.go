package underway

import (
	"context"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

// A Session identifies the session that a tunnel belongs to; see [balancer.Request]. The zero value
// means not known.
type Session struct {
	ID     uint64
	Issued time.Time
}

// shedOver is the least time over which the ends of the tunnels that a member does not keep are
// spread.
const shedOver = 5 * time.Second

// shedLater is the pause before the next look when no other member takes sessions yet.
const shedLater = time.Second

// shedding is what a Set knows of tunnels whose members do not keep all sessions.
type shedding struct {
	sessions map[*tunnel.Tunnel]*shedEntry
	queue    []*tunnel.Tunnel // that may have to go; some have ended
	batch    int              // length of the queue when the last ones joined it
	stop     context.CancelFunc
}

type shedEntry struct {
	member *balancer.Member
	Session
	queued bool // it is in the queue, or was asked
}

// know notes the session of a tunnel. s.mu is held.
func (s *Set) know(t *tunnel.Tunnel, m *balancer.Member, of Session) {
	if s.Rebalance <= 0 || s.Farewell == nil || of.ID == 0 {
		return
	}
	if s.shed.sessions == nil {
		s.shed.sessions = make(map[*tunnel.Tunnel]*shedEntry)
	}
	e := &shedEntry{member: m, Session: of}
	s.shed.sessions[t] = e
	s.enqueue(t, e)
	s.startShedding()
}

// share looks for tunnels of m that it does not keep. s.mu is held.
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

func (s *Set) enqueue(t *tunnel.Tunnel, e *shedEntry) {
	if !e.queued && !e.member.Keeps(e.ID, e.Issued) {
		e.queued = true
		s.shed.queue = append(s.shed.queue, t)
		s.shed.batch = len(s.shed.queue)
	}
}

// startShedding has the queue worked off, unless that is so already. s.mu is held.
func (s *Set) startShedding() {
	if len(s.shed.queue) == 0 || s.shed.stop != nil || s.closed {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.shed.stop = cancel
	s.asking.Go(func() { s.workOff(ctx) })
}

// workOff asks the tunnels in the queue to end, one after the other.
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

// shedPause returns how long to wait before the next tunnel is asked, and whether there is one.
func (s *Set) shedPause() (time.Duration, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.shed.queue) == 0 {
		s.stopShedding()
		return 0, false
	}
	return max(shedOver/time.Duration(s.shed.batch), time.Second/time.Duration(s.Rebalance)), true
}

// stopShedding is called with s.mu held.
func (s *Set) stopShedding() {
	if s.shed.stop != nil {
		s.shed.stop()
		s.shed.stop = nil
	}
}

// askNext asks the first tunnel in the queue that would come back to another member. It reports
// false if there is none.
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

// takeTurns yields each tunnel of the queue that has not ended, and takes it off.
func (s *Set) takeTurns(yield func(*tunnel.Tunnel, *shedEntry) bool) {
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

// putBack puts a tunnel behind the others in the queue, unless its member keeps it by now.
func (s *Set) putBack(t *tunnel.Tunnel, e *shedEntry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.queued = !e.member.Keeps(e.ID, e.Issued); e.queued {
		s.shed.queue = append(s.shed.queue, t)
	}
}
