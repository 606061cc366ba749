package upstream

import (
	"errors"
	"math"
	"sync"
	"time"
)

// A pool keeps idle connections and returns the one that was used last first. One timer closes
// connections that were not used for long or are too old. It runs only while there are idle
// connections.
type pool struct {
	timeout   time.Duration // how long to keep an idle connection; 0 means no limit
	perTarget int

	mu      sync.Mutex
	conns   map[Address][]*conn // least recently used first; the timer removes empty lists
	timer   *time.Timer         // nil when not running
	due     time.Time           // when the timer fires next
	swept   time.Time           // when the timer fired last
	closing bool                // closeAll was called, and get was not called since
}

// get removes a connection from the pool and returns it, or nil if there is none.
func (p *pool) get(to Address, now time.Time) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closing = false
	list := p.conns[to]
	for last := len(list) - 1; last >= 0; last-- {
		c := list[last]
		list[last] = nil
		if p.timeout > 0 && now.Sub(c.idleSince) > p.timeout { // the other ones have been idle for even longer
			for _, old := range list[:last] {
				old.nc.Close()
			}
			delete(p.conns, to)
			c.nc.Close()
			return nil
		}
		p.conns[to] = list[:last]
		if !c.isOld(now) {
			return c
		}
		c.nc.Close()
	}
	return nil
}

// isOld reports whether the connection is too old for another request.
func (c *conn) isOld(now time.Time) bool { return !c.expires.IsZero() && !now.Before(c.expires) }

var (
	errEnoughIdle = errors.New("upstream: enough connections are idle")
	errClosedIdle = errors.New("upstream: idle connections have been closed")
	errOld        = errors.New("upstream: the connection has reached its age")
)

// put adds a connection to the pool. If it does not, its error says why.
func (p *pool) put(c *conn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.conns[c.to]
	now := time.Now()
	switch {
	case p.closing:
		return errClosedIdle
	case len(list) >= p.perTarget:
		return errEnoughIdle
	case c.isOld(now):
		return errOld
	}
	if p.conns == nil {
		p.conns = make(map[Address][]*conn)
	}
	c.idleSince = now
	p.conns[c.to] = append(list, c)
	left, ends := p.left(c, now)
	if left = max(left, p.swept.Add(p.pause(c)).Sub(now)); ends && (p.timer == nil || now.Add(left).Before(p.due)) {
		p.look(left, now)
	}
	return nil
}

// pause returns the least time between two sweeps that this connection needs.
func (p *pool) pause(c *conn) time.Duration {
	pause := time.Second
	if p.timeout > 0 {
		pause = p.timeout / 16
	}
	if !c.expires.IsZero() {
		pause = min(pause, c.age/16, time.Second)
	}
	return pause
}

// left returns how much longer an idle connection is kept, and whether there is a limit.
func (p *pool) left(c *conn, now time.Time) (left time.Duration, ends bool) {
	if p.timeout > 0 {
		left, ends = p.timeout-now.Sub(c.idleSince), true
	}
	if !c.expires.IsZero() {
		if age := c.expires.Sub(now); !ends || age < left {
			left, ends = age, true
		}
	}
	return left, ends
}

// look schedules a sweep after that time. A sweep that was already due may run as well.
func (p *pool) look(after time.Duration, now time.Time) {
	if p.timer != nil {
		p.timer.Stop()
	}
	p.timer, p.due = time.AfterFunc(after, p.sweep), now.Add(after)
}

// sweep closes connections that have been kept long enough, and schedules itself for the next one.
// It does not run often, because it looks at every connection.
func (p *pool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer == nil { // closeAll came first
		return
	}
	now := time.Now()
	p.swept = now
	next, pause := time.Duration(-1), time.Duration(math.MaxInt64)
	for to, list := range p.conns {
		kept := list[:0]
		for _, c := range list {
			left, ends := p.left(c, now)
			if ends && left <= 0 {
				c.nc.Close()
				continue
			}
			kept = append(kept, c)
			if ends && (next < 0 || left < next) {
				next = left
			}
			pause = min(pause, p.pause(c))
		}
		clear(list[len(kept):])
		if p.conns[to] = kept; len(kept) == 0 {
			delete(p.conns, to)
		}
	}
	p.timer.Stop() // another timer may have been set since this one fired
	p.timer = nil
	if next >= 0 {
		p.look(max(next, pause), now)
	}
}

// closeTo closes the idle connections to one address.
func (p *pool) closeTo(to Address) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns[to] {
		c.nc.Close()
	}
	delete(p.conns, to)
}

func (p *pool) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, list := range p.conns {
		for _, c := range list {
			c.nc.Close()
		}
	}
	p.conns, p.closing = nil, true
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}
