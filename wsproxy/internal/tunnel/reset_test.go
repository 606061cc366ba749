//go:build linux

package tunnel_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel/tunneltest"
)

// What breaks on one side is reset on the other, after all that came before; what ends there ends
// here. Nobody can take the one for the other.
func TestTunnel_W5_ResetIsPassedOn(t *testing.T) {
	links := []link{tcpLink, keptLink, tlsLink, hiddenLink, hiddenTLSLink, tcpLink.narrow()}
	for _, from := range links {
		for _, to := range links {
			for _, size := range []int{0, 1, 32 << 10} {
				for _, fromClient := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s to %s/%d/%t", from.name, to.name, size, fromClient), func(t *testing.T) {
						begin := func() (o *opened, breaks, learns net.Conn) {
							if fromClient {
								o = open(t, from, to, tunnel.Options{}, nil, nil)
								return o, o.client, o.backend
							}
							o = open(t, to, from, tunnel.Options{}, nil, nil)
							return o, o.backend, o.client
						}
						want := tunneltest.Bytes(1, size)
						o, breaks, learns := begin()
						write(t, breaks, string(want))
						tunneltest.Reset(t, breaks)
						got, err := io.ReadAll(learns)
						require.ErrorIs(t, err, syscall.ECONNRESET)
						if from.name != tlsLink.name && from.name != hiddenTLSLink.name { // its own system drops what TLS had not sent
							require.True(t, bytes.Equal(want, got), len(got))
						}
						require.Contains(t, []tunnel.Reason{tunnel.ClientReadFailed, tunnel.BackendReadFailed}, o.end(t).By)

						o, breaks, learns = begin()
						go func() {
							breaks.Write(want)
							breaks.Close()
						}()
						got, err = io.ReadAll(learns)
						require.NoError(t, err)
						require.True(t, bytes.Equal(want, got))
						learns.Close()
						require.NoError(t, o.end(t).Err)
					})
				}
			}
		}
	}
}

// A peer that resets while it is written to is found out by the write, and a read sees a clean end:
// the other side is told of the reset all the same.
func TestTunnel_W5_ResetThatAWriteFinds(t *testing.T) {
	onEachEngine(t, func(t *testing.T, e *tunnel.Engine) {
		o := openOn(t, e, tunnel.Options{})
		echo(t, o)
		written := make(chan error, 1)
		go func() {
			for {
				if _, err := o.client.Write(make([]byte, 4<<10)); err != nil {
					written <- err
					return
				}
			}
		}()
		tunneltest.Reset(t, o.backend)
		_, err := io.Copy(io.Discard, o.client)
		// The system tells one of the two.
		require.ErrorIs(t, errors.Join(err, <-written), syscall.ECONNRESET)
		o.end(t)
		shutdown(t, e)
	})
}
