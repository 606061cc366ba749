package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

// So many connections are kept for a target, and no more.
func TestTransport_MaxIdlePerTarget(t *testing.T) {
	alike(t, limits{idle: 2, header: time.Minute}, func(t *testing.T, rt transport) {
		var together sync.WaitGroup
		together.Add(5)
		closed := make(chan struct{}, 5)
		b := newBackend(t, func(p *peer) {
			p.request()
			together.Done()
			together.Wait()
			p.say(ok)
			p.gone()
			closed <- struct{}{}
		})
		var asking sync.WaitGroup
		for range 5 {
			asking.Go(func() { get(t, rt, b.url) })
		}
		asking.Wait()
		for range 3 {
			wait(t, closed, "close")
		}
		require.Empty(t, closed)
		rt.CloseIdleConnections()
		for range 2 {
			wait(t, closed, "close")
		}
	})
}

func TestTransport_KeepsNone(t *testing.T) {
	rt := &upstream.Transport{MaxIdlePerTarget: -1}
	b := newBackend(t, always(ok))
	for range 3 {
		require.Equal(t, "ok", get(t, rt, b.url))
	}
	require.EqualValues(t, 3, b.conns.Load())
}

// A connection in use when the idle ones are closed is closed when it is not needed any more.
func TestTransport_CloseIdleConnectionsInUse(t *testing.T) {
	alike(t, usual, func(t *testing.T, rt transport) {
		closed := make(chan struct{})
		b := newBackend(t, func(p *peer) {
			always(ok)(p)
			close(closed)
		})
		res, err := rt.RoundTrip(newRequest(t, http.MethodGet, b.url, nil))
		require.NoError(t, err)
		rt.CloseIdleConnections()
		_, err = io.ReadAll(res.Body)
		require.NoError(t, err)
		wait(t, closed, "close")
	})
}

// Targets that answer over pipes, in a bubble.
func piped(t *testing.T, change func(*upstream.Transport)) (rt *upstream.Transport, open *atomic.Int64) {
	open = new(atomic.Int64)
	rt = &upstream.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		open.Add(1)
		go func() {
			always(ok)(newPeer(far))
			far.Close()
			open.Add(-1)
		}()
		return near, nil
	}}
	if change != nil {
		change(rt)
	}
	return rt, open
}

// What nobody needs is closed after the idle timeout, with no goroutine to wait for that.
func TestTransport_IdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt, open := piped(t, nil)
		for range 3 {
			get(t, rt, "http://a.example")
			get(t, rt, "http://b.example:8080")
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		require.EqualValues(t, 2, open.Load())
		time.Sleep(30*time.Second - 1)
		synctest.Wait()
		require.EqualValues(t, 2, open.Load())
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Zero(t, open.Load())
		get(t, rt, "http://a.example") // and once more
		time.Sleep(100 * time.Second)
		synctest.Wait()
		require.Zero(t, open.Load())
	})
}

// A connection that the timer has not come across yet is not used either.
func TestTransport_IdleForTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt, open := piped(t, func(rt *upstream.Transport) { rt.IdleTimeout = 16 * time.Second })
		get(t, rt, "http://a.example")
		time.Sleep(16*time.Second - 1)
		get(t, rt, "http://b.example") // the timer comes in a nanosecond, and then a second after that
		time.Sleep(time.Nanosecond)
		get(t, rt, "http://a.example")
		var info httptrace.GotConnInfo
		trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { info = i }}
		time.Sleep(16*time.Second - 1 + 500*time.Millisecond)
		ctx := httptrace.WithClientTrace(t.Context(), trace)
		ask(t, rt, newRequest(t, http.MethodGet, "http://a.example", nil).WithContext(ctx))
		require.False(t, info.Reused)
		rt.CloseIdleConnections()
		synctest.Wait()
		require.Zero(t, open.Load())
	})
}

// A connection is used until it has its own age and no longer, and is closed then unless a request
// runs on it.
func TestTransport_MaxAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ages := []time.Duration{40 * time.Second, 10 * time.Second, 25 * time.Second, 0}
		rt, open := piped(t, func(rt *upstream.Transport) {
			rt.IdleTimeout, rt.HeaderTimeout = -1, -1
			rt.MaxAge = func() time.Duration {
				age := ages[0]
				ages = ages[1:]
				return age
			}
		})
		begin := time.Now()
		for _, host := range []string{"a", "b", "c", "d"} {
			get(t, rt, "http://"+host+".example")
		}
		require.EqualValues(t, 4, open.Load())
		for _, tt := range []struct {
			at   time.Duration
			open int
		}{{10*time.Second - 1, 4}, {11 * time.Second, 3}, {25*time.Second - 1, 3}, {26 * time.Second, 2},
			{40*time.Second - 1, 2}, {41 * time.Second, 1}, {time.Hour, 1}} {
			time.Sleep(time.Until(begin.Add(tt.at)))
			synctest.Wait()
			require.EqualValues(t, tt.open, open.Load(), tt.at)
		}
		rt.CloseIdleConnections()
	})
}

// Connections whose ages end one after the other are closed together, since each look costs as much
// as there are connections; so are those that come back shortly before.
func TestTransport_MaxAgeTogether(t *testing.T) {
	for name, idle := range map[string]time.Duration{"no idle timeout": -1, "long": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const conns = 200
				var mu sync.Mutex
				closed := make(map[time.Time]int)
				age := 10 * time.Second
				rt := &upstream.Transport{IdleTimeout: idle, MaxAge: func() time.Duration {
					age += 10 * time.Millisecond
					return age
				}, DialContext: func(context.Context, string, string) (net.Conn, error) {
					near, far := net.Pipe()
					go func() {
						always(ok)(newPeer(far))
						far.Close()
						mu.Lock()
						defer mu.Unlock()
						closed[time.Now()]++
					}()
					return near, nil
				}}
				hosts := make([]string, conns)
				for i := range hosts {
					hosts[i] = fmt.Sprintf("http://%d.example", i)
					get(t, rt, hosts[i])
				}
				time.Sleep(10 * time.Second)
				for _, host := range hosts {
					get(t, rt, host)
				}
				time.Sleep(4 * time.Second)
				synctest.Wait()
				sum := 0
				for _, n := range closed {
					sum += n
				}
				require.Equal(t, conns, sum)
				require.Less(t, len(closed), 10)
			})
		})
	}
}

// A connection in use outlives its age, and ends with its response. One that the timer has not come
// across yet is not used either.
func TestTransport_MaxAgeInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt, open := piped(t, func(rt *upstream.Transport) {
			rt.MaxAge = func() time.Duration { return 10 * time.Second }
		})
		res, err := rt.RoundTrip(newRequest(t, http.MethodGet, "http://a.example", nil))
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.EqualValues(t, 1, open.Load())
		_, err = io.ReadAll(res.Body)
		require.NoError(t, err)
		res.Body.Close()
		synctest.Wait()
		require.Zero(t, open.Load())

		get(t, rt, "http://a.example")
		time.Sleep(10*time.Second - 1)
		get(t, rt, "http://a.example")
		require.EqualValues(t, 1, open.Load())
		time.Sleep(time.Nanosecond)
		var info httptrace.GotConnInfo
		trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { info = i }}
		ctx := httptrace.WithClientTrace(t.Context(), trace)
		ask(t, rt, newRequest(t, http.MethodGet, "http://a.example", nil).WithContext(ctx))
		require.False(t, info.Reused)
		rt.CloseIdleConnections()
		synctest.Wait()
		require.Zero(t, open.Load())
	})
}

// The header's limit begins with the end of the request, is a little more than it says, and ends
// with the header.
func TestTransport_HeaderTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const delay = 50 * time.Second
		rt := &upstream.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				p := newPeer(far)
				for {
					req := p.request()
					switch {
					case req == nil:
						far.Close()
						return
					case req.URL.Path == "/quick":
						p.say(empty)
						continue
					case req.URL.Path == "/silent":
						p.gone()
						return
					}
					time.Sleep(delay)
					p.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
					time.Sleep(10 * delay)
					p.say("ok")
				}
			}()
			return near, nil
		}}
		for range 3 {
			require.Equal(t, "ok", get(t, rt, "http://a.example"))
			get(t, rt, "http://a.example/quick") // leaves its deadline behind
			r, w := io.Pipe()
			go func() {
				for range 5 {
					io.WriteString(w, "slow")
					time.Sleep(delay)
				}
				w.Close()
			}()
			_, body := ask(t, rt, newRequest(t, http.MethodPost, "http://a.example", r))
			require.Equal(t, "ok", body)
		}
		for _, body := range []io.ReadCloser{nil, bodyOf("four")} {
			start := time.Now()
			_, err := rt.RoundTrip(newRequest(t, http.MethodPost, "http://a.example/silent", body))
			e, ok := errors.AsType[*upstream.Error](err)
			require.True(t, ok && e.Stage == upstream.StageHeaderTimeout, "%v", err)
			took := time.Since(start)
			require.True(t, took >= time.Minute && took < 62*time.Second, took)
		}
		rt.CloseIdleConnections()
	})
}
