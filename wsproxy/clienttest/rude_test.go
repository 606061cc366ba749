package clienttest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
	"github.com/stickylb/stickylb/wsproxy/internal/logtest"
	"github.com/stickylb/stickylb/wsproxy/internal/soaktest"
)

const (
	rudeClients   = 50
	honestClients = 50
)

// A crowd is rude and honest clients at one proxy, plain and over TLS.
type crowd struct {
	plain, secure *httptest.Server
	backends      []*httptest.Server
	proxy         *wsproxy.Proxy
	log           logtest.Buffer // of both servers
	rude, honest  atomic.Int64
}

// newTemptation returns a backend with what rude clients need: answers that come early, break off,
// or never come. Honest ones have /echo and /ws. The field Token comes back with everything.
func newTemptation() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Write(body)
	})
	mux.HandleFunc("/early", func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack() // net/http itself would wait for the body
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
		c.(*net.TCPConn).CloseWrite()
		c.SetReadDeadline(time.Now().Add(time.Second))
		io.Copy(io.Discard, c)
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, "cut")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/large", func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 1<<20)) })
	mux.HandleFunc("/never", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, message, err := c.Read(context.Background())
			if err != nil || c.Write(context.Background(), kind, message) != nil {
				return
			}
		}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Token", r.Header.Get("Token"))
		mux.ServeHTTP(w, r)
	})
}

func newCrowd(t *testing.T) *crowd {
	t.Helper()
	w := &crowd{}
	var all []balancer.Target
	for _, id := range []string{"a", "b"} {
		b := httptest.NewUnstartedServer(newTemptation())
		b.Config.ErrorLog = log.New(io.Discard, "", 0)
		b.Start()
		w.backends, all = append(w.backends, b), append(all, target(t, id, b.URL))
	}
	pool, err := balancer.New(balancer.Config{Targets: all})
	require.NoError(t, err)
	w.proxy = &wsproxy.Proxy{Pool: pool, Logger: slog.New(slog.DiscardHandler), Trace: &wsproxy.Trace{
		Done: func(r *http.Request, rec wsproxy.Record) {
			if rec.Err != nil && strings.HasPrefix(r.Header.Get("Token"), "honest") {
				t.Errorf("%s %s: %v", r.Method, r.Header.Get("Token"), rec.Err)
			}
		},
	}}
	w.plain, w.secure = httptest.NewUnstartedServer(w.proxy), httptest.NewUnstartedServer(w.proxy)
	w.secure.EnableHTTP2 = true
	for _, front := range []*httptest.Server{w.plain, w.secure} {
		front.Config.ErrorLog = log.New(&w.log, "", 0)
	}
	w.plain.Start()
	w.secure.StartTLS()
	return w
}

// close ends everything, and requires that no request is left.
func (w *crowd) close(t *testing.T) {
	t.Helper()
	for _, m := range w.proxy.Pool.Members() {
		until(t, "nothing is in flight at "+m.ID(), func() bool { return m.Load() == 0 && m.Tunnels() == 0 })
	}
	w.plain.Close()
	w.secure.Close()
	require.NoError(t, w.proxy.Shutdown(t.Context()))
	for _, b := range w.backends {
		b.CloseClientConnections()
		b.Close()
	}
}

// rudenesses are what rude clients do, each with a connection of its own. say sends, with LF for
// CRLF.
var rudenesses = []func(c net.Conn, say func(string), rng *rand.Rand){
	func(c net.Conn, say func(string), rng *rand.Rand) { // aborts in the middle of a body
		say("POST /echo HTTP/1.1\nHost: app\nToken: rude\nContent-Length: 100000\n\n" + strings.Repeat("r", rng.IntN(50000)))
	},
	func(c net.Conn, say func(string), rng *rand.Rand) { // resets in the middle of a body
		say("POST /echo HTTP/1.1\nHost: app\nToken: rude\nTransfer-Encoding: chunked\n\n1000\n" + strings.Repeat("r", 4096) + "\n")
		if t, ok := c.(*net.TCPConn); ok {
			t.SetLinger(0)
		}
	},
	func(c net.Conn, say func(string), rng *rand.Rand) { // lies about chunks
		say("POST /echo HTTP/1.1\nHost: app\nToken: rude\nTransfer-Encoding: chunked\n\n+3\nGET /echo HTTP/1.1\nHost: app\nToken: smuggled\n\n")
		readAnswers(c)
	},
	func(c net.Conn, say func(string), rng *rand.Rand) { // lies about the length
		say("POST /echo HTTP/1.1\nHost: app\nToken: rude\nContent-Length: 5\n\nhello and more that is no request\n\n")
		readAnswers(c)
	},
	func(c net.Conn, say func(string), rng *rand.Rand) { // gets early answers, sends on, and keeps the connection
		for range 5 {
			say("POST /early HTTP/1.1\nHost: app\nToken: rude\nContent-Length: 3000\n\n" + strings.Repeat("r", 1500))
			readSome(c)
			say(strings.Repeat("r", 1500))
		}
		readAnswers(c)
	},
	func(c net.Conn, say func(string), rng *rand.Rand) { // gets early answers to chunks that break
		say("POST /early HTTP/1.1\nHost: app\nToken: rude\nTransfer-Encoding: chunked\n\n5\nhello\n")
		readSome(c)
		say("nonsense\nGET /echo HTTP/1.1\nHost: app\nToken: smuggled\n\n")
		readAnswers(c)
	},
	func(c net.Conn, say func(string), rng *rand.Rand) { // stalls in its header
		say("GET /echo HTTP/1.1\nHost: app\n")
		readSome(c)
	},
	func(c net.Conn, say func(string), rng *rand.Rand) { // stalls in its body, while the backend waits
		say("POST /echo HTTP/1.1\nHost: app\nToken: rude\nContent-Length: 10\n\nhel")
		readSome(c)
	},
	func(c net.Conn, say func(string), rng *rand.Rand) { // does not wait for what takes long
		say("GET /never HTTP/1.1\nHost: app\nToken: rude\n\n")
		readSome(c)
	},
	func(c net.Conn, say func(string), rng *rand.Rand) { // does not read what is long
		say("GET /large HTTP/1.1\nHost: app\nToken: rude\n\n")
		readSome(c)
	},
	func(c net.Conn, say func(string), rng *rand.Rand) { // is cut, and goes on
		say("GET /cut HTTP/1.1\nHost: app\nToken: rude\n\nGET /echo HTTP/1.1\nHost: app\nToken: rude\n\n")
		readAnswers(c)
	},
	func(c net.Conn, say func(string), rng *rand.Rand) { // opens a WebSocket and resets it
		say("GET /ws HTTP/1.1\nHost: app\nToken: rude\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n" +
			"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\n\n\x81")
		readSome(c)
		if t, ok := c.(*net.TCPConn); ok {
			t.SetLinger(0)
		}
	},
	func(c net.Conn, say func(string), rng *rand.Rand) { // asks for an upgrade where there is none, and goes on
		say("GET /echo HTTP/1.1\nHost: app\nToken: rude\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n" +
			"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\n\nCONNECT app:443 HTTP/1.1\nHost: app\n\nGET /echo HTTP/1.1\nHost: app\nToken: smuggled\n\n")
		readAnswers(c)
	},
	func(c net.Conn, say func(string), rng *rand.Rand) { // expects, and does not send
		say("POST /echo HTTP/1.1\nHost: app\nToken: rude\nExpect: 100-continue\nContent-Length: 5\n\n")
		readSome(c)
	},
}

// readSome reads what there is within a moment: the rude client has no more patience.
func readSome(c net.Conn) {
	c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	c.Read(make([]byte, 4096))
}

// readAnswers reads for a while.
func readAnswers(c net.Conn) {
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	io.Copy(io.Discard, c)
}

// beRude plays one rudeness.
func (w *crowd) beRude(rng *rand.Rand) {
	front := w.plain
	if rng.IntN(3) == 0 {
		front = w.secure
	}
	c, err := net.Dial("tcp", front.Listener.Addr().String())
	if err != nil {
		return
	}
	if front == w.secure {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	say := func(text string) { io.WriteString(c, strings.ReplaceAll(text, "\n", "\r\n")) }
	rudenesses[rng.IntN(len(rudenesses))](c, say, rng)
	w.rude.Add(1)
}

// beHonest sends requests that are answered with what they have, until ctx ends.
func (w *crowd) beHonest(ctx context.Context, client *http.Client, url, name string) error {
	for n := 0; ctx.Err() == nil; n++ {
		token := fmt.Sprintf("%s-%d", name, n)
		body := bytes.Repeat([]byte(token+" "), 1+n%2000)
		r, err := http.NewRequest(http.MethodPost, url+"/echo", bytes.NewReader(body))
		if err != nil {
			return err
		}
		r.Header.Set("Token", token)
		res, err := client.Do(r)
		if err != nil {
			return err
		}
		got, err := io.ReadAll(res.Body)
		res.Body.Close()
		switch {
		case err != nil:
			return err
		case res.StatusCode != http.StatusOK:
			return fmt.Errorf("%s: %s", token, res.Status)
		case res.Header.Get("Token") != token || !bytes.Equal(got, body):
			return fmt.Errorf("%s has the answer to %s, with %.100q", token, res.Header.Get("Token"), got)
		}
		w.honest.Add(1)
	}
	return nil
}

// talkHonestly has messages sent back over one WebSocket.
func (w *crowd) talkHonestly(ctx context.Context, client *http.Client, url, name string) error {
	c, _, err := websocket.Dial(context.Background(), url+"/ws", &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		return err
	}
	defer c.CloseNow()
	for n := 0; ctx.Err() == nil; n++ {
		message := bytes.Repeat(fmt.Appendf(nil, "%s-%d ", name, n), 1+n%2000)
		if err := c.Write(context.Background(), websocket.MessageText, message); err != nil {
			return err
		}
		_, got, err := c.Read(context.Background())
		if err != nil {
			return err
		}
		if !bytes.Equal(got, message) {
			return fmt.Errorf("%s-%d came back as %.100q", name, n, got)
		}
		w.honest.Add(1)
	}
	return c.Close(websocket.StatusNormalClosure, "")
}

// Whatever rude clients do, honest ones beside them see no error and no byte of anybody else's,
// over HTTP/1.1, HTTP/2 and WebSockets. Nothing is left behind, and no panic is in the servers'
// log.
func TestRudeAndHonestClients(t *testing.T) {
	before := leaktest.Settled(t)
	w := newCrowd(t)
	ctx, cancel := context.WithTimeout(t.Context(), soaktest.For(t, 5*time.Second))
	defer cancel()
	var all sync.WaitGroup
	var transports []*http.Transport
	for i := range honestClients {
		front, client := w.plain, &http.Transport{}
		if i%5 >= 3 {
			front, client = w.secure, &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: i%5 == 4}
		}
		transports = append(transports, client)
		be := w.beHonest
		if i%5 == 1 || i%5 == 3 {
			be = w.talkHonestly
		}
		all.Go(func() {
			if err := be(ctx, &http.Client{Transport: client}, front.URL, fmt.Sprintf("honest-%d", i)); err != nil {
				t.Errorf("honest client %d: %v", i, err)
			}
		})
	}
	for i := range rudeClients {
		all.Go(func() {
			for rng := rand.New(rand.NewPCG(uint64(i), 0)); ctx.Err() == nil; {
				w.beRude(rng)
			}
		})
	}
	all.Wait()
	t.Logf("%d honest answers beside %d rude connections", w.honest.Load(), w.rude.Load())
	require.NotZero(t, w.honest.Load())
	for _, tr := range transports {
		tr.CloseIdleConnections()
	}
	w.close(t)
	require.NotContains(t, w.log.String(), "panic")
	leaktest.RequireNoMore(t, before)
}
