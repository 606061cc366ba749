package wsproxy_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// switchable are policies that find sessions in different places, or in the same ones.
var switchable = map[string]func(t testing.TB) stickiness.Policy{
	"none":     func(testing.TB) stickiness.Policy { return nil },
	"LBCookie": func(t testing.TB) stickiness.Policy { return lbCookie(t, stickiness.LBCookieOptions{}) },
	"AppCookie": func(t testing.TB) stickiness.Policy {
		return appCookie(t, stickiness.AppCookieOptions{Keys: [][]byte{cookie.NewKey()}})
	},
	"Learn": func(t testing.TB) stickiness.Policy {
		p, err := stickiness.NewLearn(stickiness.LearnOptions{Store: &stickiness.MemoryStore{}, Cookie: "app"})
		require.NoError(t, err)
		return p
	},
	"PrefixCookie": func(t testing.TB) stickiness.Policy {
		p, err := stickiness.NewPrefixCookie(stickiness.PrefixCookieOptions{Cookie: "app", Codec: routes(t)})
		require.NoError(t, err)
		return p
	},
	"Preserve": func(t testing.TB) stickiness.Policy {
		p, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Name: "AWSELB-srv", Preserve: true, Codec: routes(t)})
		require.NoError(t, err)
		return p
	},
}

func routes(t testing.TB) cookie.Codec {
	var table cookie.InsecureTable
	require.NoError(t, table.Store(map[string]string{"a": "route-a", "b": "route-b"}))
	return &table
}

// newLogin sets the application's cookie anew.
func newLogin(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Set-Cookie", "app=two; Path=/")
}

// The policy is switched between Lookup and Forward, or while the target has the request.
func TestProxy_S24_PolicySwitchedDuringARequest(t *testing.T) {
	t.Parallel()
	var inTarget func()
	p := newPair(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/login" {
			http.SetCookie(w, &http.Cookie{Name: "app", Value: "one", Path: "/"})
			return
		}
		if inTarget != nil {
			inTarget()
		}
		newLogin(w, r)
	})
	var sw stickiness.Switch
	var atLookup func()
	results := make(chan stickiness.Result, 1)
	front := serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: &sw, Trace: &wsproxy.Trace{
		Lookup: func(*http.Request, []stickiness.Candidate) {
			if atLookup != nil {
				atLookup()
			}
		},
		Bind: func(_ *http.Request, b *stickiness.Binding) { results <- b.Result },
	}})
	for before, makeOld := range switchable {
		for after, makeNew := range switchable {
			for _, late := range []bool{false, true} {
				name := fmt.Sprintf("%s to %s, late: %v", before, after, late)
				older, newer := makeOld(t), makeNew(t)
				atLookup, inTarget = nil, nil
				sw.Store(older)
				c := newClient(t, front)
				p.picker.to("b")
				require.Equal(t, "b", c.get("/login").backend(), name)
				wait(t, results, "Bind of the login")
				p.picker.to("a")
				replace := func() { sw.Store(newer) }
				if late {
					inTarget = replace
				} else {
					atLookup = replace
				}
				r := c.get("/")
				require.Equal(t, http.StatusOK, r.StatusCode, name)
				want := "b"
				if before == "none" {
					want = "a"
				}
				require.Equal(t, want, r.backend(), name)
				b := p.b
				if want == "a" {
					b = p.a
				}
				require.Equal(t, []string{"app=one"}, b.header()["Cookie"], name)
				atLookup, inTarget = nil, nil
				result := wait(t, results, "Bind under the next policy")
				if after == "none" {
					require.Equal(t, stickiness.Kept, result, name)
					continue
				}
				require.Equal(t, stickiness.Bound, result, name)
				p.picker.to(map[string]string{"a": "b", "b": "a"}[want])
				require.Equal(t, want, c.get("/").backend(), "%s: the session stays", name)
				wait(t, results, "Bind of the next request")
			}
		}
	}
}

// Policies are switched all the time; every request is answered by the application that it was for.
func TestProxy_S24_PoliciesSwitchedUnderLoad(t *testing.T) {
	t.Parallel()
	p := newPair(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.URL.Path)
		newLogin(w, r)
	})
	var sw stickiness.Switch
	front := serve(t, &wsproxy.Proxy{Pool: p.pool, Policy: &sw})
	var policies []stickiness.Policy
	for _, newPolicy := range switchable {
		policies = append(policies, newPolicy(t))
	}
	last := lbCookie(t, stickiness.LBCookieOptions{})
	for _, old := range policies {
		policies = append(policies, stickiness.First(last, stickiness.ReadOnly(old)))
	}
	served := make(chan struct{})
	var storing, serving sync.WaitGroup
	storing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-served:
				sw.Store(last)
				return
			default:
				sw.Store(policies[i%len(policies)])
			}
		}
	})
	clients := make([]*client, 8)
	for i := range clients {
		clients[i] = newClient(t, front)
		serving.Go(func() {
			for n := range 40 {
				path := fmt.Sprintf("/%d/%d", i, n)
				req, _ := http.NewRequest(http.MethodGet, clients[i].url+path, nil)
				res, err := clients[i].Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != http.StatusOK || string(body) != path {
					t.Errorf("%s: %v, %q, %v", path, res.Status, body, err)
				}
			}
		})
	}
	serving.Wait()
	close(served)
	storing.Wait()
	for i, c := range clients {
		p.picker.to([]string{"a", "b"}[i%2])
		stays := c.get("/").backend()
		p.picker.to([]string{"b", "a"}[i%2])
		require.Equal(t, stays, c.get("/").backend(), "client %d", i)
	}
}

// Two instances rotate three times, in the order that [cookie.Sealed.Store] describes, while
// clients go to and fro.
func TestProxy_S24_KeyRotation(t *testing.T) {
	t.Parallel()
	keys := [4][]byte{}
	for i := range keys {
		keys[i] = bytes.Repeat([]byte{byte(i + 1)}, 32)
	}
	synctest.Test(t, func(t *testing.T) {
		type instance struct {
			codec *cookie.Sealed
			proxy *wsproxy.Proxy
		}
		newInstance := func() *instance {
			codec, err := cookie.NewSealed(cookie.SealedOptions{Keys: [][]byte{keys[0]}})
			require.NoError(t, err)
			policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Codec: codec})
			require.NoError(t, err)
			pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{target("a", "http://a"), target("b", "http://b"), target("c", "http://c")}})
			require.NoError(t, err)
			return &instance{codec, &wsproxy.Proxy{Pool: pool, Policy: policy, Logger: noLog, Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				h := http.Header{"Backend": {r.URL.Host}}
				return &http.Response{StatusCode: http.StatusOK, Header: h, Body: http.NoBody, Request: r}, nil
			})}}
		}
		instances := [2]*instance{newInstance(), newInstance()}

		stop := make(chan struct{})
		var clients sync.WaitGroup
		var moved, asked, renewed [12]int
		for i := range moved {
			clients.Go(func() {
				var home, jar string
				for n := i; ; n++ {
					select {
					case <-stop:
						return
					case <-time.After(time.Minute):
					}
					r := httptest.NewRequest(http.MethodGet, "/", nil)
					if jar != "" {
						r.Header.Set("Cookie", jar)
					}
					w := httptest.NewRecorder()
					instances[n%2].proxy.ServeHTTP(w, r)
					asked[i]++
					if line := w.Header().Get("Set-Cookie"); line != "" {
						jar, _, _ = strings.Cut(line, ";")
						renewed[i]++
					}
					switch at := w.Header().Get("Backend"); {
					case home == "":
						home = at
					case home != at:
						moved[i]++
					}
				}
			})
		}
		time.Sleep(5 * time.Minute)
		for g := range 3 {
			older, newer := keys[g], keys[g+1]
			for _, step := range [][][]byte{{older, newer}, {newer, older}, {newer}} {
				for _, in := range instances {
					require.NoError(t, in.codec.Store(step...))
					time.Sleep(time.Minute + time.Second) // the clients meet instances that differ
				}
				time.Sleep(15 * time.Minute)
			}
		}
		close(stop)
		clients.Wait()
		require.Zero(t, moved, "sessions moved")
		for i := range asked {
			require.Greater(t, asked[i], 100)
			require.GreaterOrEqual(t, renewed[i], 4, "the first binding and one for each new key")
			require.LessOrEqual(t, renewed[i], 10)
		}
	})
}
