package tunnel

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"time"
	"unicode/utf8"
)

// A Farewell is how tunnels are asked to end.
type Farewell struct {
	// Code is the status code of the close frames, such as 1001 (going away) or 1012 (service
	// restart); 0 sends close frames without a code. It is written as it is: RFC 6455 section
	// 7.4 says which ones may be sent.
	Code uint16

	// Text is the reason given with the code. What is not UTF-8 is left out, and what is over
	// 123 octets is cut off between characters. Without a Code it is not sent.
	Text string

	// By is what the tunnels' ends report, unless a side had ended before; 0 is Closed.
	By Reason

	// Window is the time over which [Ask] spreads the farewells to many tunnels, each at a random
	// moment of its share of the window. Zero or less: all at once. Tunnel.CloseFrame ignores it.
	Window time.Duration
}

// CloseFrame asks both sides of a WebSocket to end: each is sent a close frame, masked towards
// the backend, as soon as what it was sent ends with a frame, between the fragments of a message
// too; nothing else is written to it after that. A side that was already sent a close frame by
// the other one gets no second one. When a side has answered with its own close frame (or has
// ended), it gets the end of stream. A stuck or silent peer delays only its own end: at deadline
// both connections are cut. A zero deadline sets none.
//
// CloseFrame returns at once. A later call may bring the deadline forward and changes nothing
// else. A tunnel without Options.WebSocket is cut at once.
func (t *Tunnel) CloseFrame(f Farewell, deadline time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cutting || t.ended {
		return
	}
	by := cmp.Or(f.By, Closed)
	if !t.webSocket {
		t.cut(by)
		return
	}
	if t.farewell == nil {
		t.farewell = &f
		t.note(by, nil)
	}
	if !deadline.IsZero() {
		t.limits.deadline = min(t.limits.deadline, t.now()+time.Until(deadline))
	}
	t.react()
}

// runFarewell writes the close frame to dst.
func (d *direction) runFarewell() {
	t := d.t
	frame := t.farewell.frame(d.dst == &t.backend)
	t.watch()
	_, err := d.dst.conn.Write(frame)
	t.mu.Lock()
	d.busy = false
	if err != nil {
		d.failedWrite(err)
	}
	t.react()
	t.mu.Unlock()
	t.exit()
}

// frame returns the close frame, masked if it goes to a server (RFC 6455 section 5.3).
func (f *Farewell) frame(masked bool) []byte {
	var body []byte
	if f.Code != 0 {
		body = binary.BigEndian.AppendUint16(nil, f.Code)
		body = append(body, cutText(f.Text)...)
	}
	frame := []byte{0x80 | opClose, byte(len(body))}
	if masked {
		var key [4]byte
		crand.Read(key[:])
		frame[1] |= 0x80
		frame = append(frame, key[:]...)
		for i := range body {
			body[i] ^= key[i%4]
		}
	}
	return append(frame, body...)
}

// cutText returns as much of s as a close frame holds and may hold: UTF-8, no half character.
func cutText(s string) string {
	s = strings.ToValidUTF8(s, "")
	if len(s) <= maxText {
		return s
	}
	n := maxText
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Ask asks the given tunnels to end, spread over f.Window. It returns when all were asked or
// have ended, or when ctx ends first, and cuts nobody. It runs on the caller's goroutine.
func Ask(ctx context.Context, f Farewell, tunnels ...*Tunnel) {
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, t := range tunnels {
		timer.Reset(time.Until(start.Add(f.moment(i, len(tunnels)))))
		select {
		case <-timer.C:
		case <-t.Ended():
		case <-ctx.Done():
			return
		}
		t.CloseFrame(f, time.Time{})
	}
}

// moment returns when the i-th of n tunnels is asked: the window is cut into n equal shares, and
// it is a random moment of the i-th.
func (f *Farewell) moment(i, n int) time.Duration {
	share := f.Window / time.Duration(n)
	if share <= 0 {
		return 0
	}
	return time.Duration(i)*share + rand.N(share)
}
