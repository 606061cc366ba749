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

// A relay that is cut passes nothing on until it is healed. One that is deaf loses answers.
func TestRelay(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	r := redistest.NewRelay(t, s.Addr)
	c, err := net.Dial("tcp", r.Addr)
	require.NoError(t, err)
	defer c.Close()
	answers := bufio.NewScanner(c)
	send := func(command string) {
		_, err := io.WriteString(c, command+"\r\n")
		require.NoError(t, err)
	}
	next := func() string {
		require.True(t, answers.Scan())
		return answers.Text()
	}
	send("PING one")
	require.Equal(t, []string{"$3", "one"}, []string{next(), next()})

	r.Cut()
	send("SET a 1")
	require.Empty(t, s.Do("GET", "a"))
	r.Heal()
	require.Equal(t, "+OK", next())
	require.Equal(t, "1", s.Do("GET", "a"))

	r.Deafen()
	send("SET a 2")
	redistest.Until(t, "the command has come", func() bool { return s.Do("GET", "a") == "2" })
	redistest.Until(t, "the answer is lost", func() bool { return r.Lost() == len("+OK\r\n") })
	r.Heal()
	send("PING two")
	require.Equal(t, []string{"$3", "two"}, []string{next(), next()})
}
