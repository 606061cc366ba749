//go:build unix

package upstream_test

import (
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// readable reports whether a Read would return at once.
func readable(t *testing.T, c net.Conn) bool { return atHand(t, c) >= 0 }

// atHand returns how much there is to read; 0 at the end, and -1 when a Read would wait.
func atHand(t *testing.T, c net.Conn) (n int) {
	raw, err := c.(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		n, _, err = syscall.Recvfrom(int(fd), make([]byte, 64<<10), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		if err != nil {
			n = -1
		}
	}))
	return n
}

// smallReceiveBuffer makes the connections of a listener take in as little as the system allows.
func smallReceiveBuffer(t *testing.T) net.ListenConfig {
	return net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			require.NoError(t, syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 1<<10))
		})
	}}
}
