package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/stickylb/stickylb/examples/internal/redisserver"
)

// replace sets the backends of a frontend, as an operator's script would: at once.
func replace(redis *redisserver.Server, name string, urls ...string) {
	args := []string{"eval", `redis.call("del", KEYS[1]) return redis.call("rpush", KEYS[1], unpack(ARGV))`,
		"1", "frontend:" + name, "id"}
	redis.CLI(append(args, urls...)...)
}

// The list of a frontend changes while clients use it: nobody sees an error, and sessions stay with
// their backend while it is there, whatever its place.
func TestChanges_UnderTraffic(t *testing.T) {
	redis := startRedis(t)
	a, b, c := backend(t, "a").URL, backend(t, "b").URL, backend(t, "c").URL
	replace(redis, "site", a, b)
	one := start(t, redis)

	const sessions = 8
	var stopped atomic.Bool
	var served, onC, moved, failed atomic.Int64
	var clients sync.WaitGroup
	for range sessions {
		session := browser(t)
		last := getWith(t, session, one.http, "site", "/").body
		clients.Go(func() {
			for !stopped.Load() {
				got := getWith(t, session, one.http, "site", "/")
				served.Add(1)
				if got.status != http.StatusOK {
					failed.Add(1)
					continue
				}
				if got.body != last {
					moved.Add(1)
				}
				if last = got.body; last == "c" {
					onC.Add(1)
				}
			}
		})
	}
	defer clients.Wait()
	defer stopped.Store(true)
	for range 5 {
		replace(redis, "site", b, a)
		replace(redis, "site", a, "nonsense", b, c)
		replace(redis, "site", c, c, b, a)
	}
	require.Zero(t, moved.Load(), "order, additions and weights move nobody")
	require.Zero(t, onC.Load())
	replace(redis, "site", c)
	eventually(t, func() bool { return onC.Load() > 100 }, "sessions go where a backend is left")
	require.LessOrEqual(t, moved.Load(), int64(sessions), "each session has moved once")
	require.Zero(t, failed.Load())
}

// talking starts a backend that answers over a WebSocket with its name.
func talking(t *testing.T, name string) string {
	t.Helper()
	s := httptest.NewServer(websocket.Server{Handler: func(c *websocket.Conn) {
		for word := ""; websocket.Message.Receive(c, &word) == nil; {
			websocket.Message.Send(c, name+" "+word)
		}
	}})
	t.Cleanup(s.Close)
	return s.URL
}

// dial opens a WebSocket to a host.
func (b *instance) dial(t *testing.T, host string) *websocket.Conn {
	t.Helper()
	config, err := websocket.NewConfig("ws://"+b.http, "http://"+host)
	require.NoError(t, err)
	config.Location.Host = b.http
	config.Header = http.Header{}
	c, err := config.DialContext(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// A backend that is removed closes its WebSockets with 1012 (service restart), and no others.
func TestChanges_WebSockets(t *testing.T) {
	redis := startRedis(t)
	a, b := talking(t, "a"), talking(t, "b")
	one := start(t, redis)
	replace(redis, "*", a)
	onA := one.dial(t, "site")
	require.NoError(t, websocket.Message.Send(onA, "hi"))
	var word string
	require.NoError(t, websocket.Message.Receive(onA, &word))
	require.Equal(t, "a hi", word)

	replace(redis, "*", b)
	frame, err := onA.NewFrameReader() // the codecs hide the close frame
	require.NoError(t, err)
	require.EqualValues(t, websocket.CloseFrame, frame.PayloadType())
	code := make([]byte, 2)
	_, err = frame.Read(code)
	require.NoError(t, err)
	require.Equal(t, []byte{1012 >> 8, 1012 & 0xff}, code)

	onB := one.dial(t, "site")
	replace(redis, "*", talking(t, "c"), b)
	for i := range 20 {
		require.NoError(t, websocket.Message.Send(onB, fmt.Sprint(i)))
		require.NoError(t, websocket.Message.Receive(onB, &word))
		require.Equal(t, fmt.Sprint("b ", i), word)
	}
	redis.CLI("del", "frontend:*")
	frame, err = onB.NewFrameReader()
	require.NoError(t, err)
	require.EqualValues(t, websocket.CloseFrame, frame.PayloadType(), "the frontend is gone")
	eventually(t, func() bool { return one.get(t, "site", "/").status == http.StatusBadRequest }, "for all")
}

// A cookie binds a session at both instances, and at one virtual host only.
func TestSticky(t *testing.T) {
	redis := startRedis(t)
	urls := []string{backend(t, "a").URL, backend(t, "b").URL, backend(t, "c").URL}
	for _, site := range []string{"site", "other", "*.wild.net"} {
		replace(redis, site, urls...)
	}
	one, two := start(t, redis), start(t, redis)
	first := one.get(t, "site", "/")
	cookie, _, _ := strings.Cut(first.header.Get("Set-Cookie"), ";")
	require.NotEmpty(t, cookie)
	require.NotContains(t, cookie, "127.0.0.1")
	for range 10 {
		for _, b := range []*instance{one, two} {
			got := b.get(t, "site", "/", "Cookie", cookie)
			require.Equal(t, first.body, got.body)
			require.Empty(t, got.header["Set-Cookie"])
		}
	}
	require.NotEmpty(t, one.get(t, "other", "/", "Cookie", cookie).header["Set-Cookie"], "not bound there")
	wild := one.get(t, "a.wild.net", "/")
	cookie, _, _ = strings.Cut(wild.header.Get("Set-Cookie"), ";")
	require.Equal(t, wild.body, two.get(t, "b.wild.net", "/", "Cookie", cookie).body, "one frontend, one pool")
}
