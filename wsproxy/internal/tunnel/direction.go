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
	back     *direction // the other one
	early    []byte
	written  int64        // bytes of src written to dst
	moved    atomic.Int64 // when a byte last moved, in nanoseconds since the start

	// Guarded by t.mu.
	busy   bool // a Write or a CloseWrite to dst is under way
	mute   bool // what comes from src is dropped
	said   bool // a close frame of ours went to dst
	shut   bool // dst was told the end of stream
	eof    bool // src has ended
	frames frames

	leaving  bool          // the end of src was seen, behind what it has sent
	blind    bool          // it cannot be seen
	brokenAt time.Duration // when src was seen to be broken; negative: it was not
}

// begin starts the direction: src is parked if it has said nothing yet.
func (d *direction) begin() {
	if p, ok := d.src.reader.(parker); ok && len(d.early) == 0 && p.park() {
		return
	}
	go d.run()
}

// run moves bytes until src ends or is parked; the direction is somebody else's then.
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

// end is the last that is done for a direction.
func (d *direction) end(err error) {
	d.ended(err)
	d.t.exit()
}

// deliver writes p to dst, or drops it when dst takes nothing any more. While a close frame
// waits for its place it writes one frame at a time.
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

// take returns how much of p is to be written now; 0 means that all of p was dropped.
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

// takePayload is take for n octets of payload, or of what are no frames, that nobody has looked at.
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

// admit reports whether dst is to get what was read. t.mu is held.
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

// wrote notes the end of a write of n octets.
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
	if err != nil || t.farewell != nil || d.src.quiet || d.dst.dead { // dst's end waits for this write
		t.react()
	}
}

// failedWrite notes that dst takes nothing any more. What it has sent before is still read: it
// is closed when it has been silent. t.mu is held.
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

// ended notes that nothing more comes from src.
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
		d.back.mute = true // src is dead, there is no use in writing to it
		d.back.shut = true
	}
	d.src.dead = clean && d.back.busy && isDead(below(d.src.conn))
	if !t.cutting && !d.src.closed && (!clean || d.src.reset) { // a write may have been told of a reset
		d.dst.abortOnClose()
	}
	t.react()
}

// noteEnd notes that src has sent its end of stream. t.mu is held.
func (d *direction) noteEnd() {
	if d.src == &d.t.client {
		d.t.note(ClientClosed, nil)
	} else {
		d.t.note(BackendClosed, nil)
	}
}

// react starts what this direction's state asks for. t.mu is held.
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
		d.busy, d.mute, d.shut = true, true, true
		d.t.running++
		if d.eof && d.dst.abort {
			go d.runAbort()
		} else {
			go d.runCloseWrite()
		}
	}
}

// runAbort resets dst, because src broke: what was sent is not complete, and must not look so. What
// was written to dst before goes out first, as long as dst takes it.
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

// hushDst makes dst end when it has been silent for a while. t.mu is held.
func (d *direction) hushDst() {
	d.dst.quiet = true
	d.dst.quietSince = d.t.now()
}

// checkSilence closes src if it is to be closed when silent and has been silent long enough;
// else it returns how much of that time is left. t.mu is held.
func (d *direction) checkSilence(now time.Duration) time.Duration {
	if !d.src.quiet || d.src.closed || d.eof {
		return never
	}
	if d.busy {
		return silence // what was read last is still on its way
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

// useful reports whether bytes that come from src can still matter. t.mu is held.
func (d *direction) useful() bool {
	if d.eof {
		return false
	}
	return !d.mute || d.t.farewell != nil && !d.frames.closed()
}

func (d *direction) touch() { d.moved.Store(int64(d.t.now())) }

func (d *direction) lastByte() time.Duration { return time.Duration(d.moved.Load()) }
