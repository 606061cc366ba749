package tunnel_test

import (
	"fmt"
	"io"
	"testing"
)

var benchLinks = [][2]link{{tcpLink, tcpLink}, {tcpLink, bodyLink}, {tlsLink, tcpLink}}

// One message to the backend and back, as WebSocket frames.
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

// Bulk data in one direction.
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
