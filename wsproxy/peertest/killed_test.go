package peertest_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy/internal/soaktest"
)

// tally counts answers by status; those that have not come are under 0.
type tally struct {
	mu sync.Mutex
	n  map[int]int
}

func (c *tally) add(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[int]int)
	}
	c.n[status]++
}

func (c *tally) String() string {
	var all []string
	for _, status := range slices.Sorted(maps.Keys(c.n)) {
		all = append(all, fmt.Sprintf("%d x %d", c.n[status], status))
	}
	return strings.Join(all, ", ")
}

// Nodes that die cost nobody an answer whose connection can be made elsewhere, however many clients come at once and
// before anybody has noticed: as with HAProxy's "option redispatch".
func TestHAProxy_W10_NodesDie(t *testing.T) {
	for _, clients := range []int{10, 60, 150} {
		for _, dead := range []int{1, 2} {
			t.Run(fmt.Sprintf("%d_of_3_dead_%d_clients", dead, clients), func(t *testing.T) {
				policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{CORS: stickiness.CORSNever})
				require.NoError(t, err)
				all := servers(t, "app-1", "app-2", "app-3")
				p := newPair(t, "option redispatch\n\tretries 3\n\tcookie SRV insert indirect nocache", policy, all)
				sessions := make(map[string][]*session)
				for name, addr := range p.both() {
					for range clients {
						s := newSession(t)
						s.get(t, addr, "/")
						sessions[name] = append(sessions[name], s)
					}
				}
				for _, s := range all[:dead] {
					s.server.Close()
				}
				answers := map[string]*tally{"HAProxy": {}, "stickylb": {}}
				var asking sync.WaitGroup
				for name, list := range sessions {
					for i, s := range list {
						asking.Go(func() { answers[name].add(post(t, s, strings.Repeat("x", i%3*1000))) })
					}
				}
				asking.Wait()
				t.Logf("%d of 3 nodes dead, %d clients: HAProxy: %v; stickylb: %v", dead, clients, answers["HAProxy"], answers["stickylb"])
				require.Equal(t, map[int]int{http.StatusOK: clients}, answers["stickylb"].n)
			})
		}
	}
}

// Nodes whose processes are killed take the requests with them that they had, of HAProxy's clients as of ours. Nobody who
// comes after that notices.
func TestHAProxy_W10_ProcessesAreKilled(t *testing.T) {
	const inFlight = 30
	for _, clients := range []int{10, 60, 150}[soaktest.Times(2, 0):] {
		for _, dead := range []int{1, 2} {
			t.Run(fmt.Sprintf("%d_of_3_killed_%d_clients", dead, clients), func(t *testing.T) {
				policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{CORS: stickiness.CORSNever})
				require.NoError(t, err)
				var all []server
				var kills []func()
				for i := range 3 {
					addr := newAddr(t)
					h, port, err := net.SplitHostPort(addr)
					require.NoError(t, err)
					node := exec.Command(program(t, "node"), filepath.Join("testdata", "moody.js"), h, port)
					kills = append(kills, launch(t, addr, syscall.SIGKILL, node))
					all = append(all, server{backend: backend{id: fmt.Sprint("app-", i), addr: addr}, value: fmt.Sprint("s", i)})
				}
				p := newPair(t, "option redispatch\n\tretries 3\n\tcookie SRV insert indirect nocache", policy, all)
				sessions := make(map[string][]*session)
				for name, addr := range p.both() {
					for range clients {
						s := newSession(t)
						require.NotEmpty(t, visit(t, s, addr), "it is bound")
						sessions[name] = append(sessions[name], s)
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				held := map[string]*tally{"HAProxy": {}, "stickylb": {}}
				var holding sync.WaitGroup
				for name, list := range sessions {
					for _, s := range list[:min(clients, inFlight)] {
						holding.Go(func() { held[name].add(postTo(ctx, s, "/never", "x")) })
					}
				}
				until(t, "requests are in flight", func() bool {
					n := int64(0)
					for _, m := range p.pool.Members() {
						n += m.Load()
					}
					return n == int64(min(clients, inFlight))
				})
				for _, kill := range kills[:dead] {
					kill()
				}
				answers := map[string]*tally{"HAProxy": {}, "stickylb": {}}
				var asking sync.WaitGroup
				for name, list := range sessions {
					for i, s := range list {
						asking.Go(func() { answers[name].add(post(t, s, strings.Repeat("x", i%3*1000))) })
					}
				}
				asking.Wait()
				cancel()
				holding.Wait()
				t.Logf("%d of 3 processes killed, %d clients: HAProxy: %v; stickylb: %v; in flight (0: at the others) HAProxy: %v; stickylb: %v",
					dead, clients, answers["HAProxy"], answers["stickylb"], held["HAProxy"], held["stickylb"])
				require.Equal(t, map[int]int{http.StatusOK: clients}, answers["stickylb"].n)
			})
		}
	}
}

// post sends a body and returns the status of the answer.
func post(t *testing.T, s *session, body string) int { return postTo(t.Context(), s, "/", body) }

// postTo sends a body to a path and returns the status of the answer, 0 if none has come.
func postTo(ctx context.Context, s *session, path, body string) int {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+host+path, strings.NewReader(body))
	if err != nil {
		return 0
	}
	res, err := s.c.Do(r)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0
	}
	return res.StatusCode
}
