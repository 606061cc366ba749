package tunnel

import (
	"errors"
	"net"
	"syscall"
	"time"
)

const (
	// lookEvery is how often the tunnel looks at the source of a write that may be blocked.
	lookEvery = time.Second

	// blindLimit is how long a write may make no progress when nobody can see whether its source is
	// still connected.
	blindLimit = 5 * time.Minute
)

var errStuck = errors.New("the write makes no progress")

// A peerState says what is known of a peer without reading from its connection.
type peerState uint8

const (
	peerUnknown peerState = iota // not known
	peerOpen                     // no end of stream has arrived
	peerEnded                    // its end of stream has arrived, perhaps behind unread bytes
	peerReset                    // its connection was reset or has timed out
)

// peerOf looks at conn's peer. It does not block.
func peerOf(conn any) peerState {
	switch c := conn.(type) {
	case interface{ peer() peerState }:
		return c.peer()
	case syscall.Conn:
		raw, err := c.SyscallConn()
		if err != nil {
			return peerUnknown
		}
		state := peerUnknown
		raw.Control(func(fd uintptr) { state = pollPeer(fd) })
		return state
	case interface{ NetConn() net.Conn }: // of crypto/tls
		return peerOf(c.NetConn())
	case interface{ Unwrap() (net.Conn, bool) }: // of package proxyproto
		if below, ok := c.Unwrap(); ok {
			return peerOf(below)
		}
	case interface{ PeerReset() bool }:
		if c.PeerReset() {
			return peerReset
		}
	}
	return peerUnknown
}

// watch makes the tunnel look at the sources of its writes, as long as a write may be blocked. Call
// it before a write that may block, after setting d.busy.
func (t *Tunnel) watch() {
	if t.watched.Load() || t.watched.Swap(true) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.limits.look == never {
		t.limits.look = t.now() + lookEvery
		t.checkLimits()
	}
}

// look does what watch asked for, when it is due. t.mu is held.
func (t *Tunnel) look(now time.Duration) {
	if now < t.limits.look {
		return
	}
	t.limits.look = never
	t.watched.Store(false)
	for _, d := range [...]*direction{&t.up, &t.down} {
		if d.busy {
			d.lookAtSource()
			t.limits.look = now + lookEvery
			t.watched.Store(true)
		}
	}
}

// lookAtSource finds out whether src has ended although its bytes are not all delivered. t.mu is
// held.
func (d *direction) lookAtSource() {
	if d.src.closed {
		return
	}
	switch peerOf(d.src.conn) {
	case peerReset:
		d.broken()
	case peerEnded:
		d.leaving = true
		d.noteEnd()
	case peerUnknown:
		d.blind = true
	}
}

// broken records that src is gone for good. Bytes that it sent are still delivered while that makes
// progress. t.mu is held.
func (d *direction) broken() {
	if d.brokenAt >= 0 {
		return
	}
	d.brokenAt = d.t.now()
	d.t.note(d.src.readFailed, syscall.ECONNRESET)
	d.back.mute = true
	d.back.shut = true
}

// checkProgress returns how much longer a write may go without progress when its source may be
// gone. t.mu is held.
func (d *direction) checkProgress(now time.Duration) time.Duration {
	switch {
	case !d.busy:
		return never
	case d.brokenAt >= 0:
		left := dropLimit - (now - max(d.brokenAt, d.lastByte()))
		if left <= 0 {
			d.dst.abortOnClose() // dst did not get all bytes that were sent to it
		}
		return left
	case d.blind:
		left := blindLimit - (now - d.lastByte())
		if left <= 0 {
			d.t.note(d.dst.writeFailed, errStuck)
		}
		return left
	}
	return never
}
