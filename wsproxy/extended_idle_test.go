package wsproxy_test

import (
	"io"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy"
)

// An idle tunnel over HTTP/2 holds no walk, and no buffer of the proxy's. The limit has room for
// the client and the target, which run in this process, and for what net/http's stream needs.
func TestProxy_W2_IdleExtendedHoldsLittle(t *testing.T) {
	if !inExtended(t) {
		return
	}
	pool, _ := newPool(t, rawBackend(t, "a", answersLast))
	c := newH2Client(t, serveTLS(t, &wsproxy.Proxy{Pool: pool}))
	c.open(t, nil)
	before := liveHeap()
	const tunnels = 200
	for range tunnels {
		conn := c.open(t, nil)
		_, err := io.WriteString(conn, "\x81\x00")
		require.NoError(t, err)
		_, err = io.ReadFull(conn, make([]byte, 2))
		require.NoError(t, err)
	}
	each := (liveHeap() - before) / tunnels
	t.Logf("%d bytes each", each)
	require.Less(t, each, 21<<10)
}

// liveHeap returns how many bytes of the heap are in use.
func liveHeap() int {
	for range 3 { // pools keep what is free for two collections
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
