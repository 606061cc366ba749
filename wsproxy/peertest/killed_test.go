package peertest_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness"
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

// post sends a body and returns the status of the answer.
func post(t *testing.T, s *session, body string) int {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+host+"/", strings.NewReader(body))
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
