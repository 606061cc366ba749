package underway_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

// A fleet has WebSockets at one member, in a bubble. Their Done takes a second.
type fleet struct {
	set     underway.Set
	clients []net.Conn
	servers []net.Conn
	began   time.Time

	mu   sync.Mutex
	ends []tunnel.End
}

// end returns the end of tunnel i, once its Done has returned.
func (f *fleet) end(i int) tunnel.End {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ends[i]
}

func newFleet(t *testing.T, n int) *fleet {
	t.Helper()
	a, _ := newPool(t, "a").Member("a")
	f := &fleet{ends: make([]tunnel.End, n), began: time.Now()}
	for i := range n {
		client, near := net.Pipe()
		server, far := net.Pipe()
		f.clients, f.servers = append(f.clients, client), append(f.servers, server)
		f.set.Start(a, tunnel.Side{Conn: near}, tunnel.Side{Conn: far}, tunnel.Options{
			WebSocket: true,
			Done: func(e tunnel.End) {
				time.Sleep(time.Second)
				f.mu.Lock()
				defer f.mu.Unlock()
				f.ends[i] = e
			},
		})
	}
	return f
}

// answer has the peers of tunnel i answer a close frame and close. It notes when the client got it.
func (f *fleet) answer(i int, when *time.Duration) {
	go func() {
		got := make([]byte, 200)
		if n, _ := f.clients[i].Read(got); n == 0 {
			return
		}
		*when = time.Since(f.began)
		f.clients[i].Write(closeFrame(binary.BigEndian.Uint16(got[2:]), true))
		io.Copy(io.Discard, f.clients[i])
		f.clients[i].Close()
	}()
	go func() {
		if n, _ := f.servers[i].Read(make([]byte, 200)); n == 0 {
			return
		}
		f.servers[i].Write(closeFrame(1000, false))
		io.Copy(io.Discard, f.servers[i])
		f.servers[i].Close()
	}()
}

// closeFrame returns a close frame with a status code. Its mask is zero.
func closeFrame(code uint16, masked bool) []byte {
	frame := []byte{0x88, 2}
	if masked {
		frame[1] |= 0x80
		frame = append(frame, 0, 0, 0, 0)
	}
	return binary.BigEndian.AppendUint16(frame, code)
}

func TestSet_W6_NothingToEnd(t *testing.T) {
	var s underway.Set
	require.NoError(t, s.Shutdown(t.Context()))
	require.NoError(t, s.Shutdown(t.Context()))
	require.NoError(t, s.Drain(t.Context(), tunnel.Farewell{}))
	require.NoError(t, s.Drain(cancelled(t), tunnel.Farewell{}), "there was nobody to cut")
}

// Drain asks all tunnels, refuses later ones, and waits for the Done of those, too.
func TestSet_W6_Drain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		when := make([]time.Duration, 2)
		for i := range when {
			f.answer(i, &when[i])
		}
		asked := make(chan []byte, 1)
		go func() { // the third one is silent, so that Drain waits
			got := make([]byte, 200)
			n, _ := f.clients[2].Read(got)
			asked <- got[:n]
		}()
		go io.Copy(io.Discard, f.servers[2])
		done := make(chan error, 1)
		go func() {
			done <- f.set.Drain(t.Context(), tunnel.Farewell{Code: 1001, By: tunnel.Shutdown, Window: time.Minute})
		}()
		time.Sleep(time.Hour) // all have been asked
		require.Equal(t, closeFrame(1001, false), <-asked)

		client, near := net.Pipe()
		_, far := net.Pipe()
		refused := make(chan tunnel.End)
		a, _ := newPool(t, "a").Member("a")
		f.set.Start(a, tunnel.Side{Conn: near}, tunnel.Side{Conn: far},
			tunnel.Options{Done: func(e tunnel.End) { refused <- e }})
		_, err := client.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		f.clients[2].Close()
		time.Sleep(time.Hour)
		require.NotZero(t, f.end(2), "the silent one has ended")
		require.Empty(t, done, "the refused one has not reported yet")
		require.Equal(t, tunnel.Shutdown, (<-refused).By)
		require.NoError(t, <-done)
		for i, at := range when {
			require.Equal(t, tunnel.Shutdown, f.end(i).By)
			require.Equal(t, uint16(1001), f.end(i).ClientCode)
			require.LessOrEqual(t, at, time.Minute)
		}
		require.GreaterOrEqual(t, max(when[0], when[1]), 20*time.Second, "spread over the window, in any order")
		require.Less(t, min(when[0], when[1]), 40*time.Second)
	})
}

// At ctx's end Drain cuts what is left: tunnels that did not answer and those that were not asked
// yet. Done has returned for all.
func TestSet_W6_DrainDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 4)
		when := make([]time.Duration, 4)
		f.answer(0, &when[0])
		for _, c := range f.servers[1:] {
			go io.Copy(io.Discard, c)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		err := f.set.Drain(ctx, tunnel.Farewell{Code: 1001, By: tunnel.Moved, Window: 4 * time.Minute})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 2*time.Minute+time.Second, time.Since(f.began), "a second for Done")
		for i := range f.clients {
			end := f.end(i)
			require.Equal(t, tunnel.Moved, end.By)
			require.LessOrEqual(t, end.Duration, 2*time.Minute)
		}
	})
}

// Shutdown asks nobody. When its ctx ends it cuts, and waits for Done. Two may wait at once.
func TestSet_W6_Shutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		done := make(chan error, 2)
		go func() { done <- f.set.Shutdown(context.Background()) }()
		go func() { done <- f.set.Shutdown(ctx) }()
		time.Sleep(time.Minute - 1)
		for i := range f.clients {
			require.Zero(t, f.end(i), "cut before ctx ended")
		}
		time.Sleep(2 * time.Nanosecond)
		synctest.Wait()
		for _, c := range f.clients {
			_, err := c.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
		}
		require.Empty(t, done, "Shutdown did not wait for Done")
		require.ElementsMatch(t, []error{nil, context.DeadlineExceeded}, []error{<-done, <-done})
		require.Equal(t, time.Minute+time.Second, time.Since(f.began))
		for i := range f.clients {
			require.Equal(t, tunnel.Shutdown, f.end(i).By)
		}
	})
}

// Without a deadline Shutdown lets tunnels end by themselves.
func TestSet_W6_ShutdownLetsTunnelsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		done := make(chan error, 1)
		go func() { done <- f.set.Shutdown(t.Context()) }()
		time.Sleep(time.Hour)
		go f.clients[0].Write([]byte("still moving"))
		got := make([]byte, len("still moving"))
		_, err := io.ReadFull(f.servers[0], got)
		require.NoError(t, err)
		require.Empty(t, done)
		require.NoError(t, f.clients[0].Close())
		require.NoError(t, <-done)
		require.Equal(t, tunnel.ClientClosed, f.end(0).By)
	})
}
