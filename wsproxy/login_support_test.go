package wsproxy_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// A loginBackend keeps a user's login for the connection, as servers with NTLM do. It greets who is
// logged in. Others get 401, without a body, and may log in
//
//   - in three steps: "NTLM hello" is answered with 401 and a challenge that belongs to the
//     connection, "NTLM NAME CHALLENGE" with 200;
//   - at once, with "Negotiate NAME".
//
// The header Conn says which of its connections answered.
type loginBackend struct {
	*httptest.Server
	id     string
	opened atomic.Int64

	mu    sync.Mutex
	open  map[net.Conn]bool
	major atomic.Int64 // HTTP version of the latest request
}

type loginConn struct {
	net.Conn
	number     int64
	challenged bool
	user       string
}

func newLoginBackend(t testing.TB, id string, configure ...func(*httptest.Server)) *loginBackend {
	b := &loginBackend{id: id, open: make(map[net.Conn]bool)}
	b.Server = httptest.NewUnstartedServer(b)
	b.Config.ErrorLog = discardLog
	b.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.open[c] = true
		return context.WithValue(proxyproto.ConnContext(ctx, c), connKey{}, &loginConn{Conn: c, number: b.opened.Add(1)})
	}
	b.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(b.open, c)
		}
	}
	for _, c := range configure {
		c(b.Server)
	}
	if b.EnableHTTP2 {
		b.StartTLS()
	} else {
		b.Start()
	}
	t.Cleanup(func() {
		b.CloseClientConnections()
		b.Close()
	})
	return b
}

// overTLS offers HTTP/2 as well.
func overTLS(s *httptest.Server) { s.EnableHTTP2 = true }

func (b *loginBackend) target() balancer.Target { return target(b.id, b.URL) }

// connections is how many are open.
func (b *loginBackend) connections() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.open)
}

func (b *loginBackend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(connKey{}).(*loginConn)
	b.major.Store(int64(r.ProtoMajor))
	w.Header().Set("Conn", fmt.Sprint(b.id, c.number))
	io.Copy(io.Discard, r.Body)
	if strings.HasPrefix(r.URL.Path, "/close") {
		w.Header().Set("Connection", "close")
	}
	words := strings.Fields(strings.ReplaceAll(strings.Join(r.Header["Authorization"], " "), ",", " "))
	for len(words) > 2 && strings.EqualFold(words[0], "Basic") { // it takes lists
		words = words[2:]
	}
	challenge := fmt.Sprint("challenge-", c.number)
	switch {
	case r.ProtoMajor > 1:
	case len(words) == 2 && strings.EqualFold(words[0], "Negotiate"):
		c.user = words[1]
	case len(words) == 2 && strings.EqualFold(words[0], "NTLM"):
		c.user, c.challenged = "", true
		w.Header().Set("WWW-Authenticate", "NTLM "+challenge)
	case len(words) == 3 && c.challenged && words[2] == challenge:
		c.user = words[1]
	}
	switch {
	case c.user == "":
		if w.Header().Get("WWW-Authenticate") == "" {
			w.Header()["Www-Authenticate"] = []string{"Basic realm=\"a, b\"", "Digest x=y, NTLM"}
		}
		w.WriteHeader(http.StatusUnauthorized)
	case r.Header.Get("Upgrade") != "":
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, switching("Conn: "+w.Header().Get("Conn"), "User: "+c.user))
		io.Copy(conn, rw)
	default:
		io.WriteString(w, "hello "+c.user)
	}
}

// A loginClient has one connection to a server.
type loginClient struct {
	*wire
	conn string // of the backend, that answered last
}

func newLoginClient(t testing.TB, srv *httptest.Server) *loginClient {
	return &loginClient{wire: dial(t, srv)}
}

// ask sends a GET with header lines and gives the answer: "hello alice", or the challenge of a 401.
func (c *loginClient) ask(path string, lines ...string) string {
	c.t.Helper()
	c.send("GET " + path + " HTTP/1.1\r\n" + strings.Join(append([]string{"Host: app.example"}, lines...), "\r\n") + "\r\n\r\n")
	return c.answer()
}

func (c *loginClient) answer() string {
	c.t.Helper()
	r := c.response()
	c.conn = r.Header.Get("Conn")
	if r.StatusCode == http.StatusUnauthorized {
		return strings.TrimPrefix(r.Header.Values("WWW-Authenticate")[0], "NTLM ")
	}
	require.Equal(c.t, http.StatusOK, r.StatusCode, r.body)
	return r.body
}

// anonymous is what somebody gets who is not logged in.
const anonymous = `Basic realm="a, b"`

// serveLogins puts a proxy on a listener with its ConnContext.
func serveLogins(t testing.TB, h http.Handler) *httptest.Server {
	return serveWith(t, h, func(s *http.Server) { s.ConnContext = wsproxy.ConnContext })
}

// insecure trusts the login backends.
func insecure() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }
