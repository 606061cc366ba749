package peertest_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
)

// redisServer runs a redis-server that keeps nothing, and returns where it listens.
func redisServer(t *testing.T) (addr string, kill func()) {
	t.Helper()
	path := program(t, "redis-server")
	addr = newAddr(t)
	host, port := split(t, addr)
	return addr, launch(t, addr, syscall.SIGKILL, exec.Command(path, "--bind", host, "--port", port, "--protected-mode", "no",
		"--dir", t.TempDir(), "--save", "", "--appendonly", "no"))
}

// A redisClient speaks RESP2 over one connection.
type redisClient struct {
	net.Conn
	r *bufio.Reader
}

func newRedisClient(addr string) (*redisClient, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(patience))
	return &redisClient{c, bufio.NewReader(c)}, nil
}

// do sends a command and returns its answer, strings of an array joined by spaces.
func (c *redisClient) do(args ...string) (string, error) {
	var out strings.Builder
	fmt.Fprintf(&out, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&out, "$%d\r\n%s\r\n", len(arg), arg)
	}
	if _, err := io.WriteString(c, out.String()); err != nil {
		return "", err
	}
	return c.answer()
}

func (c *redisClient) answer() (string, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return "", err
	}
	kind, line := line[0], strings.TrimSpace(line[1:])
	switch kind {
	case '+', ':':
		return line, nil
	case '$':
		n, err := strconv.Atoi(line)
		if err != nil {
			return "", err
		}
		text := make([]byte, n+2)
		if _, err := io.ReadFull(c.r, text); err != nil {
			return "", err
		}
		return string(text[:n]), nil
	case '*':
		n, err := strconv.Atoi(line)
		if err != nil {
			return "", err
		}
		var all []string
		for range n {
			one, err := c.answer()
			if err != nil {
				return "", err
			}
			all = append(all, one)
		}
		return strings.Join(all, " "), nil
	default:
		return "", fmt.Errorf("an answer of kind %q: %s", kind, line)
	}
}

// whoami is the port that the server itself says it listens on.
func (c *redisClient) whoami() (string, error) {
	said, err := c.do("CONFIG", "GET", "port")
	return strings.TrimPrefix(said, "port "), err
}

// broken reports whether err is what a client sees of a server that is gone.
func broken(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// Redis clients work while one of three servers is drained and another one is killed. The only error that a client may
// see is that its connection breaks, and only if that was open, or on its way, at the server that was killed.
func TestStream_W9_Redis(t *testing.T) {
	addrs := make(map[string]string)
	ids := make(map[string]string) // by port
	kills := make(map[string]func())
	for _, id := range []string{"drained", "killed", "left"} {
		addrs[id], kills[id] = redisServer(t)
		_, port := split(t, addrs[id])
		ids[port] = id
	}
	before := leaktest.Settled(t)
	f := newForwarder(t, addrs)
	host, port := split(t, f.addr)
	said, err := exec.CommandContext(soon(t), program(t, "redis-benchmark"), "-h", host, "-p", port, "-q",
		"-c", "12", "-n", "1000", "-P", "4", "-t", "ping,set,get,lpush,lrange_100", "-d", "2000").CombinedOutput()
	require.NoError(t, err, "%s", said)

	drained, killed := newMoment(), newMoment()
	var dones, breaks atomic.Int64
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var failed sync.Once
	fail := func(format string, args ...any) {
		failed.Do(func() { t.Errorf(format, args...) })
	}
	session := func(i, n int) {
		lateForDrained, lateForKilled := isClosed(drained.over), isClosed(killed.over)
		// A connection is allowed to break if it went to the server that is killed, before that was over.
		mayBreak := func(id string, err error) bool {
			return broken(err) && !lateForKilled && isClosed(killed.begun) && (id == "killed" || id == "")
		}
		c, err := newRedisClient(f.addr)
		if err != nil {
			fail("connect: %v", err)
			return
		}
		defer c.Close()
		port, err := c.whoami()
		id := ids[port]
		if err != nil {
			if breaks.Add(1); !mayBreak("", err) {
				fail("the first command: %v", err)
			}
			return
		}
		if id == "drained" && lateForDrained || id == "killed" && lateForKilled || id == "" {
			fail("a new connection came to %q at port %s", id, port)
		}
		for j := range n {
			want := fmt.Sprintf("client %d, command %d", i, j)
			got, err := c.do("ECHO", want)
			if err != nil {
				if breaks.Add(1); !mayBreak(id, err) {
					fail("a command at %q: %v", id, err)
				}
				return
			}
			if got != want {
				fail("%q instead of %q", got, want)
				return
			}
			dones.Add(1)
		}
	}
	for i := range 8 {
		clients.Go(func() {
			for !isClosed(stop) {
				session(i, 10+i)
			}
		})
	}

	// Whoever has a connection to the drained server keeps it as long as it likes.
	var keeper *redisClient
	until(t, "a connection to the server that will be drained", func() bool {
		c, err := newRedisClient(f.addr)
		require.NoError(t, err)
		if port, err := c.whoami(); err != nil || ids[port] != "drained" {
			c.Close()
			return false
		}
		keeper = c
		return true
	})
	defer keeper.Close()
	busy(t, dones.Load, 300)
	var drain <-chan error
	drained.happen(func() { drain = f.drain(t, "drained") })
	busy(t, dones.Load, 300)
	for range 100 {
		got, err := keeper.do("INCR", "kept")
		require.NoError(t, err)
		require.NotEmpty(t, got)
	}
	require.Empty(t, drain, "the drain is over while a client is connected")
	killed.happen(kills["killed"])
	busy(t, dones.Load, 300)
	got, err := keeper.do("GET", "kept")
	require.NoError(t, err)
	require.Equal(t, "100", got)
	require.NoError(t, keeper.Close())
	select {
	case err := <-drain:
		require.NoError(t, err)
	case <-time.After(patience):
		require.Fail(t, "the drain does not end")
	}
	for range 5 {
		said, err := exec.CommandContext(soon(t), program(t, "redis-cli"), "-h", host, "-p", port, "config", "get", "port").CombinedOutput()
		require.NoError(t, err, "%s", said)
		require.Equal(t, "left", ids[strings.TrimSpace(strings.TrimPrefix(string(said), "port"))])
	}
	close(stop)
	clients.Wait()
	records := f.close(t)
	retried := 0
	for _, rec := range records {
		if rec.Attempts > 1 {
			retried++
		}
		require.NotEmpty(t, rec.EndedBy, "a client got no target: %v", rec.Err)
	}
	require.Positive(t, retried, "no client was sent on from the server that was killed")
	leaktest.RequireNoMore(t, before)
	t.Logf("%d connections, %d sent on, %d broken, %d commands", len(records), retried, breaks.Load(), dones.Load())
}
