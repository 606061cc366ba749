package stream_test

import (
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel/tunneltest"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// ways has what stands between a client and its target: nothing, the smallest possible proxy, or a
// Server.
var ways = []struct {
	name string
	open func(b *testing.B, target *backend) (addr string)
}{
	{"nothing", func(_ *testing.B, target *backend) string { return target.Addr().String() }},
	{"copy", func(b *testing.B, target *backend) string {
		return newBackend(b, "", nil, func(client net.Conn) { bare(client, target.Addr().String()) }).Addr().String()
	}},
	{"stream", func(b *testing.B, target *backend) string {
		s := &stream.Server{Pool: newPool(b, balancer.Config{}, target.target()), Logger: noLog}
		l := listen(b)
		go s.Serve(l)
		b.Cleanup(func() { s.Close() })
		return l.Addr().String()
	}},
}

// bare joins two connections with a pair of io.Copy.
func bare(client net.Conn, addr string) {
	defer client.Close()
	far, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer far.Close()
	done := make(chan struct{})
	go func() {
		io.Copy(far, client)
		far.(*net.TCPConn).CloseWrite()
		close(done)
	}()
	io.Copy(client, far)
	client.(*net.TCPConn).CloseWrite()
	<-done
}

// A connection is made, one byte goes there and back, and it ends.
func BenchmarkServer_Connection(b *testing.B) {
	target := newBackend(b, "a", nil, func(c net.Conn) {
		p := make([]byte, 1)
		c.Read(p)
		c.Write(p)
		c.Read(p)
		tunneltest.Reset(b, c) // thousands of ports in TIME_WAIT would be in the way
	})
	for _, way := range ways {
		b.Run("through="+way.name, func(b *testing.B) {
			addr := way.open(b, target)
			p := make([]byte, 1)
			b.ReportAllocs()
			for b.Loop() {
				c, err := net.Dial("tcp", addr)
				require.NoError(b, err)
				_, err = c.Write(p)
				require.NoError(b, err)
				_, err = io.ReadFull(c, p)
				require.NoError(b, err)
				tunneltest.Reset(b, c)
			}
		})
	}
}

// Bytes go there and back.
func BenchmarkServer_Echo(b *testing.B) {
	target := newBackend(b, "a", nil, func(c net.Conn) {
		defer c.Close()
		p := make([]byte, 64<<10)
		for {
			n, err := c.Read(p)
			if err != nil {
				return
			}
			c.Write(p[:n])
		}
	})
	for _, size := range []int{64, 1 << 20} {
		for _, way := range ways {
			b.Run(fmt.Sprintf("size=%d/through=%s", size, way.name), func(b *testing.B) {
				c, err := net.Dial("tcp", way.open(b, target))
				require.NoError(b, err)
				defer c.Close()
				out, in := make([]byte, size), make([]byte, size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					sent := make(chan error, 1)
					if size > 64 {
						go func() {
							_, err := c.Write(out)
							sent <- err
						}()
					} else {
						_, err := c.Write(out)
						sent <- err
					}
					_, err := io.ReadFull(c, in)
					require.NoError(b, err)
					require.NoError(b, <-sent)
				}
			})
		}
	}
}
