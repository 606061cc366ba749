package upstream

import (
	"errors"
	"sync"
	"time"
)

// A pool keeps idle connections, the one that was used last on top. One timer, which runs only while there are some,
// closes those that nobody has needed for long.
type pool struct {
	timeout   time.Duration // 0 means none
	perTarget int

	mu      sync.Mutex
	conns   map[string][]*conn // by address, the oldest first; an empty list is removed by the timer
	timer   *time.Timer        // nil when not running
	closing bool               // closeAll was called, and get was not since
}

// get takes a connection out; nil when there is none.
func (p *pool) get(addr string, now time.Time) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closing = false
	list := p.conns[addr]
	if len(list) == 0 {
		return nil
	}
	last := len(list) - 1
	c := list[last]
	list[last] = nil
	p.conns[addr] = list[:last]
	if p.timeout > 0 && now.Sub(c.idleSince) > p.timeout { // the others are older
		for _, old := range list[:last] {
			old.nc.Close()
		}
		delete(p.conns, addr)
		c.nc.Close()
		return nil
	}
	return c
}

var (
	errEnoughIdle = errors.New("upstream: enough connections are idle")
	errClosedIdle = errors.New("upstream: idle connections have been closed")
)

// put keeps a connection, unless it says why not.
func (p *pool) put(c *conn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.conns[c.addr]
	switch {
	case p.closing:
		return errClosedIdle
	case len(list) >= p.perTarget:
		return errEnoughIdle
	}
	if p.conns == nil {
		p.conns = make(map[string][]*conn)
	}
	c.idleSince = time.Now()
	p.conns[c.addr] = append(list, c)
	if p.timer == nil && p.timeout > 0 {
		p.timer = time.AfterFunc(p.timeout, p.sweep)
	}
	return nil
}

// sweep closes what has been idle for long, and comes again when the next one will have been; but not often, since it
// looks at every target.
func (p *pool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer == nil { // closeAll was faster
		return
	}
	next := time.Duration(-1)
	for addr, list := range p.conns {
		for len(list) > 0 && time.Since(list[0].idleSince) >= p.timeout {
			list[0].nc.Close()
			list[0] = nil
			list = list[1:]
		}
		if len(list) == 0 {
			delete(p.conns, addr)
			continue
		}
		p.conns[addr] = list
		if left := p.timeout - time.Since(list[0].idleSince); next < 0 || left < next {
			next = left
		}
	}
	p.timer.Stop() // not this one, if closeAll and put came between its firing and now
	p.timer = nil
	if next >= 0 {
		p.timer = time.AfterFunc(max(next, p.timeout/16), p.sweep)
	}
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
