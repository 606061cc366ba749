package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// echoing is a server of no protocol that sends back what it gets, after its name.
func echoing(t *testing.T, name string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.WriteString(c, name)
				io.Copy(c, c)
			}()
		}
	}()
	return "tcp://" + l.Addr().String()
}

// talk sends a message, ends, and returns everything that comes back.
func talk(t *testing.T, addr, message string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, message)
	require.NoError(t, err)
	require.NoError(t, c.(*net.TCPConn).CloseWrite())
	all, err := io.ReadAll(c)
	require.NoError(t, err)
	return string(all)
}

func TestTCP(t *testing.T) {
	p := startUntil(t, "admin accepts on ", "-check-interval", "20ms", "-picker", "roundrobin", "-admin", "127.0.0.1:0",
		"-target", "a="+echoing(t, "a"), "-target", "b="+echoing(t, "b"), "-target", "c="+echoing(t, "c"),
		"-tcp", "127.0.0.1:0=a,b", "-tcp", "127.0.0.1:0=c")
	require.Empty(t, p.http+p.https, "no target speaks HTTP")
	require.Len(t, p.tcp, 2)
	met := map[string]int{}
	for range 4 {
		met[talk(t, p.tcp[0], ":hello")]++
		require.Equal(t, "c:hello", talk(t, p.tcp[1], ":hello"))
	}
	require.Equal(t, map[string]int{"a:hello": 2, "b:hello": 2}, met)

	res, err := http.Get(p.admin + "/?pool=" + url.QueryEscape("tcp "+p.tcp[0]))
	require.NoError(t, err)
	defer res.Body.Close()
	var status health.PageStatus
	require.NoError(t, json.NewDecoder(res.Body).Decode(&status))
	require.Len(t, status.Pools, 1)
	require.Len(t, status.Pools[0].Targets, 2)
	require.Equal(t, "a", status.Pools[0].Targets[0].ID)
	require.Equal(t, balancer.Healthy, status.Pools[0].Targets[0].Health)
}

// The same backends are balanced as HTTP and as TCP, and a connection that is idle does not hold up
// the end.
func TestTCP_EmbeddedBackends(t *testing.T) {
	t.Parallel() // it waits for the grace
	p := start(t, "-tcp", "127.0.0.1:0=app-2")
	require.Contains(t, p.lines, "tcp accepts on tcp://"+p.tcp[0]+" for app-2")
	require.Equal(t, "app-2", newVisitor(t).ask(t, "http://"+p.tcp[0]).Backend)
	require.Contains(t, newVisitor(t).ask(t, p.http).Backend, "app-")

	idle, err := net.Dial("tcp", p.tcp[0])
	require.NoError(t, err)
	defer idle.Close()
	require.Equal(t, "app-2", newVisitor(t).ask(t, "http://"+p.tcp[0]).Backend, "by now the idle one has its target")
	p.end(t)
	_, err = idle.Read(make([]byte, 1))
	require.Error(t, err, "cut after the grace")
}
