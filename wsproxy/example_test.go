package wsproxy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// namedBackend answers with its name.
func namedBackend(name string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) }))
}

func get(client *http.Client, url string) string {
	res, err := client.Get(url)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return string(body)
}

func Example() {
	one, two := namedBackend("app-1"), namedBackend("app-2")
	defer one.Close()
	defer two.Close()

	pool, err := balancer.New(balancer.Config{
		Picker:  &balancer.RoundRobin{},
		Targets: []balancer.Target{target("app-1", one.URL), target("app-2", two.URL)},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{HttpOnly: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	front := httptest.NewServer(&wsproxy.Proxy{Pool: pool, Policy: policy})
	defer front.Close()

	jar, _ := cookiejar.New(nil)
	sticky, fresh := &http.Client{Jar: jar}, &http.Client{}
	fmt.Println(get(sticky, front.URL), get(sticky, front.URL), get(sticky, front.URL))
	fmt.Println(get(fresh, front.URL), get(fresh, front.URL), get(fresh, front.URL))
	// Output:
	// app-1 app-1 app-1
	// app-2 app-1 app-2
}

// A session whose target cannot serve it may wait for it instead of moving.
func ExampleProxy_onMiss() {
	one, two := namedBackend("app-1"), namedBackend("app-2")
	defer one.Close()
	defer two.Close()
	pool, _ := balancer.New(balancer.Config{
		Picker:  &balancer.RoundRobin{},
		Targets: []balancer.Target{target("app-1", one.URL), target("app-2", two.URL)},
	})
	policy, _ := stickiness.NewLBCookie(stickiness.LBCookieOptions{})
	front := httptest.NewServer(&wsproxy.Proxy{
		Pool:   pool,
		Policy: policy,
		OnMiss: func(r *http.Request, id string, why error) wsproxy.Miss {
			fmt.Println("miss:", id, why)
			return wsproxy.Detour
		},
	})
	defer front.Close()

	jar, _ := cookiejar.New(nil)
	client := &http.Client{Jar: jar}
	fmt.Println(get(client, front.URL))
	bound, _ := pool.Member("app-1")
	bound.SetAdmin(balancer.Down)
	fmt.Println(get(client, front.URL))
	bound.SetAdmin(balancer.Ready)
	fmt.Println(get(client, front.URL))
	// Output:
	// app-1
	// miss: app-1 balancer: target is down
	// app-2
	// app-1
}

// What is read ahead of a request's body may say whom the request belongs to: here the room of a
// JSON call, so that all calls of a room go to one target.
func ExamplePeekBody() {
	one, two := namedBackend("app-1"), namedBackend("app-2")
	defer one.Close()
	defer two.Close()
	pool, _ := balancer.New(balancer.Config{
		Picker:  &balancer.Rendezvous{},
		Targets: []balancer.Target{target("app-1", one.URL), target("app-2", two.URL)},
	})
	front := httptest.NewServer(&wsproxy.Proxy{
		Pool:      pool,
		ReadAhead: 16 << 10,
		Key: func(r *http.Request) string {
			var call struct{ Room string }
			if body, complete := wsproxy.PeekBody(r); complete {
				json.Unmarshal(body, &call) // what is not JSON has no room
			}
			return call.Room
		},
	})
	defer front.Close()

	ask := func(body string) string {
		res, err := http.Post(front.URL, "application/json", strings.NewReader(body))
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		answer, _ := io.ReadAll(res.Body)
		return string(answer)
	}
	for range 3 {
		fmt.Println(ask(`{"room": "lobby", "text": "hello"}`), ask(`{"text": "hello", "room": "attic"}`))
	}
	// Output:
	// app-2 app-1
	// app-2 app-1
	// app-2 app-1
}

// The access log is one [wsproxy.Trace]; another one counts. The record has an attribute of the
// caller's.
func ExampleLogAccess() {
	backend := namedBackend("app-1")
	defer backend.Close()
	pool, _ := balancer.New(balancer.Config{Targets: []balancer.Target{target("app-1", backend.URL)}})
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			switch a.Key {
			case slog.TimeKey, "duration", "host":
				return slog.Attr{} // differ from run to run
			}
			return a
		},
	}))
	access := wsproxy.LogAccess(logger, func(r *http.Request) []slog.Attr {
		return []slog.Attr{slog.String("agent", r.UserAgent())}
	})
	var attempts atomic.Int64
	count := &wsproxy.Trace{Attempt: func(*http.Request, wsproxy.Attempt) { attempts.Add(1) }}
	proxy := &wsproxy.Proxy{Pool: pool, Trace: wsproxy.MultiTrace(access, count)}

	r := httptest.NewRequest(http.MethodGet, "/cart?token=secret", nil)
	r.Header.Set("User-Agent", "curl/8")
	proxy.ServeHTTP(httptest.NewRecorder(), r)
	fmt.Println(attempts.Load(), "attempt")
	// Output:
	// level=INFO msg=request client=192.0.2.1 method=GET path=/cart status=200 target=app-1 attempts=1 bytes=5 agent=curl/8
	// 1 attempt
}

// A program with several proxies ends the WebSockets of all together, and then its servers.
func ExampleShutdown() {
	backend := namedBackend("app-1")
	defer backend.Close()
	pool, _ := balancer.New(balancer.Config{Targets: []balancer.Target{target("app-1", backend.URL)}})
	shop, blog := &wsproxy.Proxy{Pool: pool}, &wsproxy.Proxy{Pool: pool}
	front := httptest.NewServer(shop)
	defer front.Close()
	fmt.Println(get(http.DefaultClient, front.URL))

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	fmt.Println(wsproxy.Shutdown(ctx, shop, blog))
	fmt.Println(front.Config.Shutdown(ctx))
	// Output:
	// app-1
	// <nil>
	// <nil>
}

// A backend that thinks for minutes before it answers, behind a name whose addresses change.
func ExampleUpstream() {
	u, _ := url.Parse("http://model.internal:8080")
	pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{{URL: u}}})
	if err != nil {
		panic(err)
	}
	lb := &wsproxy.Proxy{Pool: pool}
	lb.Upstream = wsproxy.Upstream{HeaderTimeout: 10 * time.Minute, MaxAge: 5 * time.Minute}
	http.Handle("/", lb)
}
