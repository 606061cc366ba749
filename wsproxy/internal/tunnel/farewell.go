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

// A Farewell says how to ask tunnels to end.
type Farewell struct {
	// Code is the status code of the close frames, such as 1001 (going away) or 1012 (service
	// restart). 0 means close frames without a code. The code is not checked: see RFC 6455 section
	// 7.4 for those that may be sent.
	Code uint16

	// Text is the reason in the close frames. Bytes that are not UTF-8 are left out. A text of more
	// than 123 octets is cut between characters. Without a Code the text is not sent.
	Text string

	// By is the reason that [End] reports, unless a side had ended before. 0 means Closed.
	By Reason

	// Window is the time over which [Ask] spreads its requests to many tunnels: each tunnel is
	// asked at a random moment of its share of the window. Zero or negative means all at once.
	// Tunnel.CloseFrame ignores it.
	Window time.Duration
}

// CloseFrame asks both sides of a WebSocket to end. Each side gets a close frame at the next frame
// boundary, which may be between two fragments of a message. The close frame to the backend is
// masked. Nothing else is written to that side afterwards. A side that already got a close frame
// from the other side gets no second one. When a side has answered with its own close frame, or has
// ended, it gets the end of stream. A side that does not read or answer delays only its own end. At
// deadline both connections are cut. A zero deadline means none.
//
// CloseFrame returns at once. A later call may set an earlier deadline and changes nothing else. A
// tunnel without Options.WebSocket is cut at once.
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

// frame returns the close frame. Frames to a server are masked (RFC 6455 section 5.3).
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

// cutText returns as much of s as a close frame may carry: valid UTF-8, cut between characters.
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

// An Asked is a connection that can be asked to end: a [Tunnel], or one whose bytes somebody else
// moves. CloseFrame returns at once. Ended returns a channel that is closed at the end.
type Asked interface {
	CloseFrame(f Farewell, deadline time.Time)
	Ended() <-chan struct{}
}

// Ask asks the given tunnels to end, spread over f.Window. It returns when each one was asked or
// has ended, or when ctx ends. It cuts no tunnel and starts no goroutine.
func Ask[T Asked](ctx context.Context, f Farewell, tunnels ...T) {
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

// moment returns when to ask the i-th of n tunnels: at a random moment of the i-th of n equal
// shares of the window.
func (f *Farewell) moment(i, n int) time.Duration {
	share := f.Window / time.Duration(n)
	if share <= 0 {
		return 0
	}
	return time.Duration(i)*share + rand.N(share)
}
