package tunnel

import (
	"errors"
	"net"
	"syscall"
	"time"
)

const (
	// lookEvery is how often the source of a write that may be blocked is looked at.
	lookEvery = time.Second

	// blindLimit is how long a write may make no progress when nobody can see whether the side
	// that sent the bytes is still there.
	blindLimit = 5 * time.Minute
)

var errStuck = errors.New("the write makes no progress")

// A peerState is what can be seen of a peer without reading from its connection.
type peerState uint8

const (
	peerUnknown peerState = iota // cannot be seen
	peerOpen                     // it has sent no end, or none that has arrived
	peerEnded                    // it has sent its end of stream, be it behind bytes that nobody has read
	peerReset                    // its connection is broken: reset, or found dead
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

// watch has the tunnel look, as long as writes may be blocked, whether the sides have ended whose
// bytes they carry. A write that may block comes after it, and d.busy was set before.
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

// look is watch's work, when it is due. t.mu is held.
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

// lookAtSource notes whether src has ended although its bytes are not all delivered. t.mu is held.
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

// broken notes that src is gone for good. What it has sent is still delivered, as long as that makes
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

// checkProgress returns how much longer a write may make no progress that nobody may be behind any
// more. t.mu is held.
func (d *direction) checkProgress(now time.Duration) time.Duration {
	switch {
	case !d.busy:
		return never
	case d.brokenAt >= 0:
		left := dropLimit - (now - max(d.brokenAt, d.lastByte()))
		if left <= 0 {
			d.dst.abortOnClose() // it lacks what was sent
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
