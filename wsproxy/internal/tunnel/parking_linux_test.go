package tunnel_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/cputest"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel/tunneltest"
)

// Child processes do not inherit the descriptor of a parked tunnel.
func TestTunnel_DescriptorsAreNotPassedOn(t *testing.T) {
	others := descriptorsOf(t) // the parent process's, or left by other tests, which may go at any time
	e := new(tunnel.Engine)
	for range 10 {
		echo(t, openOn(t, e, tunnel.Options{}))
	}
	stuck := openNarrow(t, e, tunnel.Options{})
	sent, _ := stuff(t, stuck, make([]byte, plenty))
	var sockets, epolls, pipes int
	for fd, what := range descriptorsOf(t) {
		info, err := os.ReadFile("/proc/self/fdinfo/" + fd)
		if err != nil || !strings.Contains(what, "eventpoll") && others[fd] == what {
			continue
		}
		var position, flags int
		_, err = fmt.Sscanf(string(info), "pos: %d\nflags: %o", &position, &flags)
		require.NoError(t, err)
		switch {
		case strings.HasPrefix(what, "socket:"):
			sockets++
		case strings.Contains(what, "eventpoll"):
			epolls++
		case strings.HasPrefix(what, "pipe:"):
			pipes++
		default:
			continue
		}
		require.NotZero(t, flags&syscall.O_CLOEXEC, what)
	}
	require.GreaterOrEqual(t, sockets, 40)
	require.GreaterOrEqual(t, epolls, 2, "the runtime's and the engine's")
	require.GreaterOrEqual(t, pipes, 2)
	stuck.Close(tunnel.Closed)
	require.Error(t, <-sent)
}

// descriptorsOf tells what each descriptor of the process stands for.
func descriptorsOf(t testing.TB) map[string]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	all := make(map[string]string)
	for _, entry := range entries {
		if what, err := os.Readlink("/proc/self/fd/" + entry.Name()); err == nil { // else it is closed meanwhile
			all[entry.Name()] = what
		}
	}
	return all
}

// A tunnel that nothing moves on has no goroutine, whatever it did before: it has sent much, its
// peers were slow, one side was half-closed.
func TestTunnel_ParksAgain(t *testing.T) {
	o := open(t, tcpLink.narrow(), tcpLink.narrow(), tunnel.Options{}, nil, nil)
	limit(t, o)
	const chunks = 12 // more than such sockets hold
	chunk, got := tunneltest.Bytes(1, 1<<20), make([]byte, 1<<20)
	for range 2 {
		settled(t, func() bool { return atWork() == 0 })
		sent := make(chan error, 1)
		go func() {
			for range chunks {
				if _, err := o.client.Write(chunk); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		settled(t, func() bool { return atWork() > 0 })
		for range chunks {
			_, err := io.ReadFull(o.backend, got)
			require.NoError(t, err)
			require.True(t, bytes.Equal(chunk, got))
		}
		require.NoError(t, <-sent)
	}
	settled(t, func() bool { return atWork() == 0 })
	halfClose(t, o.client)
	expectEOF(t, o.backend)
	write(t, o.backend, "answer")
	expect(t, o.client, "answer")
	settled(t, func() bool { return atWork() == 0 })
}

// atWork returns how many goroutines move bytes.
func atWork() int {
	stacks := make([]byte, 1<<20)
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "tunnel.(*direction).run(")
}

// A read stops in front of urgent data (RFC 9293 section 3.8.5), although more data follow.
func TestTunnel_W5_UrgentData(t *testing.T) {
	onEachEngine(t, func(t *testing.T, e *tunnel.Engine) {
		o := openOn(t, e, tunnel.Options{})
		urge := func(s string) {
			raw, err := o.client.(*net.TCPConn).SyscallConn()
			require.NoError(t, err)
			require.NoError(t, raw.Write(func(fd uintptr) bool {
				err = syscall.Sendto(int(fd), []byte(s), syscall.MSG_OOB, nil)
				return true
			}))
			require.NoError(t, err)
		}
		// Once in ten thousand times Linux 6.18 tells nobody, net's own connections included, of
		// what comes behind urgent data until more comes.
		nudges := 0
		arrives := func(want string) {
			got := make([]byte, len(want))
			require.NoError(t, o.backend.SetReadDeadline(time.Now().Add(2*time.Second)))
			n, err := io.ReadFull(o.backend, got)
			if err != nil {
				nudges++
				require.LessOrEqual(t, nudges, 3, err)
				write(t, o.client, ".")
				require.NoError(t, o.backend.SetReadDeadline(time.Now().Add(30*time.Second)))
				_, err = io.ReadFull(o.backend, got[n:])
				require.NoError(t, err)
				expect(t, o.backend, ".")
			}
			require.Equal(t, want, string(got))
		}
		for range 200 {
			write(t, o.client, "before")
			urge("urgent!") // its last octet is no part of the stream
			write(t, o.client, "after")
			arrives("beforeurgentafter")
			urge("!")
		}
		for range 20 { // much, so that it is spliced
			chunk := strings.Repeat("chunk", 20_000)
			write(t, o.client, chunk)
			urge("!")
			write(t, o.client, chunk)
			arrives(chunk + chunk)
		}
		write(t, o.client, "the end")
		arrives("the end")
	})
}

// When there are no descriptors to spare, for a socket's second one or for epoll's, a tunnel works
// without being parked.
func TestTunnel_NoDescriptorToSpare(t *testing.T) {
	var old syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old))
	for spare := range 4 {
		e := new(tunnel.Engine)
		client, near := tcpPair(t)
		backend, far := tcpPair(t)
		free, err := os.Open(os.DevNull) // gets the lowest number
		require.NoError(t, err)
		few := syscall.Rlimit{Cur: uint64(free.Fd()) + uint64(spare), Max: old.Max}
		require.NoError(t, free.Close())
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few))
		o := startOn(e, tunnel.Side{Conn: near}, tunnel.Side{Conn: far}, tunnel.Options{})
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old))
		o.client, o.backend = client, backend
		limit(t, o)
		echo(t, o)
		halfClose(t, client)
		expectEOF(t, backend)
		backend.Close()
		require.Equal(t, tunnel.ClientClosed, o.end(t).By)
		client.Close()
		shutdown(t, e)
	}
}

// Waiting blocks no thread and takes no CPU time.
func TestEngine_WaitsWithoutWork(t *testing.T) {
	e := new(tunnel.Engine)
	for range 100 {
		echo(t, openOn(t, e, tunnel.Options{}))
	}
	var least time.Duration
	for range 50 { // other tests may have left something to do
		before := cputest.Used(t)
		<-time.After(100 * time.Millisecond)
		if least = cputest.Used(t) - before; least < 10*time.Millisecond {
			return
		}
	}
	require.Fail(t, "there is always something to do", "%v in 100 ms", least)
}
