package tunnel

import (
	"errors"
	"io"
	"sync/atomic"
	"time"
)

// direction moves bytes from one side to the other.
type direction struct {
	t        *Tunnel
	src, dst *side
	back     *direction // the opposite direction
	early    []byte
	written  int64        // bytes of src written to dst
	moved    atomic.Int64 // when a byte last moved, in nanoseconds since the start

	// Guarded by t.mu.
	busy   bool // a Write or a CloseWrite to dst is under way
	mute   bool // bytes from src are dropped
	said   bool // dst was sent a close frame of the tunnel's own
	shut   bool // dst was sent the end of stream
	eof    bool // src has ended
	frames frames

	leaving  bool          // src has ended, but its bytes are not all delivered
	blind    bool          // it cannot be seen whether src has ended
	brokenAt time.Duration // when src was found broken; negative: it is not
}

// begin starts the direction. If src has sent nothing yet, it is parked.
func (d *direction) begin() {
	if p, ok := d.src.reader.(parker); ok && len(d.early) == 0 && p.park() {
		return
	}
	go d.run()
}

// run moves bytes until src ends or is parked. After that another goroutine may run the direction.
func (d *direction) run() {
	d.deliver(d.early)
	d.early = nil
	for {
		p, err := d.src.reader.read()
		if err == errParked {
			return
		}
		d.deliver(p)
		more := len(p) == bufferSize
		d.src.reader.release()
		if s, ok := d.src.reader.(splicer); ok && more && err == nil {
			err = s.splice(d)
		}
		if err != nil {
			d.end(err)
			return
		}
	}
}

// end ends the direction. Nothing is done for it afterwards.
func (d *direction) end(err error) {
	d.ended(err)
	d.t.exit()
}

// endAtOnce is end for a goroutine that must not block: it leaves the end of the tunnel, which may
// block, to another goroutine.
func (d *direction) endAtOnce(err error) {
	d.ended(err)
	if d.t.leave() {
		go d.t.finish()
	}
}

// deliver writes p to dst, or drops it if dst takes nothing any more. While a close frame waits for
// the end of a frame, deliver writes one frame at a time.
func (d *direction) deliver(p []byte) {
	for len(p) > 0 {
		n := d.take(p)
		if n == 0 {
			return
		}
		d.write(p[:n])
		p = p[n:]
	}
}

// take returns how many bytes of p to write now. 0 means that all of p was dropped.
func (d *direction) take(p []byte) int {
	t := d.t
	d.touch()
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	if t.webSocket {
		n = d.frames.advance(p, t.farewell != nil && !d.mute)
	}
	if !d.admit() {
		return 0
	}
	return n
}

// takePayload is take for n octets that are not looked at: payload, or a stream that is not frames.
func (d *direction) takePayload(n int) bool {
	t := d.t
	d.touch()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.webSocket {
		d.frames.skip(n)
	}
	return d.admit()
}

// admit reports whether dst gets the bytes that were just read. t.mu is held.
func (d *direction) admit() bool {
	if d.mute {
		d.t.react() // src may have answered our close frame
		return false
	}
	d.busy = true
	return true
}

func (d *direction) write(p []byte) {
	d.t.watch()
	n, err := d.dst.conn.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	d.wrote(n, err)
}

// wrote records a finished write of n octets.
func (d *direction) wrote(n int, err error) {
	d.written += int64(n)
	d.touch()
	t := d.t
	t.mu.Lock()
	defer t.mu.Unlock()
	d.busy = false
	if err != nil {
		d.failedWrite(err)
	}
	if err != nil || t.farewell != nil || d.src.quiet || d.dst.dead { // the end of dst waits for this write
		t.react()
	}
}

// failedWrite records that dst takes nothing any more. Bytes that dst sent before are still read.
// dst is closed once it has been silent. t.mu is held.
func (d *direction) failedWrite(err error) {
	d.mute = true
	d.shut = true
	if d.t.cutting || d.dst.closed {
		return
	}
	d.t.note(d.dst.writeFailed, err)
	if isReset(err) {
		d.dst.reset = true
		if d.back.eof {
			d.src.abortOnClose()
		}
	}
	d.hushDst()
}

// ended records that nothing more comes from src.
func (d *direction) ended(err error) {
	t := d.t
	t.mu.Lock()
	defer t.mu.Unlock()
	d.eof = true
	clean := errors.Is(err, io.EOF)
	switch {
	case t.cutting || d.src.closed:
	case clean:
		d.noteEnd()
	default:
		t.note(d.src.readFailed, err)
		d.back.mute = true // src is dead, so writing to it is useless
		d.back.shut = true
	}
	d.src.dead = clean && d.back.busy && isDead(below(d.src.conn))
	if !t.cutting && !d.src.closed && (!clean || d.src.reset) { // a write may have reported a reset
		d.dst.abortOnClose()
	}
	t.react()
}

// noteEnd records that src has sent its end of stream. t.mu is held.
func (d *direction) noteEnd() {
	if d.src == &d.t.client {
		d.t.note(ClientClosed, nil)
	} else {
		d.t.note(BackendClosed, nil)
	}
}

// react starts what the state of the direction calls for. t.mu is held.
func (d *direction) react() {
	if d.busy || d.shut {
		return
	}
	polite := d.t.farewell != nil
	switch {
	case polite && !d.mute && !d.frames.closed() && d.frames.boundary():
		d.busy, d.mute, d.said = true, true, true
		d.t.running++
		go d.runFarewell()
	case d.eof && d.src.dead && d.back.busy:
	case d.eof, polite && (d.said || d.frames.closed()) && d.back.frames.closed():
		d.mute, d.shut = true, true
		d.closeDst()
	}
}

// closeDst resets dst, or passes the end of stream on to it. What may block gets a goroutine. t.mu
// is held.
func (d *direction) closeDst() {
	aborts := d.eof && d.dst.abort
	if p, ok := d.dst.conn.(parker); ok && !aborts {
		if _, quick := d.src.conn.(parker); quick && d.isLast() {
			return // finish closes both immediately, and all that dst has sent was read
		}
		if p.CloseWrite() != nil {
			d.hushDst()
		}
		return
	}
	d.busy = true
	d.t.running++
	if aborts {
		go d.runAbort()
	} else {
		go d.runCloseWrite()
	}
}

// isLast reports whether both sides have ended, and the tunnel ends with this direction. t.mu is
// held.
func (d *direction) isLast() bool { return d.eof && d.back.eof && d.t.running == 1 }

// runAbort resets dst because src broke: what dst got is incomplete and must not look complete.
// Bytes that were already written to dst go out first, as long as dst takes them.
func (d *direction) runAbort() {
	d.dst.drain()
	t := d.t
	t.mu.Lock()
	d.busy = false
	if !t.cutting && !d.dst.closed {
		t.closeSide(d.dst)
	}
	t.react()
	t.mu.Unlock()
	t.exit()
}

// runCloseWrite passes the end of stream on to dst.
func (d *direction) runCloseWrite() {
	d.t.watch()
	err := d.dst.closeWrite()
	t := d.t
	t.mu.Lock()
	d.busy = false
	if err != nil {
		d.hushDst()
	}
	t.react()
	t.mu.Unlock()
	t.exit()
}

// hushDst makes the tunnel close dst once dst has been silent for a while. t.mu is held.
func (d *direction) hushDst() {
	d.dst.quiet = true
	d.dst.quietSince = d.t.now()
}

// checkSilence closes src if it has to be closed when silent and has been silent long enough.
// Otherwise it returns how long that still takes. t.mu is held.
func (d *direction) checkSilence(now time.Duration) time.Duration {
	if !d.src.quiet || d.src.closed || d.eof {
		return never
	}
	if d.busy {
		return silence // the bytes that were read last are still being written
	}
	left := silence - (now - max(d.src.quietSince, d.lastByte()))
	if d.frames.closed() {
		left = 0 // nothing comes after a close frame (RFC 6455 section 5.5.1)
	}
	if left > 0 {
		return left
	}
	d.t.closeSide(d.src)
	return never
}

// useful reports whether bytes from src can still reach anybody or matter. t.mu is held.
func (d *direction) useful() bool {
	if d.eof {
		return false
	}
	return !d.mute || d.t.farewell != nil && !d.frames.closed()
}

func (d *direction) touch() { d.moved.Store(int64(d.t.now())) }

func (d *direction) lastByte() time.Duration { return time.Duration(d.moved.Load()) }
