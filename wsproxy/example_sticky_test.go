package wsproxy_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// An existing reverse proxy keeps its hooks and its transport. One line of its Rewrite changes: the
// URL is that of the chosen target. The line in its ErrorHandler makes failed connections count
// against their target.
func ExampleSticky_reverseProxy() {
	var targets []balancer.Target
	for _, name := range []string{"one", "two"} {
		backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "backend %s, %s, cookie %q", name, r.Header.Get("X-Old-Hook"), r.Header.Get("Cookie"))
		}))
		defer backend.Close()
		u, _ := url.Parse(backend.URL)
		targets = append(targets, balancer.Target{ID: name, URL: u})
	}
	existing := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(wsproxy.URLOf(pr.In.Context())) // was: pr.SetURL(backend)
			pr.SetXForwarded()
			pr.Out.Header.Set("X-Old-Hook", "kept")
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			wsproxy.ReportError(r.Context(), err)
			w.WriteHeader(http.StatusBadGateway)
		},
	}

	pool, err := balancer.New(balancer.Config{Targets: targets, Picker: &balancer.RoundRobin{}})
	if err != nil {
		log.Fatal(err)
	}
	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Keys: [][]byte{make([]byte, 32)}})
	if err != nil {
		log.Fatal(err)
	}
	sticky := &wsproxy.Sticky{Pool: pool, Policy: policy}
	server := httptest.NewServer(sticky.Handler(existing))
	defer server.Close()

	jar, _ := cookiejar.New(nil)
	client := &http.Client{Jar: jar}
	for range 3 {
		res, err := client.Get(server.URL)
		if err != nil {
			log.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		fmt.Println(string(body))
	}
	// Output:
	// backend one, kept, cookie ""
	// backend one, kept, cookie ""
	// backend one, kept, cookie ""
}

// A carts is a shard: it has the carts of some sessions in memory.
type carts struct {
	mu    sync.Mutex
	items map[string]int
}

// add puts an item into a cart, and returns how many there are.
func (c *carts) add(cart string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.items[cart]++
	return c.items[cart]
}

// Each of four shards in this process has its own state. A session stays with its shard by a
// cookie, or by a header if the client is a program. While a shard is drained, it keeps its
// sessions, and new sessions go to other shards.
func ExampleSticky_shards() {
	shards := map[string]*carts{}
	var targets []balancer.Target
	for _, id := range []string{"s1", "s2", "s3", "s4"} {
		shards[id] = &carts{items: map[string]int{}}
		targets = append(targets, balancer.Target{ID: id}) // no URL
	}
	pool, err := balancer.New(balancer.Config{Targets: targets, Picker: &balancer.RoundRobin{}})
	if err != nil {
		log.Fatal(err)
	}
	keys := [][]byte{make([]byte, 32)}
	browsers, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Keys: keys})
	if err != nil {
		log.Fatal(err)
	}
	codec, err := cookie.NewSealed(cookie.SealedOptions{Keys: keys})
	if err != nil {
		log.Fatal(err)
	}
	programs, err := stickiness.NewNamed(stickiness.NamedOptions{
		From: []stickiness.Source{stickiness.FromHeader("X-Session")}, Announce: "X-Session", Codec: codec,
	})
	if err != nil {
		log.Fatal(err)
	}
	sticky := &wsproxy.Sticky{Pool: pool, Policy: stickiness.First(programs, browsers)}
	h := sticky.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		member, _ := wsproxy.MemberOf(r.Context())
		fmt.Fprint(w, member.ID(), " has ", shards[member.ID()].add(r.FormValue("cart")))
	}))

	ask := func(cart string, session http.Header) http.Header { // no server is needed to try it
		r := httptest.NewRequest(http.MethodGet, "/?cart="+cart, nil)
		r.Header = session
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		fmt.Printf("%s: %s\n", cart, w.Body)
		return w.Result().Header
	}
	browser, program := http.Header{}, http.Header{}
	for _, c := range (&http.Response{Header: ask("ann", nil)}).Cookies() {
		browser.Add("Cookie", c.Name+"="+c.Value)
	}
	program.Set("X-Session", ask("bot", nil).Get("X-Session"))
	ask("ann", browser)
	ask("bot", program)

	drained, _ := pool.Member("s1")
	drained.SetAdmin(balancer.Draining)
	ask("ann", browser)
	for _, cart := range []string{"bob", "cid", "dan"} {
		ask(cart, nil)
	}
	// Output:
	// ann: s1 has 1
	// bot: s2 has 1
	// ann: s1 has 2
	// bot: s2 has 2
	// ann: s1 has 3
	// bob: s4 has 1
	// cid: s2 has 1
	// dan: s3 has 1
}

// A handler that finds its shard in the context can be tested with package httptest alone.
func ExampleSticky_Handler() {
	pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{{ID: "left"}, {ID: "right"}}, Picker: balancer.First{}})
	if err != nil {
		log.Fatal(err)
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		member, ok := wsproxy.MemberOf(r.Context())
		fmt.Fprintln(w, member.ID(), ok)
	})

	w := httptest.NewRecorder()
	(&wsproxy.Sticky{Pool: pool}).Handler(handler).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	fmt.Print(w.Body)
	// Output: left true
}
