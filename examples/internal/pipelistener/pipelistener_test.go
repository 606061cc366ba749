package pipelistener_test

import (
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/internal/pipelistener"
)

func TestListener(t *testing.T) {
	l := pipelistener.New()
	go func() {
		c, _ := l.Accept()
		io.WriteString(c, "hello")
		c.Close()
	}()
	c, err := l.Connect()
	require.NoError(t, err)
	said, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "hello", string(said))

	require.NoError(t, l.Close())
	_, err = l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = l.Connect()
	require.ErrorIs(t, err, net.ErrClosed)
}
