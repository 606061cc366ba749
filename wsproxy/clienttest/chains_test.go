package clienttest_test

import (
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/gorilla/mux"
	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

// chiChain puts chi and the middleware of chi that replaces writers, contexts and requests around a
// handler.
func chiChain(h http.Handler) http.Handler {
	r := chi.NewRouter()
	quiet := &middleware.DefaultLogFormatter{Logger: log.New(io.Discard, "", 0), NoColor: true}
	r.Use(middleware.RequestID, middleware.RequestLogger(quiet), middleware.Recoverer, middleware.Compress(5),
		middleware.StripSlashes, middleware.Timeout(patience))
	r.Mount("/", h)
	return r
}

type chainKey struct{}

// muxChain does the same with gorilla/mux.
func muxChain(h http.Handler) http.Handler {
	r := mux.NewRouter()
	r.Use(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Middleware", "mux")
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), chainKey{}, "mux")))
		})
	})
	r.PathPrefix("/{any:.*}").Handler(h)
	return r
}

// shardHandler says which shard serves, flushes a stream, and echoes WebSockets of two packages.
func shardHandler(t *testing.T) http.Handler {
	up := gorilla.Upgrader{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m, ok := wsproxy.MemberOf(r.Context())
		if !ok {
			http.Error(w, "no member", http.StatusInternalServerError)
			return
		}
		switch r.URL.Path {
		case "/gorilla":
			conn, err := up.Upgrade(w, r, http.Header{"Shard": {m.ID()}})
			if err != nil {
				return
			}
			defer conn.Close()
			wsproxy.OnLeave(r.Context(), func(uint16) {}) // too late, and no harm
			for {
				kind, message, err := conn.ReadMessage()
				if err != nil {
					return
				}
				conn.WriteMessage(kind, message)
			}
		case "/coder":
			w.Header().Set("Shard", m.ID())
			opened := make(chan *coder.Conn, 1)
			wsproxy.OnLeave(r.Context(), func(code uint16) {
				if conn := <-opened; conn != nil {
					conn.Close(coder.StatusCode(code), "moving")
				}
			})
			conn, err := coder.Accept(w, r, nil)
			opened <- conn
			if err != nil {
				return
			}
			defer conn.CloseNow()
			for {
				kind, message, err := conn.Read(r.Context())
				if err != nil {
					return
				}
				conn.Write(r.Context(), kind, message)
			}
		case "/stream":
			w.Header().Set("Shard", m.ID())
			for range 3 {
				io.WriteString(w, strings.Repeat("part ", 100))
				if err := http.NewResponseController(w).Flush(); err != nil {
					t.Error(err)
				}
			}
		default:
			w.Header().Set("Shard", m.ID())
			io.WriteString(w, "plain")
		}
	})
}

// Sessions stay with their shard, streams are flushed and WebSockets are bound, with the middleware
// of chi and gorilla/mux outside and inside of a Sticky.
func TestSticky_W1_MiddlewareChains(t *testing.T) {
	chains := map[string]func(http.Handler) http.Handler{"chi": chiChain, "mux": muxChain}
	for name, chain := range chains {
		for _, place := range []string{"outside", "inside"} {
			t.Run(name+" "+place, func(t *testing.T) {
				t.Parallel()
				s := newSticky(t)
				h := s.Handler(shardHandler(t))
				if place == "outside" {
					h = chain(h)
				} else {
					h = s.Handler(chain(shardHandler(t)))
				}
				srv := serve(t, "http", h)
				jar, err := cookiejar.New(nil)
				require.NoError(t, err)
				c := &http.Client{Jar: jar, Timeout: patience}
				defer c.CloseIdleConnections()
				shard := ""
				for _, path := range []string{"/", "/stream", "/a/b/"} {
					res, err := c.Get(srv.URL + path)
					require.NoError(t, err)
					_, err = io.ReadAll(res.Body)
					require.NoError(t, err)
					res.Body.Close()
					require.Equal(t, http.StatusOK, res.StatusCode)
					require.Equal(t, shard == "", len(res.Cookies()) == 1)
					if shard == "" {
						shard = res.Header.Get("Shard")
					}
					require.Equal(t, shard, res.Header.Get("Shard"))
				}
				for _, path := range []string{"/gorilla", "/coder"} {
					echoOnce(t, "ws"+strings.TrimPrefix(srv.URL, "http")+path)
				}
				for _, m := range s.Pool.Members() {
					until(t, "nothing is held", func() bool { return m.Load() == 0 })
				}
			})
		}
	}
}

// newSticky returns a Sticky of three shards.
func newSticky(t *testing.T) *wsproxy.Sticky {
	t.Helper()
	pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{{ID: "s1"}, {ID: "s2"}, {ID: "s3"}}})
	require.NoError(t, err)
	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Keys: [][]byte{bytes.Repeat([]byte("k"), 32)}})
	require.NoError(t, err)
	s := &wsproxy.Sticky{Pool: pool, Policy: policy, Tunnels: wsproxy.TunnelLimits{Window: -1}}
	t.Cleanup(func() { s.Close() })
	return s
}

// echoOnce opens a WebSocket, which has to be bound, and uses it.
func echoOnce(t *testing.T, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, res, err := coder.Dial(ctx, url, nil)
	require.NoError(t, err)
	defer conn.CloseNow()
	require.NotEmpty(t, res.Header.Get("Shard"))
	require.Len(t, res.Cookies(), 1)
	require.NoError(t, conn.Write(ctx, coder.MessageText, []byte("hello")))
	_, got, err := conn.Read(ctx)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))
	conn.Close(coder.StatusNormalClosure, "")
}

// A handler that registers OnLeave sends a close frame with the code that it gets.
func TestSticky_W6_CloseFrameOfTheHandler(t *testing.T) {
	t.Parallel()
	s := newSticky(t)
	srv := serve(t, "http", s.Handler(shardHandler(t)))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, res, err := coder.Dial(ctx, "ws"+strings.TrimPrefix(srv.URL, "http")+"/coder", nil)
	require.NoError(t, err)
	defer conn.CloseNow()
	require.NoError(t, conn.Write(ctx, coder.MessageText, []byte("hello")))
	_, _, err = conn.Read(ctx) // now the handler has its conn
	require.NoError(t, err)
	m, ok := s.Pool.Member(res.Header.Get("Shard"))
	require.True(t, ok)
	m.SetAdmin(balancer.Moving)
	_, _, err = conn.Read(ctx)
	require.Equal(t, coder.StatusServiceRestart, coder.CloseStatus(err))
	until(t, "nothing is held", func() bool { return m.Load() == 0 })
	done, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	require.NoError(t, s.Shutdown(done))
}
