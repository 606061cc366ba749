package underway_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

// full listens on a Unix socket, fills its backlog and returns the socket.
func full(t *testing.T) (path string, fd int) {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "app.sock")
	fd, err = syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}))
	require.NoError(t, syscall.Listen(fd, 0))
	for range 10 {
		conn, err := net.Dial("unix", path)
		if err != nil {
			require.ErrorIs(t, err, syscall.EAGAIN)
			return path, fd
		}
		t.Cleanup(func() { conn.Close() })
	}
	require.Fail(t, "the backlog has no end")
	return "", 0
}

// Dial waits for a Unix socket with a full backlog, as TCP does, but no longer than the dialer
// allows.
func TestDial_W10_UnixBacklog(t *testing.T) {
	path, fd := full(t)
	_, err := underway.Dial(t.Context(), net.Dialer{Timeout: 20 * time.Millisecond}, "unix", path)
	var late net.Error
	require.True(t, errors.As(err, &late) && late.Timeout(), "%v", err)
	require.ErrorContains(t, err, path)

	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err = underway.Dial(ctx, net.Dialer{}, "unix", path)
	require.Error(t, err)
	require.Error(t, ctx.Err(), "it has waited")

	dialled := make(chan error)
	go func() {
		conn, err := underway.Dial(t.Context(), net.Dialer{}, "unix", path)
		if err == nil {
			conn.Close()
		}
		dialled <- err
	}()
	conn, _, err := syscall.Accept(fd)
	require.NoError(t, err)
	defer syscall.Close(conn)
	require.NoError(t, <-dialled)

	_, err = underway.Dial(t.Context(), net.Dialer{Timeout: time.Hour}, "unix", path+".none")
	require.ErrorIs(t, err, syscall.ENOENT, "at once")
}
