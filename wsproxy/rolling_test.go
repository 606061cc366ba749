package wsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/soaktest"
)

// A deployment is a list of targets that changes behind a proxy, under the load of clients that
// stay.
type deployment struct {
	t        *testing.T
	registry *health.Registry
	front    *httptest.Server
	list     []*backend
	made     int

	mu     sync.Mutex
	yields map[string]bool // IDs of the targets whose sessions may move

	answered, echoed       atomic.Int64
	moved, goodbyes, heard atomic.Int64 // sessions, close frames to clients and to backends
	tunnels                atomic.Int64 // ended as moved
}

var rollingLimits = wsproxy.TunnelLimits{Window: 20 * time.Millisecond}

var visitors = int64(soaktest.Times(20, 100)) // of either kind

func newDeployment(t *testing.T, targets int, limits wsproxy.TunnelLimits) *deployment {
	d := &deployment{t: t, yields: map[string]bool{}}
	for range targets {
		d.list = append(d.list, d.newBackend())
	}
	pool, err := balancer.New(balancer.Config{Targets: d.targets()})
	require.NoError(t, err)
	limits.Handshake = patience
	d.registry = &health.Registry{Pool: pool, Interval: -1, Logger: slog.New(slog.DiscardHandler)}
	d.front = serve(t, &wsproxy.Proxy{
		Pool: pool, Policy: lbCookie(t, stickiness.LBCookieOptions{}), Tunnels: limits,
		Upstream: wsproxy.Upstream{DialTimeout: patience}, // for a machine that has more to do
		Trace:    &wsproxy.Trace{Tunnel: d.ended},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.registry.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	require.NoError(t, d.registry.Ready(t.Context()))
	return d
}

// targets returns those in the list.
func (d *deployment) targets() []balancer.Target {
	var targets []balancer.Target
	for _, b := range d.list {
		targets = append(targets, b.target())
	}
	return targets
}

func (d *deployment) newBackend() *backend {
	d.made++
	return newBackend(d.t, "n"+strconv.Itoa(d.made), func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			io.WriteString(w, "hello")
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			d.t.Error(err)
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * patience))
		io.WriteString(conn, accepting(r, "Backend: "+w.Header().Get("Backend")))
		if err := d.echoFrames(conn, rw.Reader); err != nil && !errors.Is(err, io.EOF) {
			d.t.Errorf("a backend's side of a WebSocket: %v", err)
		}
	})
}

// echoFrames sends back each frame, in two parts, to the end.
func (d *deployment) echoFrames(conn net.Conn, r *bufio.Reader) error {
	for {
		f, err := longFrame(r)
		if err != nil {
			return err
		}
		if f.head == 0x88 && bytes.HasPrefix(f.payload, []byte("\x03\xf4")) {
			d.heard.Add(1)
		}
		if err := writeInParts(conn, frameBytes(f.head, false, f.payload)); err != nil {
			return err
		}
		if f.head == 0x88 {
			conn.(*net.TCPConn).CloseWrite()
			_, err := io.Copy(io.Discard, r)
			return err
		}
	}
}

func (d *deployment) ended(r wsproxy.TunnelRecord) {
	switch r.EndedBy {
	case "moved":
		d.tunnels.Add(1)
		if !d.mayYield(r.Target) || r.ClientCode != 1012 || r.BackendCode != 1012 {
			d.t.Errorf("a tunnel of %s was moved, with the codes %d and %d", r.Target, r.ClientCode, r.BackendCode)
		}
	case "client closed", "shutdown": // the test is over
	default:
		d.t.Errorf("a tunnel of %s ended: %s, %v", r.Target, r.EndedBy, r.EndErr)
	}
}

func (d *deployment) mayYield(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.yields[id]
}

// visit asks again and again in one session.
func (d *deployment) visit(c *client, stop <-chan struct{}) {
	for bound := ""; running(stop, time.Duration(rand.IntN(200))*time.Millisecond); {
		res, err := c.Get(c.url)
		if err != nil {
			d.t.Errorf("a request was lost: %v", err)
			return
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK || string(body) != "hello" {
			d.t.Errorf("a request was lost: %v, %d, %q", err, res.StatusCode, body)
			return
		}
		d.answered.Add(1)
		bound = d.follow(bound, res.Header.Get("Backend"))
	}
}

// follow notes where a session is now, and returns that.
func (d *deployment) follow(bound, now string) string {
	if bound != "" && bound != now {
		d.moved.Add(1)
		if !d.mayYield(bound) {
			d.t.Errorf("a session moved from %s, which is to keep it", bound)
		}
	}
	return now
}

// running waits, and reports whether stop is open yet.
func running(stop <-chan struct{}, pause time.Duration) bool {
	select {
	case <-stop:
		return false
	case <-time.After(pause):
		return true
	}
}

// chat keeps a WebSocket open in one session.
func (d *deployment) chat(cookies string, stop <-chan struct{}) {
	bound := ""
	for running(stop, 0) {
		conn, err := net.Dial("tcp", d.front.Listener.Addr().String())
		if err != nil {
			d.t.Error(err)
			return
		}
		conn.SetDeadline(time.Now().Add(10 * patience))
		r := bufio.NewReader(conn)
		io.WriteString(conn, upgrade("Cookie: "+cookies))
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
			d.t.Errorf("a WebSocket was not opened: %v, %+v", err, res)
			conn.Close()
			return
		}
		bound = d.follow(bound, res.Header.Get("Backend"))
		for _, c := range res.Cookies() {
			cookies = c.Name + "=" + c.Value
		}
		err = d.talk(conn, r, stop)
		conn.Close()
		if err != nil {
			d.t.Errorf("a WebSocket with %s: %v", bound, err)
			return
		}
	}
}

// talk sends frames and reads them back, to the end. It returns nil after a proper one, and when
// the test stops.
func (d *deployment) talk(conn net.Conn, r *bufio.Reader, stop <-chan struct{}) error {
	for running(stop, time.Duration(rand.IntN(200))*time.Millisecond) {
		message := bytes.Repeat([]byte{'a' + byte(rand.IntN(26))}, 1+rand.IntN(3000))
		if err := writeInParts(conn, frameBytes(0x82, true, message)); err != nil {
			return err
		}
		f, err := longFrame(r)
		switch {
		case err != nil:
			return err
		case f.head == 0x82 && bytes.Equal(f.payload, message):
			d.echoed.Add(1)
		case f.head == 0x88 && bytes.Equal(f.payload, []byte("\x03\xf4")):
			d.goodbyes.Add(1)
			io.WriteString(conn, maskedFrame(0x88, "\x03\xf4"))
			_, err := io.Copy(io.Discard, r)
			return err
		default:
			return errors.New("an odd frame came: " + strconv.Quote(string(f.payload)))
		}
	}
	return nil
}

func frameBytes(head byte, masked bool, payload []byte) []byte {
	out := []byte{head, byte(len(payload))}
	if len(payload) > 125 {
		out = binary.BigEndian.AppendUint16([]byte{head, 126}, uint16(len(payload)))
	}
	if masked {
		out[1] |= 0x80
		out = append(out, 0, 0, 0, 0)
	}
	return append(out, payload...)
}

// writeInParts gives whoever might cut in between an opportunity.
func writeInParts(w io.Writer, b []byte) error {
	half := rand.IntN(len(b))
	if _, err := w.Write(b[:half]); err != nil {
		return err
	}
	time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
	_, err := w.Write(b[half:])
	return err
}

// longFrame reads a frame of up to 64 KiB.
func longFrame(r io.Reader) (wsFrame, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return wsFrame{}, err
	}
	f := wsFrame{head: head[0], masked: head[1]&0x80 != 0}
	size := int(head[1] & 0x7f)
	rest := 0
	if size == 126 {
		rest += 2
	}
	if f.masked {
		rest += 4
	}
	more := make([]byte, rest)
	if _, err := io.ReadFull(r, more); err != nil {
		return wsFrame{}, err
	}
	if size == 126 {
		size, more = int(binary.BigEndian.Uint16(more)), more[2:]
	}
	f.payload = make([]byte, size)
	if _, err := io.ReadFull(r, f.payload); err != nil {
		return wsFrame{}, err
	}
	for i := range f.payload {
		if f.masked {
			f.payload[i] ^= more[i%4]
		}
	}
	return f, nil
}

// replace takes the oldest target out of the list and puts a new one into it, and returns when the
// old one is gone. Before that, the list flaps.
func (d *deployment) replace(flaps int) {
	t := d.t
	old, before := d.list[0], d.targets()
	d.list = append(d.list[1:], d.newBackend())
	for range flaps {
		for _, list := range [][]balancer.Target{d.targets(), before} {
			require.NoError(t, d.registry.Replace(list, health.Drain{Grace: time.Hour}))
			time.Sleep(50 * time.Millisecond)
		}
	}
	d.mu.Lock()
	d.yields[old.id] = true
	d.mu.Unlock()
	require.NoError(t, d.registry.Replace(d.targets(), health.Drain{Grace: 20 * time.Millisecond, Limit: patience}))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, d.registry.Settled(ctx))
	old.stop()
}

// roll replaces all targets, round after round, under load.
func (d *deployment) roll(rounds, flaps int) {
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range visitors {
		c := newClient(d.t, d.front)
		clients.Go(func() { d.visit(c, stop) })
		clients.Go(func() { d.chat("", stop) })
	}
	t, pool := d.t, d.registry.Pool
	require.Eventually(t, func() bool {
		var open int64
		for _, m := range pool.Members() {
			open += m.Tunnels()
		}
		return open == visitors && d.answered.Load() >= visitors
	}, patience, time.Millisecond)
	for range rounds {
		for range len(d.list) {
			d.replace(flaps)
		}
	}
	close(stop)
	clients.Wait()
	require.Eventually(t, func() bool {
		var load int64
		for _, m := range pool.Members() {
			load += m.Load()
		}
		return load == 0 && d.heard.Load() == d.tunnels.Load()
	}, patience, time.Millisecond)
	require.Empty(t, pool.Leaving())
	require.Len(t, pool.Members(), len(d.list))
	require.Equal(t, d.tunnels.Load(), d.goodbyes.Load(), "close frames to clients")
	require.GreaterOrEqual(t, d.tunnels.Load(), visitors, "all that were open at the beginning")
	t.Logf("%d targets replaced: %d requests answered, %d messages echoed, 0 lost; %d WebSockets ended by 1012, %d moves of sessions, none of a target that stays",
		rounds*len(d.list), d.answered.Load(), d.echoed.Load(), d.tunnels.Load(), d.moved.Load())
}

// A rolling replacement loses nothing: no request, no session of a target that stays, and no frame
// of a WebSocket, each of which ends with its own target's leave and with nobody else's.
func TestProxy_W6_RollingReplacement(t *testing.T) {
	t.Parallel()
	newDeployment(t, 5, rollingLimits).roll(soaktest.Times(1, 3), 0)
}

// The same while the list flaps, as that of a discovery does which sees old and new answers in
// turn.
func TestProxy_W6_RollingReplacementOfAFlappingList(t *testing.T) {
	t.Parallel()
	newDeployment(t, 5, rollingLimits).roll(soaktest.Times(1, 3), soaktest.Times(2, 10))
}
