package main

import (
	"bufio"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// listen serves every connection until the test ends.
func listen(t *testing.T, serve func(net.Listener) error) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		serve(l)
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return l.Addr().String()
}

func dialed(t *testing.T, address string) *client {
	t.Helper()
	c, err := dial(t.Context(), address, nil)
	require.NoError(t, err)
	t.Cleanup(c.close)
	return c
}

func TestClientAndBackend(t *testing.T) {
	address := listen(t, func(l net.Listener) error { return newBackend(l.Addr().String()).serve(l) })
	c := dialed(t, address)
	require.NoError(t, c.begin())
	require.Equal(t, session{backend: address}, c.session)
	for range 2 {
		for _, e := range []exchange{small, large, upload} {
			require.NoError(t, c.do(e))
		}
	}
	require.ErrorContains(t, c.do(exchange{method: "GET", path: "/nowhere"}), "404")
	require.NoError(t, c.upgrade())
	for _, size := range []int{0, 1, 125, 126, 64 << 10, maxPayload} {
		require.NoError(t, c.echo(content[:size]))
	}
	require.NoError(t, c.sendBulk(content[:64<<10]))
	require.NoError(t, c.farewell())
	require.NoError(t, dialed(t, address).visitSocket())
}

// TestBackend_HealthChecks asks as the proxies do.
func TestBackend_HealthChecks(t *testing.T) {
	address := listen(t, func(l net.Listener) error { return newBackend(l.Addr().String()).serve(l) })
	res, err := http.Get("http://" + address + pathHealth)
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, http.StatusOK, res.StatusCode)

	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("GET " + pathHealth + " HTTP/1.0\r\n\r\n"))
	require.NoError(t, err)
	var h head
	r := bufio.NewReader(conn)
	require.NoError(t, h.read(r))
	require.Equal(t, "200", string(h.word(1)))
	_, err = r.ReadByte()
	require.Error(t, err, "an HTTP/1.0 connection ends")
}

// scripted serves connections that answer the requests, or messages, with these texts one after the other, whatever they are.
func scripted(t *testing.T, answers ...string) (address string) {
	return listen(t, func(l net.Listener) error {
		for {
			conn, err := l.Accept()
			if err != nil {
				return err
			}
			go func() {
				defer conn.Close()
				var request [1 << 10]byte
				for _, answer := range answers {
					if _, err := conn.Read(request[:]); err != nil {
						return
					}
					conn.Write([]byte(answer))
				}
			}()
		}
	})
}

func TestClient_WrongAnswers(t *testing.T) {
	body := string(small.want)
	ok := "HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 100\r\n\r\n" + body
	replaced := func(old, with string) string { return strings.Replace(ok, old, with, 1) }
	tests := map[string]struct{ answer, want string }{
		"status":         {replaced("200 OK", "503 Down"), `answered "HTTP/1.1 503 Down"`},
		"one octet less": {replaced("100\r\n\r\na", "99\r\n\r\n"), "99 octets, want 100"},
		"other octets":   {ok[:len(ok)-1] + "!", "the octets are not those of the backend"},
		"half the body":  {ok[:len(ok)-50], "unexpected EOF"},
		"other backend":  {replaced(": a", ": b"), `backend "b" answered in a session of "a"`},
		"no backend":     {replaced("X-Backend: a\r\n", ""), `backend "" answered in a session of "a"`},
		"close":          {replaced("X-", "Connection: close\r\nX-"), "closed: true"},
		"nothing":        {"", "EOF"},
		"no HTTP":        {"what?\n", "EOF"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := dialed(t, scripted(t, ok, ok, tt.answer))
			require.NoError(t, c.begin())
			require.NoError(t, c.do(small))
			require.ErrorContains(t, c.do(small), tt.want)
		})
	}
	nameless := dialed(t, scripted(t, replaced("X-Backend: a\r\n", "")))
	require.ErrorContains(t, nameless.begin(), `backend "" answered`)
}

func TestClient_SendsTheCookies(t *testing.T) {
	requests := make(chan string, 3)
	address := listen(t, func(l net.Listener) error {
		return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests <- r.Header.Get("Cookie")
			w.Header().Set("X-Backend", "a")
			w.Header().Add("Set-Cookie", "LB=1; Path=/")
			w.Header().Add("Set-Cookie", "LBCORS=2; Secure")
			w.Write(small.want)
		}))
	})
	c := dialed(t, address)
	require.NoError(t, c.begin())
	require.NoError(t, c.do(small))
	require.NoError(t, c.begin(), "a new session")
	require.Equal(t, "", <-requests)
	require.Equal(t, "LB=1; LBCORS=2", <-requests)
	require.Equal(t, "", <-requests)
}

func TestClient_WrongSockets(t *testing.T) {
	tests := map[string]struct{ answer, want string }{
		"refused":   {"HTTP/1.1 400 Bad Request\r\n\r\n", `answered "HTTP/1.1 400 Bad Request"`},
		"wrong key": {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n", "a WebSocket's handshake"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.ErrorContains(t, dialed(t, scripted(t, tt.answer)).upgrade(), tt.want)
		})
	}
	messages := map[string]struct{ answer, want string }{
		"other text":   {"\x82\x02hx", "the octets are not those of the backend"},
		"other opcode": {"\x81\x02hi", "with opcode 1, want 2 with 2"},
		"longer":       {"\x82\x03hi!", "a message of 3 octets"},
		"masked":       {"\x82\x82\x00\x00\x00\x00hi", "a message of 2 octets"},
		"end":          {"", "unexpected EOF"},
	}
	for name, tt := range messages {
		t.Run(name, func(t *testing.T) {
			require.ErrorContains(t, dialed(t, scripted(t, tt.answer)).echo([]byte("hi")), tt.want)
		})
	}
	open := dialed(t, scripted(t, "\x88\x02\x03\xe8and more"))
	require.ErrorContains(t, open.farewell(), "does not end after its close")
}
