package redistest_test

import (
	"bufio"
	"io"
	"net"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness/redisstore/internal/redistest"
)

// A server that is killed comes back empty, and a frozen one continues.
func TestStart(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Do("SET", "a", "1")
	require.Equal(t, "1", s.Do("GET", "a"))
	_, err := s.Try("NO-SUCH-COMMAND")
	require.ErrorContains(t, err, "unknown command")

	s.Freeze()
	require.True(t, s.Running())
	s.Thaw()
	require.Equal(t, "1", s.Do("GET", "a"))

	s.Kill()
	require.False(t, s.Running())
	_, err = s.Try("GET", "a")
	require.Error(t, err)
	s.Restart()
	require.Empty(t, s.Do("GET", "a"))
}

// A test fails in CI when the program is missing, and is skipped elsewhere.
func TestStart_WithoutTheProgram(t *testing.T) {
	_, err := exec.LookPath("redis-server")
	t.Setenv("PATH", t.TempDir())
	t.Setenv("CI", "")
	t.Run("it is skipped", func(t *testing.T) {
		inner := &recorder{TB: t}
		inner.run(func() { redistest.Start(inner) })
		require.True(t, inner.skipped)
		require.False(t, inner.failed)
	})
	t.Setenv("CI", "true")
	t.Run("it fails", func(t *testing.T) {
		inner := &recorder{TB: t}
		inner.run(func() { redistest.Start(inner) })
		require.False(t, inner.skipped)
		require.True(t, inner.failed)
	})
	require.NoError(t, err)
}

// A recorder notes how a test ends.
type recorder struct {
	testing.TB
	skipped, failed bool
}

type over struct{}

func (r *recorder) Errorf(string, ...any) { r.failed = true }
func (r *recorder) FailNow()              { r.failed = true; panic(over{}) }
func (r *recorder) Skip(...any)           { r.skipped = true; panic(over{}) }

// run calls f until it ends the test.
func (r *recorder) run(f func()) {
	defer func() {
		if v := recover(); v != nil && v != (over{}) {
			panic(v)
		}
	}()
	f()
}

// A primary that is killed is replaced by its replica, and becomes a replica when it is back.
func TestStartCluster(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	require.Len(t, c.Primaries(), 3)
	require.Len(t, c.Addrs(), 6)
	old := c.PrimaryOf("a")
	old.Do("SET", "a", "1")
	old.Do("WAIT", "1", "0")
	old.Kill()
	c.Settle()
	now := c.PrimaryOf("a")
	require.NotEqual(t, old, now)
	require.Equal(t, "1", now.Do("GET", "a"))
	old.Restart()
	c.Settle()
	require.NotContains(t, c.Primaries(), old)

	to := c.PrimaryOf("b")
	require.NotEqual(t, to, now)
	c.MoveSlot(15495, now, to) // of "a"
	require.Equal(t, to, c.PrimaryOf("a"))
	require.Equal(t, "1", to.Do("GET", "a"))
}

// Sentinels replace a primary that is killed.
func TestStartSentinel(t *testing.T) {
	t.Parallel()
	c := redistest.StartSentinel(t)
	require.Len(t, c.Addrs(), 3)
	first := c.Primary()
	require.Equal(t, c.Servers[0], first)
	first.Do("SET", "a", "1")
	first.Do("WAIT", "1", "0")
	first.Kill()
	redistest.Until(t, "the replica is the primary", func() bool { return c.Primary() == c.Servers[1] })
	require.Equal(t, "1", c.Servers[1].Do("GET", "a"))
	first.Restart()
}

// A relay that is cut passes nothing on until it is healed.
func TestRelay_Cut(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	r := redistest.NewRelay(t, s.Addr)
	c := dial(t, r.Addr)
	require.Equal(t, "+PONG", c.ask("PING"))
	r.Cut()
	c.send("SET a 1")
	require.Empty(t, s.Do("GET", "a"))
	r.Heal()
	require.Equal(t, "+OK", c.next())
	require.Equal(t, "1", s.Do("GET", "a"))
}

// A relay can suppress the messages of one channel.
func TestRelay_Suppress(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	r := redistest.NewRelay(t, s.Addr)
	for _, hello := range []string{"HELLO 2", "HELLO 3"} {
		before := r.Suppressed()
		c := dial(t, r.Addr)
		c.send(hello)
		c.send("SUBSCRIBE a b")
		redistest.Until(t, "it has subscribed", func() bool { return s.Do("PUBSUB", "NUMSUB", "b") == "b\n1" })
		r.Suppress("a")
		s.Do("PUBLISH", "a", "one")
		redistest.Until(t, "a message is suppressed", func() bool { return r.Suppressed() == before+1 })
		s.Do("PUBLISH", "b", "two")
		r.Heal()
		s.Do("PUBLISH", "a", "three")
		var texts []string
		for len(texts) == 0 || texts[len(texts)-1] != "three" {
			texts = append(texts, c.next())
		}
		require.Contains(t, texts, "two", hello)
		require.NotContains(t, texts, "one", hello)
		c.Close()
		redistest.Until(t, "it is gone", func() bool { return s.Do("PUBSUB", "NUMSUB", "b") == "b\n0" })
	}
}

// A conn is a connection on which commands are lines of text.
type conn struct {
	net.Conn
	t     *testing.T
	lines *bufio.Scanner
}

func dial(t *testing.T, addr string) *conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return &conn{c, t, bufio.NewScanner(c)}
}

func (c *conn) send(command string) {
	_, err := io.WriteString(c, command+"\r\n")
	require.NoError(c.t, err)
}

func (c *conn) next() string {
	require.True(c.t, c.lines.Scan())
	return c.lines.Text()
}

func (c *conn) ask(command string) string {
	c.send(command)
	return c.next()
}
