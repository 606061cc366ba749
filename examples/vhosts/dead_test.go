package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
)

// listenOn starts a backend on an address that was free a moment ago.
func listenOn(t *testing.T, address string, h http.Handler) {
	t.Helper()
	var l net.Listener
	eventually(t, func() (ok bool) {
		var err error
		l, err = net.Listen("tcp", address)
		return err == nil
	}, "the address is free")
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(s.Close)
}

// subscribed returns what is published on the channel "dead".
func subscribed(t *testing.T, address string) <-chan string {
	t.Helper()
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{address}, ForceSingleClient: true})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	messages := make(chan string, 100)
	dedicated, cancel := c.Dedicate()
	t.Cleanup(cancel)
	ready := make(chan struct{})
	dedicated.SetPubSubHooks(rueidis.PubSubHooks{
		OnSubscription: func(rueidis.PubSubSubscription) { close(ready) },
		OnMessage:      func(m rueidis.PubSubMessage) { messages <- m.Message },
	})
	require.NoError(t, dedicated.Do(context.Background(), dedicated.B().Subscribe().Channel("dead").Build()).Error())
	<-ready
	return messages
}

// unhealthy reports whether an instance counts a dead target of a site.
func (b *instance) unhealthy(t *testing.T, site string, n int) bool {
	t.Helper()
	return strings.Contains(getWith(t, client, b.admin, "", "/metrics").body,
		fmt.Sprintf("stickylb_targets{admin=\"ready\",health=\"unhealthy\",pool=%q} %d", site, n))
}

// Two instances on one Redis: a backend that one finds dead gets no requests from the other.
func TestDead_InstancesTellEachOther(t *testing.T) {
	redis := startRedis(t)
	messages := subscribed(t, redis.Addr)
	first, second := backend(t, "first"), backend(t, "second")
	redis.CLI("rpush", "frontend:site", "id", first.URL, second.URL)
	one, two := start(t, redis, "-dead-ttl", "1h"), start(t, redis, "-dead-ttl", "1h")
	require.Equal(t, http.StatusOK, two.get(t, "site", "/").status)

	first.Close()
	for redis.CLI("exists", "dead:site") == "0" {
		require.Equal(t, "second", one.get(t, "site", "/").body, "no client sees a dead backend")
	}
	require.Equal(t, "0", redis.CLI("smembers", "dead:site"))
	ttl, err := strconv.Atoi(redis.CLI("ttl", "dead:site"))
	require.NoError(t, err)
	require.Greater(t, ttl, 3500, "a dead set always ends")
	require.Equal(t, "site;"+first.URL+"/;0;2", <-messages)

	eventually(t, func() bool { return two.unhealthy(t, "site", 1) }, "the other instance knows")
	var asked atomic.Int32
	listenOn(t, first.Listener.Addr().String(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Write([]byte("back"))
	}))
	for range 20 {
		require.Equal(t, "second", one.get(t, "site", "/").body)
		require.Equal(t, "second", two.get(t, "site", "/").body)
	}
	require.Zero(t, asked.Load())
	redis.CLI("srem", "dead:site", "0")
	eventually(t, func() bool { return two.get(t, "site", "/").body == "back" }, "a mark that is taken back")
	require.Empty(t, messages, "what was read is not marked again")
}

// A mark and the ejection that caused it end by themselves.
func TestDead_MarksEnd(t *testing.T) {
	redis := startRedis(t)
	first, second := backend(t, "first"), backend(t, "second")
	redis.CLI("rpush", "frontend:site", "id", first.URL, second.URL)
	b := start(t, redis, "-dead-ttl", "300ms")
	first.Close()
	messages := subscribed(t, redis.Addr)
	for len(messages) == 0 {
		require.Equal(t, "second", b.get(t, "site", "/").body)
	}
	listenOn(t, first.Listener.Addr().String(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("back"))
	}))
	eventually(t, func() bool { return b.get(t, "site", "/").body == "back" }, "it gets requests again")
	eventually(t, func() bool { return redis.CLI("exists", "dead:site") == "0" }, "the mark is gone")
}

// from returns a client with an address of its own on this machine.
func from(t *testing.T, address string) *http.Client {
	t.Helper()
	transport := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// Statuses mark a backend dead as in hipache, but only if two clients got them, because one client
// may request a page that always fails.
func TestDead_Statuses(t *testing.T) {
	redis := startRedis(t)
	b := start(t, redis, "-dead-ttl", "1h")
	clients := []*http.Client{from(t, "127.0.0.1"), from(t, "127.0.0.2")}
	for status, dead := range map[int]bool{404: false, 500: false, 501: true, 502: true, 503: false, 504: true, 599: true} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			site := fmt.Sprintf("site%d", status)
			redis.CLI("rpush", "frontend:"+site, "id", backend(t, "one").URL, backend(t, "two").URL)
			messages := subscribed(t, redis.Addr)
			path := fmt.Sprintf("/?status=%d", status)
			for range 6 {
				require.Equal(t, status, getWith(t, clients[0], b.http, site, path).status)
			}
			require.Empty(t, messages, "one client alone")
			for i := 0; i < 20 && len(messages) == 0; i++ {
				require.Equal(t, status, getWith(t, clients[1], b.http, site, path).status)
			}
			if dead {
				require.Contains(t, <-messages, site+";")
			} else {
				require.Empty(t, messages)
			}
			require.Equal(t, http.StatusOK, b.get(t, site, "/").status, "the last one serves in every case")
		})
	}
}

// While an active checker runs, only it marks backends, and this program publishes what it finds.
func TestDead_AnActiveCheckerDecides(t *testing.T) {
	redis := startRedis(t)
	redis.CLI("set", "hchecker_ping", strconv.FormatInt(time.Now().Unix(), 10))
	redis.CLI("rpush", "frontend:site", "id", refusing(t), backend(t, "alive").URL)
	messages := subscribed(t, redis.Addr)
	b := start(t, redis)
	for len(messages) == 0 {
		require.Equal(t, "alive", b.get(t, "site", "/").body)
	}
	require.Equal(t, "0", redis.CLI("exists", "dead:site"))
}

// A mark that Redis could not take in time is not written later, when the backend serves again.
func TestDead_NoMarkComesLate(t *testing.T) {
	redis := startRedis(t)
	redis.CLI("rpush", "frontend:site", "id", "http://a", "http://b")
	s, err := open("redis://"+redis.Addr, time.Minute)
	require.NoError(t, err)
	defer s.client.Close()
	all := newTest(t, slog.DiscardHandler, nil)
	all.store = s
	now := time.Now()
	all.marks <- mark{frontend: "site", url: "http://a", indexes: []int{0}, of: 2, until: now.Add(-time.Second)}
	all.marks <- mark{frontend: "site", url: "http://b", indexes: []int{1}, of: 2, until: now.Add(time.Hour)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go all.writeMarks(ctx)
	eventually(t, func() bool { return redis.CLI("exists", "dead:site") == "1" }, "the second mark")
	require.Equal(t, "1", redis.CLI("smembers", "dead:site"))
}

// A mark is for the URL that failed. If the list has changed since, nothing is marked.
func TestDead_NeverMarksAnotherBackend(t *testing.T) {
	redis := startRedis(t)
	redis.CLI("rpush", "frontend:site", "id", "http://a", "http://b")
	s, err := open("redis://"+redis.Addr+"/0#", time.Minute)
	require.NoError(t, err)
	defer s.client.Close()
	require.NoError(t, s.mark(t.Context(), mark{frontend: "site", url: "http://b", indexes: []int{0, 1}, of: 2}, false))
	require.Equal(t, "1", redis.CLI("smembers", "dead:site"))
	require.NoError(t, s.mark(t.Context(), mark{frontend: "gone", url: "http://b", indexes: []int{0}, of: 2}, false))
	require.Equal(t, "0", redis.CLI("exists", "dead:gone"))
}
