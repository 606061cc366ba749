package tunnel_test

import (
	"fmt"
	"io"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

var benchLinks = [][2]link{{tcpLink, tcpLink}, {tcpLink, bodyLink}, {tlsLink, tcpLink}}

// One message to the backend and back, frames counted.
func BenchmarkTunnelEcho(b *testing.B) {
	for _, pair := range benchLinks {
		for _, size := range []int{100, 10_000} {
			b.Run(fmt.Sprintf("%s-%s/size=%d", pair[0].name, pair[1].name, size), func(b *testing.B) {
				o := open(b, pair[0], pair[1], webSocket, nil, nil)
				go io.Copy(o.backend, o.backend)
				p := frame(fin|text, make([]byte, size-4), 2, false)
				b.SetBytes(int64(len(p)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := o.client.Write(p); err != nil {
						b.Fatal(err)
					}
					if _, err := io.ReadFull(o.client, p); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// One way as fast as it goes.
func BenchmarkTunnelBulk(b *testing.B) {
	for _, pair := range benchLinks {
		b.Run(pair[0].name+"-"+pair[1].name, func(b *testing.B) {
			o := open(b, pair[0], pair[1], webSocket, nil, nil)
			const size = 1 << 20
			p := frame(fin|text, make([]byte, size-10), 8, false)
			received := make(chan struct{}, 64)
			go func() {
				p := make([]byte, size)
				for {
					if _, err := io.ReadFull(o.client, p); err != nil {
						return
					}
					received <- struct{}{}
				}
			}()
			b.SetBytes(size)
			b.ReportAllocs()
			ahead := 0
			for b.Loop() {
				if _, err := o.backend.Write(p); err != nil {
					b.Fatal(err)
				}
				if ahead++; ahead > 32 {
					<-received
					ahead--
				}
			}
			for range ahead {
				<-received
			}
		})
	}
}

// Tunnels that were used and wait: heap and stacks for one, beyond its four sockets.
func BenchmarkTunnelIdle(b *testing.B) {
	for _, pair := range benchLinks {
		b.Run(pair[0].name+"-"+pair[1].name, func(b *testing.B) {
			const n = 500
			var most int64 // later rounds find stacks of earlier ones
			for b.Loop() {
				most = max(most, idleMemory(b, pair, n))
			}
			b.ReportMetric(float64(most)/n, "B/tunnel")
		})
	}
}

// idleMemory returns what n tunnels hold after each has moved one message each way.
func idleMemory(b *testing.B, pair [2]link, n int) int64 {
	type ends struct{ client, backend tunnel.Side }
	var e tunnel.Engine
	var all []*opened
	var sides []ends
	for range n {
		client, near := pair[0].make(b, nil)
		backend, far := pair[1].make(b, nil)
		all = append(all, &opened{client: client, backend: backend})
		sides = append(sides, ends{near, far})
	}
	before := inUse()
	for i, o := range all {
		o.Tunnel = e.Start(sides[i].client, sides[i].backend, webSocket)
		echo(b, o)
	}
	held := inUse() - before
	for _, o := range all {
		o.client.Close()
		o.backend.Close()
	}
	require.NoError(b, e.Shutdown(b.Context()))
	return held
}

func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
