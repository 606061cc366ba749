package fleettest_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/rueidis"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/redisstore"
	"github.com/stickylb/stickylb/wsproxy"
)

const (
	sessionCookie = "SID"
	sessionHeader = "Session-Id"
	storedHeader  = "Stored" // "no" if the store did not take what a response sets
	statsPath     = "/-/stats"

	// late is how long after the end of its context a call of the store counts as one that does not
	// keep it. Machines that are busy need some of that. A read that nobody limits takes 14 s.
	late = 3 * time.Second
)

// settings are the configuration of a balancer process.
type settings struct {
	Addr     string
	Backends map[string]string // addresses by ID
	Redis    redisSettings
}

// redisSettings say how a balancer finds Redis.
type redisSettings struct {
	Addrs  []string
	Master string            // name in Sentinel, or empty
	Shards bool              // whether a Cluster is asked by CLUSTER SHARDS
	Via    map[string]string // addresses of relays by those of servers
}

func (s redisSettings) client() (rueidis.Client, error) {
	return rueidis.NewClient(rueidis.ClientOption{
		InitAddress:         s.Addrs,
		Sentinel:            rueidis.SentinelOption{MasterSet: s.Master, TopologyRefreshInterval: 2 * time.Second},
		ClusterOption:       rueidis.ClusterOption{ShardsRefreshInterval: 2 * time.Second, PreferClusterShards: s.Shards},
		Dialer:              net.Dialer{Timeout: time.Second},
		ConnWriteTimeout:    time.Second,
		CacheSizeEachConn:   8 << 20,
		ReadBufferEachConn:  64 << 10,
		WriteBufferEachConn: 64 << 10,
		DialCtxFn: func(ctx context.Context, addr string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
			if via, ok := s.Via[addr]; ok {
				addr = via
			}
			return d.DialContext(ctx, "tcp", addr)
		},
	})
}

// stats are the counters that a balancer reports.
type stats struct {
	Underway        int64 // calls of the store
	Late, Unlimited int64 // calls that did not keep their context, and that had no deadline
	Remembered      int64 // answers while Redis could not be asked
	Failed          int64 // lookups without an answer
}

// A watched store counts the calls that outlive their contexts.
type watched struct {
	*redisstore.Store
	underway, late, unlimited, remembered, failed atomic.Int64
}

func (w *watched) begin(ctx context.Context) (end func()) {
	w.underway.Add(1)
	deadline, ok := ctx.Deadline()
	if !ok {
		w.unlimited.Add(1)
	}
	return func() {
		w.underway.Add(-1)
		if ok && time.Since(deadline) > late {
			w.late.Add(1)
		}
	}
}

func (w *watched) Find(ctx context.Context, key string, ttl time.Duration) (string, stickiness.Origin, bool, error) {
	defer w.begin(ctx)()
	target, from, ok, err := w.Store.Find(ctx, key, ttl)
	if from == stickiness.Remembered {
		w.remembered.Add(1)
	}
	if err != nil {
		w.failed.Add(1)
	}
	return target, from, ok, err
}

func (w *watched) Get(ctx context.Context, key string, ttl time.Duration) (string, bool, error) {
	target, _, ok, err := w.Find(ctx, key, ttl)
	return target, ok, err
}

func (w *watched) Put(ctx context.Context, key, target string, ttl time.Duration) error {
	defer w.begin(ctx)()
	return w.Store.Put(ctx, key, target, ttl)
}

func (w *watched) Claim(ctx context.Context, key, target string, ttl time.Duration) (string, error) {
	defer w.begin(ctx)()
	return w.Store.Claim(ctx, key, target, ttl)
}

func (w *watched) stats() stats {
	return stats{w.underway.Load(), w.late.Load(), w.unlimited.Load(), w.remembered.Load(), w.failed.Load()}
}

// A telling policy tells the client when its session was not stored.
type telling struct{ *stickiness.Learn }

func (p telling) Bind(b *stickiness.Binding) {
	if p.Learn.Bind(b); b.Result == stickiness.Failed {
		b.Header.Set(storedHeader, "no")
	}
}

// beBalancer is the process of a balancer. It returns its exit code, which is not 0 if goroutines
// or descriptors are left after all has been closed.
func beBalancer(text string) int {
	var s settings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return told(err)
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0) // the tests are gone
	}()
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	l, err := net.Listen("tcp", s.Addr)
	if err != nil {
		return told(err)
	}
	before := nowHeld()
	if err := s.balance(stop, l); err != nil {
		return told(err)
	}
	before.descriptors-- // the listener's
	for deadline := time.Now().Add(patience / 2); time.Now().Before(deadline); time.Sleep(glance) {
		if now := nowHeld(); now.goroutines <= before.goroutines && now.descriptors <= before.descriptors {
			return 0
		}
	}
	fmt.Fprintf(os.Stderr, "left: %+v, before %+v\n", nowHeld(), before)
	pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
	return 1
}

// told prints an error and returns the exit code.
func told(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// held has the numbers of goroutines and descriptors of this process.
type held struct{ goroutines, descriptors int }

func nowHeld() held {
	open, _ := os.ReadDir("/proc/self/fd")
	return held{runtime.NumGoroutine(), len(open)}
}

// balance serves on a listener until stop ends, and then closes everything.
func (s *settings) balance(stop context.Context, l net.Listener) error {
	client, err := s.Redis.client()
	if err != nil {
		return err
	}
	defer client.Close()
	store, err := redisstore.New(client, redisstore.Options{})
	if err != nil {
		return err
	}
	w := &watched{Store: store}
	learn, err := stickiness.NewLearn(stickiness.LearnOptions{Store: w, Cookie: sessionCookie, Header: sessionHeader})
	if err != nil {
		return err
	}
	var targets []balancer.Target
	for id, addr := range s.Backends {
		targets = append(targets, balancer.Target{ID: id, URL: &url.URL{Scheme: "http", Host: addr}})
	}
	pool, err := balancer.New(balancer.Config{Targets: targets, Picker: &balancer.RoundRobin{}})
	if err != nil {
		return err
	}
	proxy := &wsproxy.Proxy{Pool: pool, Policy: telling{learn}}
	mux := http.NewServeMux()
	mux.Handle("/", proxy)
	mux.HandleFunc(statsPath, func(out http.ResponseWriter, _ *http.Request) { json.NewEncoder(out).Encode(w.stats()) })
	server := &http.Server{Handler: mux}
	context.AfterFunc(stop, func() { server.Close() })
	if err := server.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return proxy.Close()
}
