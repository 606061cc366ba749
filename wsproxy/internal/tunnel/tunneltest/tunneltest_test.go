package tunneltest_test

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel/tunneltest"
)

// A connection is the perfect tunnel between its two ends.
func TestSuite_Connection(t *testing.T) {
	tunneltest.Suite{ToBackend: true, ToClient: true, Open: func(t testing.TB, early, glued []byte) (client, backend net.Conn) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		client, err = net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		backend, err = l.Accept()
		require.NoError(t, err)
		t.Cleanup(func() {
			client.Close()
			backend.Close()
		})
		_, err = client.Write(early)
		require.NoError(t, err)
		_, err = backend.Write(glued)
		require.NoError(t, err)
		return client, backend
	}}.Run(t)
}
