package tunnel_test

import (
	"net"
	"testing"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel/tunneltest"
)

func TestTunnel_W4_W5_Conformance(t *testing.T) {
	for _, pair := range [][2]link{
		{tcpLink, tcpLink},
		{keptLink, keptLink},
		{tlsLink, tcpLink},
		{tcpLink, bodyLink},
		{tcpLink, hiddenTLSLink},
		{tlsLink, tlsBodyLink},
		{plainLink, tcpLink},
		{tcpLink, refusingLink},
	} {
		client, backend := pair[0].narrow(), pair[1].narrow()
		t.Run(client.name+" to "+backend.name, func(t *testing.T) {
			t.Parallel() // most of the time is waiting
			tunneltest.Suite{
				Room: 8 << 20,
				Open: func(t testing.TB, early, glued []byte) (net.Conn, net.Conn) {
					r := open(t, client, backend, tunnel.Options{}, early, glued)
					return r.client, r.backend
				},
				ToBackend: backend.half,
				ToClient:  client.half,
			}.Run(t)
		})
	}
}
