package redisserver_test

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/internal/redisserver"
)

func TestServer(t *testing.T) {
	for _, program := range []string{"redis-server", "redis-cli"} {
		redisserver.Program(t, program)
	}
	s := redisserver.Start(t, "--maxclients", "50")
	require.Equal(t, "3", s.CLI("rpush", "list", "a", "b", "c"))
	require.Equal(t, "a\nb", s.CLI("lrange", "list", "0", "1"))
	require.Equal(t, "maxclients\n50", s.CLI("config", "get", "maxclients"))

	s.Pause()
	c, err := net.Dial("tcp", s.Addr)
	require.NoError(t, err, "a server that is paused accepts")
	defer c.Close()
	_, err = c.Write([]byte("PING\r\n"))
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	_, err = c.Read(make([]byte, 7))
	require.Error(t, err, "and does not answer")
	s.Resume()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err = c.Read(make([]byte, 7))
	require.NoError(t, err)

	s.Kill()
	s.Kill()
	_, err = net.Dial("tcp", s.Addr)
	require.Error(t, err)
	s.Restart()
	require.Empty(t, s.CLI("lrange", "list", "0", "1"), "the data is gone")
}
