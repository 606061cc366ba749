//go:build !unix

package upstream_test

import (
	"net"
	"testing"
)

func readable(t *testing.T, c net.Conn) bool { return atHand(t, c) >= 0 }

func atHand(t *testing.T, _ net.Conn) int {
	t.Skip("this system has no read that leaves the bytes where they are")
	return -1
}

func smallReceiveBuffer(*testing.T) net.ListenConfig { return net.ListenConfig{} }
