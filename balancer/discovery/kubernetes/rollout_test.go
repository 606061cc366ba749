package kubernetes_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/balancer/discovery/kubernetes"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stretchr/testify/require"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// A cluster runs pods, which are HTTP servers on addresses of the loopback network, and keeps the
// slices of their Service.
type cluster struct {
	t   testing.TB
	api *apiServer

	mu    sync.Mutex
	port  int
	made  int
	pods  map[string]*testPod
	sizes int // of slices
}

type testPod struct {
	name, address string
	conditions    discoveryv1.EndpointConditions
	server        *http.Server
	closing       atomic.Bool // the preStop delay is over
}

func newCluster(t testing.TB, sizes int) *cluster {
	return &cluster{t: t, api: newAPIServer(), pods: make(map[string]*testPod), sizes: sizes}
}

// start starts n pods that become ready. They answer with their names.
func (c *cluster) start(n int) []*testPod {
	c.mu.Lock()
	started := make([]*testPod, n)
	for i := range started {
		started[i] = c.startLocked()
	}
	c.mu.Unlock()
	c.publish()
	c.become(isReady, started...)
	return started
}

func (c *cluster) startLocked() *testPod {
	c.made++
	p := &testPod{
		name: fmt.Sprintf("p%d", c.made), address: fmt.Sprintf("127.88.%d.%d", c.made/200, c.made%200+1), conditions: isUnready,
	}
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", p.address, c.port))
	require.NoError(c.t, err)
	c.port = l.Addr().(*net.TCPAddr).Port // the same for all
	p.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, p.name) })}
	go p.server.Serve(l)
	c.pods[p.name] = p
	return p
}

// become sets the conditions of pods.
func (c *cluster) become(conditions discoveryv1.EndpointConditions, pods ...*testPod) {
	c.mu.Lock()
	for _, p := range pods {
		p.conditions = conditions
	}
	c.mu.Unlock()
	c.publish()
}

// end ends terminating pods, as the kubelet does after the preStop delay: they close their
// listeners, complete what is in flight, and are removed.
func (c *cluster) end(pods ...*testPod) {
	var closing sync.WaitGroup
	for _, p := range pods {
		p.closing.Store(true)
		closing.Go(func() { p.server.Shutdown(context.Background()) })
	}
	closing.Wait()
	c.become(isEnding, pods...)
	c.mu.Lock()
	for _, p := range pods {
		delete(c.pods, p.name)
	}
	c.mu.Unlock()
	c.publish()
}

// publish writes the slices anew. Slices that are no longer needed stay, and are empty.
func (c *cluster) publish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	parts := make(map[string][]discoveryv1.Endpoint)
	c.api.mu.Lock()
	for name := range c.api.slices {
		parts[name] = nil
	}
	c.api.mu.Unlock()
	for i, name := range slices.Sorted(maps.Keys(c.pods)) {
		of := fmt.Sprintf("web-%03d", i/c.sizes)
		parts[of] = append(parts[of], endpoint(name, c.pods[name].address, c.pods[name].conditions))
	}
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		o := slice(name, parts[name]...)
		o.Ports[0].Port = new(int32(c.port))
		c.api.mu.Lock()
		old := c.api.slices[name]
		c.api.mu.Unlock()
		if old == nil || !apiEqual(old, o) {
			c.api.set(o)
		}
	}
}

func apiEqual(a, b *discoveryv1.EndpointSlice) bool {
	return fmt.Sprint(a.Endpoints) == fmt.Sprint(b.Endpoints)
}

func (c *cluster) pod(name string) *testPod {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pods[name]
}

// A traffic is a number of sticky clients that send requests through a Proxy one after the other.
type traffic struct {
	t       testing.TB
	cluster *cluster
	url     string
	stop    chan struct{}
	clients sync.WaitGroup

	requests, moves atomic.Int64
	mu              sync.Mutex
	lost, early     []string
}

// send starts n clients.
func (c *cluster) send(n int, url string) *traffic {
	tr := &traffic{t: c.t, cluster: c, url: url, stop: make(chan struct{})}
	for range n {
		tr.clients.Go(tr.visit)
	}
	return tr
}

func (tr *traffic) visit() {
	jar, _ := cookiejar.New(nil)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Jar: jar, Transport: transport}
	var at *testPod
	for {
		select {
		case <-tr.stop:
			return
		case <-time.After(rand.N(20 * time.Millisecond)):
		}
		name, err := tr.get(client)
		tr.requests.Add(1)
		if err != nil {
			tr.mu.Lock()
			tr.lost = append(tr.lost, err.Error())
			tr.mu.Unlock()
			continue
		}
		if at != nil && at.name != name {
			tr.moves.Add(1)
			if !at.closing.Load() {
				tr.mu.Lock()
				tr.early = append(tr.early, at.name+" to "+name)
				tr.mu.Unlock()
			}
		}
		if at == nil || at.name != name {
			at = tr.cluster.pod(name)
		}
	}
}

func (tr *traffic) get(client *http.Client) (string, error) {
	res, err := client.Get(tr.url)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", res.StatusCode, text)
	}
	return string(text), err
}

// more waits until the clients have sent n requests.
func (tr *traffic) more(n int64) {
	tr.t.Helper()
	require.Eventually(tr.t, func() bool { return tr.requests.Load() >= n }, 30*time.Second, 5*time.Millisecond)
}

// end stops the clients. It requires that no request was lost and no session moved early.
func (tr *traffic) end() {
	tr.t.Helper()
	close(tr.stop)
	tr.clients.Wait()
	tr.t.Logf("%d requests, %d lost; %d sessions moved, %d early", tr.requests.Load(), len(tr.lost), tr.moves.Load(), len(tr.early))
	require.Empty(tr.t, tr.lost, "lost requests")
	require.Empty(tr.t, tr.early, "sessions that moved before their pod closed")
}

// balance starts a Proxy in front of the cluster's Service until the test ends. It returns the
// Proxy's URL and its pool when the pods are known.
func (c *cluster) balance() (string, *balancer.Pool) {
	pool, err := balancer.New(balancer.Config{})
	require.NoError(c.t, err)
	registry := &health.Registry{Pool: pool, Interval: -1, Logger: slog.New(slog.DiscardHandler)}
	service := &kubernetes.Service{Config: c.api.serve(c.t), Namespace: "default", Name: "web", Port: "http"}
	service.Report = func(targets []balancer.Target) error {
		return registry.Replace(targets, health.Drain{Grace: -1, Limit: time.Minute})
	}
	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{})
	require.NoError(c.t, err)
	proxy := &wsproxy.Proxy{Pool: pool, Policy: policy, Logger: slog.New(slog.DiscardHandler)}
	proxy.Retry = wsproxy.Retry{Idempotent: true, Budget: -1} // for what a pod accepts while it closes
	server := httptest.NewServer(proxy)
	c.t.Cleanup(server.Close)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { registry.Run(ctx) })
	running.Go(func() { service.Run(ctx) })
	c.t.Cleanup(func() { // before the servers close
		cancel()
		running.Wait()
		for _, p := range c.pods {
			p.server.Close()
		}
	})
	require.NoError(c.t, service.Ready(ctx))
	return server.URL, pool
}

// takes waits until new sessions go to the pods of those names alone.
func takes(t testing.TB, pool *balancer.Pool, pods map[string]bool) {
	t.Helper()
	require.Eventually(t, func() bool {
		n := 0
		for _, m := range pool.Members() {
			target := m.Target()
			if target.Weight > 0 && !target.Backup && m.State().Admin == balancer.Ready {
				if !pods[target.Labels["pod"]] {
					return false
				}
				n++
			}
		}
		return n == len(pods)
	}, 30*time.Second, 20*time.Millisecond)
}

func TestService_S22_RollingUpdate(t *testing.T) {
	for _, tt := range []struct{ pods, surge int }{{5, 1}, {100, 25}} {
		t.Run(fmt.Sprintf("pods=%d", tt.pods), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 30)
			serving := make(map[string]bool)
			old := c.start(tt.pods)
			for _, p := range old {
				serving[p.name] = true
			}
			url, pool := c.balance()
			takes(t, pool, serving)
			tr := c.send(30, url)
			for batch := range slices.Chunk(old, tt.surge) {
				for i, next := range c.start(len(batch)) {
					serving[next.name] = true
					delete(serving, batch[i].name)
				}
				c.become(isTerminating, batch...)
				takes(t, pool, serving) // the preStop delay must be longer than this takes
				tr.more(tr.requests.Load() + 100)
				c.end(batch...)
			}
			takes(t, pool, serving)
			tr.end()
			require.Positive(t, tr.moves.Load())
		})
	}
}

// When all pods terminate, they serve old and new sessions until they close.
func TestService_B6_AllPodsTerminate(t *testing.T) {
	c := newCluster(t, 2)
	serving := make(map[string]bool)
	pods := c.start(3)
	for _, p := range pods {
		serving[p.name] = true
	}
	url, pool := c.balance()
	takes(t, pool, serving)
	tr := c.send(10, url)
	c.become(isTerminating, pods...)
	takes(t, pool, nil)
	newcomers := c.send(10, url) // their sessions begin on pods that terminate
	newcomers.more(50)
	newcomers.end()
	tr.end()
	require.Zero(t, tr.moves.Load())
}

// soak returns the duration of the environment variable SOAK, or short if it is not set.
func soak(t testing.TB, short time.Duration) time.Duration {
	text := os.Getenv("SOAK")
	if text == "" {
		return short
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return d
}

// Watches that drop, expire and break in all ways while pods come and go change nothing for the
// clients, and leave nothing behind.
func TestService_FlappingWatchesLeaveNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("flapping", func(t *testing.T) {
		c := newCluster(t, 3)
		serving := make(map[string]bool)
		var pods []*testPod
		add := func() {
			p := c.start(1)[0]
			serving[p.name] = true
			pods = append(pods, p)
		}
		for range 6 {
			add()
		}
		url, pool := c.balance()
		takes(t, pool, serving)
		tr := c.send(20, url)
		endings := []string{"", `{"type":"MODI`, "<html>\n", `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","code":410,"reason":"Expired"}}` + "\n"}
		faults, rollouts := 0, 0
		for end := time.Now().Add(soak(t, 4*time.Second)); time.Now().Before(end); {
			faults++
			if rand.N(3) == 0 {
				c.api.forget()
			}
			c.api.drop(endings[rand.N(len(endings))], rand.N(2) == 0)
			add()
			takes(t, pool, serving)
			oldest := pods[0]
			pods = pods[1:]
			delete(serving, oldest.name)
			rollouts++
			c.become(isTerminating, oldest)
			takes(t, pool, serving)
			c.end(oldest)
		}
		tr.end()
		t.Logf("%d faults, %d pods replaced", faults, rollouts)
	})
	for end := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			require.Failf(t, "goroutines were left", "%d before, %d now\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
		}
	}
}
