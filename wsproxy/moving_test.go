package wsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// A wsFrame is a short WebSocket frame as it stands on the wire.
type wsFrame struct {
	head    byte
	masked  bool
	payload []byte // unmasked
}

// closing reads the code and the reason of a close frame.
func (f wsFrame) closing(t testing.TB) (code uint16, reason string) {
	t.Helper()
	require.Equal(t, byte(0x88), f.head, "a close frame")
	return binary.BigEndian.Uint16(f.payload), string(f.payload[2:])
}

func readFrame(t testing.TB, r io.Reader) wsFrame {
	t.Helper()
	var head [2]byte
	_, err := io.ReadFull(r, head[:])
	require.NoError(t, err)
	f := wsFrame{head: head[0], masked: head[1]&0x80 != 0}
	var mask [4]byte
	if f.masked {
		_, err = io.ReadFull(r, mask[:])
		require.NoError(t, err)
	}
	f.payload = make([]byte, head[1]&0x7f)
	_, err = io.ReadFull(r, f.payload)
	require.NoError(t, err)
	for i := range f.payload {
		f.payload[i] ^= mask[i%4]
	}
	return f
}

// maskedFrame is a frame from a client, under the mask of all zeros.
func maskedFrame(head byte, payload string) string {
	return string([]byte{head, 0x80 | byte(len(payload)), 0, 0, 0, 0}) + payload
}

// agree answers a close frame, and closes when the other side has (RFC 6455 section 7.1.1).
func (w *wire) agree(code string) {
	w.t.Helper()
	w.send(maskedFrame(0x88, code))
	w.expectEnd()
	require.NoError(w.t, w.Conn.Close())
}

// A duo is a proxy in front of two backends that speak frames, with what they received.
type duo struct {
	proxy  *wsproxy.Proxy
	front  *httptest.Server
	ends   chan wsproxy.TunnelRecord
	frames map[string]chan wsFrame // by backend
}

func newDuo(t *testing.T, limits wsproxy.TunnelLimits) *duo {
	t.Helper()
	d := &duo{ends: make(chan wsproxy.TunnelRecord, 10), frames: map[string]chan wsFrame{}}
	var targets []balancer.Target
	for _, id := range []string{"a", "b"} {
		frames := make(chan wsFrame, 10)
		d.frames[id] = frames
		targets = append(targets, rawBackend(t, id, func(conn net.Conn, r *bufio.Reader, req *http.Request) {
			io.WriteString(conn, accepting(req))
			for {
				if _, err := r.Peek(2); err != nil {
					return
				}
				f := readFrame(t, r)
				frames <- f
				conn.Write(append([]byte{f.head, byte(len(f.payload))}, f.payload...)) // a close frame is answered so
			}
		}))
	}
	pool, err := balancer.New(balancer.Config{Targets: targets, Picker: &balancer.RoundRobin{}})
	require.NoError(t, err)
	d.proxy = &wsproxy.Proxy{Pool: pool, Tunnels: limits, Trace: &wsproxy.Trace{
		Tunnel: func(r wsproxy.TunnelRecord) { d.ends <- r },
	}}
	d.front = serve(t, d.proxy)
	return d
}

// both opens a tunnel to each backend, and passes a frame.
func (d *duo) both(t *testing.T) (a, b *wire) {
	t.Helper()
	open := func(id string) *wire {
		c := dial(t, d.front)
		c.open()
		c.send(maskedFrame(0x81, "hello"))
		require.Equal(t, "hello", string(readFrame(t, c).payload))
		require.Equal(t, "hello", string(wait(t, d.frames[id], "the backend's frame").payload))
		return c
	}
	a = open("a") // in turn
	b = open("b")
	return a, b
}

func TestProxy_W6_MovingTargetSaysGoodbye(t *testing.T) {
	tests := map[string]struct {
		limits wsproxy.TunnelLimits
		code   uint16
		reason string
	}{
		"defaults": {wsproxy.TunnelLimits{Window: -1}, 1012, ""},
		"by choice": {wsproxy.TunnelLimits{Window: time.Millisecond, CloseCode: 4001, CloseReason: "moving house"}, 4001,
			"moving house"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := newDuo(t, tt.limits)
			a, b := d.both(t)
			member(t, d.proxy.Pool, "a").SetAdmin(balancer.Moving)

			toClient := readFrame(t, a)
			code, reason := toClient.closing(t)
			require.Equal(t, tt.code, code)
			require.Equal(t, tt.reason, reason)
			require.False(t, toClient.masked)
			toBackend := wait(t, d.frames["a"], "the close frame")
			code, reason = toBackend.closing(t)
			require.Equal(t, tt.code, code)
			require.Equal(t, tt.reason, reason)
			require.True(t, toBackend.masked)

			a.agree("\x03\xf4")
			end := wait(t, d.ends, "the end")
			require.Equal(t, "moved", end.EndedBy)
			require.Equal(t, "a", end.Target)
			idleMember(t, d.proxy.Pool, "a")

			b.send(maskedFrame(0x81, "still here")) // removing one target touches no other tunnel
			require.Equal(t, "still here", string(readFrame(t, b).payload))
		})
	}
}

// Who comes back as ready before a tunnel's turn keeps the tunnel.
func TestProxy_W6_ReadyAgainKeepsTunnels(t *testing.T) {
	d := newDuo(t, wsproxy.TunnelLimits{Window: farAway})
	a, _ := d.both(t)
	m := member(t, d.proxy.Pool, "a")
	for range 3 {
		m.SetAdmin(balancer.Moving)
		m.SetAdmin(balancer.Ready)
	}
	a.send(maskedFrame(0x81, "still here"))
	require.Equal(t, "still here", string(readFrame(t, a).payload))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, d.proxy.Shutdown(ctx), context.Canceled)
}

// sooner is a context that ends later than it says, so that a slow machine keeps its word, too.
type sooner struct {
	context.Context
	deadline time.Time
}

func (s sooner) Deadline() (time.Time, bool) { return s.deadline, true }

func TestProxy_W6_ShutdownSaysGoodbye(t *testing.T) {
	t.Parallel() // it waits
	d := newDuo(t, wsproxy.TunnelLimits{})
	a, b := d.both(t)
	// Half of the time that is left is the window, which would else be thirty seconds: too many for
	// the second one.
	ctx, cancel := context.WithTimeout(t.Context(), 14*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- d.proxy.Shutdown(sooner{ctx, time.Now().Add(4 * time.Second)}) }()
	for _, c := range []*wire{a, b} {
		code, _ := readFrame(t, c).closing(t)
		require.EqualValues(t, 1001, code)
		c.agree("\x03\xe9")
	}
	require.NoError(t, wait(t, done, "Shutdown"))
	require.Equal(t, "shutdown", wait(t, d.ends, "the first end").EndedBy)
	require.Equal(t, "shutdown", wait(t, d.ends, "the second end").EndedBy)
}

// A response that keeps its client waiting does not outlive the target's way down.
func TestProxy_S22_DownCutsResponsesUnderWay(t *testing.T) {
	for name, headers := range map[string]http.Header{
		"known length":       {"Content-Length": {"100"}},
		"unknown length":     {},
		"server-sent events": {"Content-Type": {"text/event-stream"}},
	} {
		t.Run(name, func(t *testing.T) {
			gone := make(chan struct{})
			b := newBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
				maps.Copy(w.Header(), headers)
				io.WriteString(w, "first")
				http.NewResponseController(w).Flush()
				<-r.Context().Done()
				close(gone)
			})
			pool, _ := newPool(t, b.target())
			records := make(chan wsproxy.Record, 1)
			front := serve(t, &wsproxy.Proxy{Pool: pool, Trace: &wsproxy.Trace{
				Done: func(_ *http.Request, rec wsproxy.Record) { records <- rec },
			}})
			res, err := http.Get(front.URL)
			require.NoError(t, err)
			defer res.Body.Close()
			first := make([]byte, 5)
			_, err = io.ReadFull(res.Body, first)
			require.NoError(t, err)

			member(t, pool, "a").SetAdmin(balancer.Down)
			_, err = io.ReadAll(res.Body)
			require.Error(t, err, "a cut response must not look complete")
			wait(t, gone, "the backend's end of the request")
			require.ErrorContains(t, wait(t, records, "the record").Err, "the target is down")
			idleMember(t, pool, "a")
		})
	}
}

// What a target that is down answers at once is an answer; what it goes on sending is cut.
func TestProxy_S22_DownLetsWhatIsAtHandPass(t *testing.T) {
	for name, tt := range map[string]struct {
		header http.Header
		size   int
		whole  bool
	}{
		"known length":   {http.Header{"Content-Length": {"5"}}, 5, true},
		"unknown length": {http.Header{}, 5, true},
		"events":         {http.Header{"Content-Type": {"text/event-stream"}}, 5, true},
		"long":           {http.Header{}, 8 << 20, false},
	} {
		t.Run(name, func(t *testing.T) {
			var pool *balancer.Pool
			b := newBackend(t, "a", func(w http.ResponseWriter, _ *http.Request) {
				member(t, pool, "a").SetAdmin(balancer.Down)
				maps.Copy(w.Header(), tt.header)
				w.Write(bytes.Repeat([]byte("x"), tt.size))
			})
			pool, _ = newPool(t, b.target())
			res, err := http.Get(serve(t, &wsproxy.Proxy{Pool: pool, Logger: noLog}).URL)
			require.NoError(t, err)
			defer res.Body.Close()
			require.Equal(t, http.StatusOK, res.StatusCode)
			body, err := io.ReadAll(res.Body)
			if tt.whole {
				require.NoError(t, err)
				require.Len(t, body, tt.size)
			} else {
				require.Error(t, err, "a cut response must not look complete")
				require.Less(t, len(body), tt.size)
			}
			idleMember(t, pool, "a")
		})
	}
}
