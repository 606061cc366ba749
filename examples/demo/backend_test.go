package main

import (
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBackend_StopEndsSockets(t *testing.T) {
	b := &backend{id: "app-1", sticky: &atomic.Pointer[sticky]{}}
	b.sticky.Store(&sticky{})
	require.NoError(t, b.start())
	url := b.target().URL
	ws, _ := newVisitor(t).dial(t, url.String())
	f := b.life
	b.stop()
	require.Empty(t, f.sockets, "stop waits for them")
	require.Nil(t, b.life)
	for {
		var p [1]byte
		if _, err := ws.Read(p[:]); err != nil {
			break
		}
	}

	late, peer := net.Pipe()
	defer peer.Close()
	require.False(t, f.add(&socket{conn: late}), "a socket that comes too late is not kept")

	require.Eventually(t, func() bool { return b.start() == nil }, patience, glance, "others may have its port for a moment")
	require.Equal(t, url, b.target().URL)
	b.stop()
}
