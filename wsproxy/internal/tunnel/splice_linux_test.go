package tunnel_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel/tunneltest"
)

// plenty is more than the sockets and the pipe of a tunnel that is narrow hold.
const plenty = 6 << 20

// openNarrow makes a tunnel between TCP sockets with little room on e, which may have others.
func openNarrow(t testing.TB, e *tunnel.Engine, o tunnel.Options) *opened {
	t.Helper()
	client, clientSide := tcpLink.narrow().make(t, nil)
	backend, backendSide := tcpLink.narrow().make(t, nil)
	t.Cleanup(func() {
		client.Close()
		backend.Close()
	})
	r := startOn(e, clientSide, backendSide, o)
	r.client, r.backend = client, backend
	limit(t, r)
	return r
}

// stuff sends p, which is plenty, and returns when a pipe holds a part of it and nothing moves,
// with what it had to read on the other side to get there.
func stuff(t testing.TB, o *opened, p []byte) (sent <-chan error, got []byte) {
	t.Helper()
	sent, got, err := tryToStuff(o, p)
	require.NoError(t, err)
	return sent, got
}

func tryToStuff(o *opened, p []byte) (sent <-chan error, got []byte, err error) {
	before := piped(o.engine)
	done := make(chan error, 1)
	go func() {
		_, err := o.backend.Write(p)
		done <- err
	}()
	got = make([]byte, 0, len(p))
	for !keepsOne(o.engine, before) {
		n := len(got) + 128<<10
		if n >= len(p) {
			return nil, nil, errors.New("no pipe keeps anything")
		}
		if _, err := io.ReadFull(o.client, got[len(got):n]); err != nil {
			return nil, nil, err
		}
		got = got[:n]
	}
	return done, got, nil
}

// keepsOne reports whether, when all has come to rest, more directions of e have a pipe than
// before.
func keepsOne(e *tunnel.Engine, before int) bool {
	const looks, rest = 40, 20
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	lasts := 0
	for i := 0; i < looks || lasts > 0 && lasts < rest; i++ {
		if lasts++; piped(e) <= before {
			lasts = 0
		}
		<-tick.C
	}
	return lasts >= rest
}

// piped returns how many directions of e have a pipe.
func piped(e *tunnel.Engine) int {
	made, spare := tunnel.Pipes(e)
	return made - spare
}

// Large payloads arrive unchanged, and the frames after them are still followed.
func TestTunnel_W5_SplicedFrames(t *testing.T) {
	onEachEngine(t, func(t *testing.T, e *tunnel.Engine) {
		for _, masked := range []bool{true, false} {
			o := openOn(t, e, webSocket)
			limit(t, o)
			from, to := o.client, o.backend
			if !masked {
				from, to = to, from
			}
			var stream []byte
			for i, size := range []int{1, 32 << 10, 56 << 10, 60 << 10, 2 << 20, 1, 200_000, 1 << 20} {
				stream = append(stream, frame(fin|text, tunneltest.Bytes(uint64(i), size), 8, masked)...)
			}
			stream = append(stream, closeFrame(4000+uint16(len(stream)%7), "", masked)...)
			stream = append(stream, frame(fin|closing, make([]byte, 3<<20), 8, masked)...) // no payload to skip
			stream = append(stream, frame(fin|text, make([]byte, 3<<20), 8, masked)[:2<<20]...)
			go func() {
				from.Write(stream)
				from.(*net.TCPConn).CloseWrite()
			}()
			got, err := io.ReadAll(to)
			require.NoError(t, err)
			require.True(t, bytes.Equal(stream, got))
			o.client.Close()
			o.backend.Close()
			end := o.end(t)
			require.NoError(t, end.Err)
			require.EqualValues(t, len(stream), end.FromClient+end.FromBackend)
			require.EqualValues(t, parse(stream).codes[0], end.ClientCode+end.BackendCode)
		}
		shutdown(t, e)
	})
}

// A close frame waits for the end of a payload in a pipe, and is sent right after it.
func TestTunnel_W6_CloseFrameAfterSpliced(t *testing.T) {
	o := openNarrow(t, new(tunnel.Engine), webSocket)
	message := frame(fin|text, tunneltest.Bytes(1, plenty), 8, false)
	next := frame(fin|text, []byte("too late"), 0, false)
	sent, got := stuff(t, o, slices.Concat(message, next))
	o.CloseFrame(restart, time.Now().Add(time.Minute))
	got, read := got[:len(message)], len(got)
	_, err := io.ReadFull(o.client, got[read:])
	require.NoError(t, err)
	require.True(t, bytes.Equal(message, got))
	expectClose(t, o.client, false, 1012, "restart")
	expectClose(t, o.backend, true, 1012, "restart")
	require.NoError(t, <-sent)
	write(t, o.client, string(closeFrame(1012, "", true)))
	expectEOF(t, o.client)
	write(t, o.backend, string(closeFrame(1012, "", false)))
	expectEOF(t, o.backend)
	o.client.Close()
	o.backend.Close()
	require.EqualValues(t, len(message), o.end(t).FromBackend)
	shutdown(t, o.engine)
}

// What a pipe holds goes with a tunnel that is cut, and with a reader that resets. The next tunnel
// sees nothing of it.
func TestTunnel_W5_SplicedAndCut(t *testing.T) {
	_, descriptors := held(t)
	message := frame(fin|text, tunneltest.Bytes(1, plenty), 8, false)
	e := new(tunnel.Engine)
	for _, options := range []tunnel.Options{{}, webSocket} {
		for _, tt := range []struct {
			cut func(o *opened)
			by  []tunnel.Reason // one of them
		}{
			{func(o *opened) { o.Close(tunnel.Moved) }, []tunnel.Reason{tunnel.Moved}},
			// The system tells a reset once: when the writer has it already, the reader finds an
			// end of stream.
			{func(o *opened) { tunneltest.Reset(t, o.client) },
				[]tunnel.Reason{tunnel.ClientReadFailed, tunnel.ClientWriteFailed, tunnel.ClientClosed}},
		} {
			o := openNarrow(t, e, options)
			other := openNarrow(t, e, options)
			sent, _ := stuff(t, o, message)
			tt.cut(o)
			go func() {
				<-sent
				o.backend.Close()
			}()
			end := o.end(t)
			require.Contains(t, tt.by, end.By)
			require.Less(t, end.FromBackend, int64(plenty))
			o.client.Close()

			go other.backend.Write(message)
			got := make([]byte, len(message))
			_, err := io.ReadFull(other.client, got)
			require.NoError(t, err)
			require.True(t, bytes.Equal(message, got))
			other.client.Close()
			other.backend.Close()
			require.NoError(t, other.end(t).Err)
		}
	}
	o := openNarrow(t, e, tunnel.Options{})
	sent, _ := stuff(t, o, message)
	o.Close(tunnel.Shutdown)
	require.Error(t, <-sent)
	o.client.Close()
	o.backend.Close()
	settled(t, func() bool { return openDescriptors(t) <= descriptors })
}

// A sender that resets in the middle of a payload: what had come arrives, and what it was is told,
// in the words of a read.
func TestTunnel_W5_SplicedAndReset(t *testing.T) {
	o := openNarrow(t, new(tunnel.Engine), webSocket)
	message := frame(fin|text, tunneltest.Bytes(1, plenty), 8, false)
	sent, got := stuff(t, o, message)
	tunneltest.Reset(t, o.backend)
	require.Error(t, <-sent)
	rest, err := io.ReadAll(o.client)
	require.ErrorIs(t, err, syscall.ECONNRESET)
	got = append(got, rest...)
	require.True(t, bytes.Equal(message[:len(got)], got))
	o.client.Close()
	end := o.end(t)
	require.Equal(t, tunnel.BackendReadFailed, end.By)
	require.ErrorIs(t, end.Err, syscall.ECONNRESET)
	require.ErrorContains(t, end.Err, "read tcp: read: ")
	require.EqualValues(t, len(got), end.FromBackend)
	shutdown(t, o.engine)
}

// Readers that take nothing hold a limited number of pipes, everybody else's bytes are copied, and
// unused pipes are few.
func TestEngine_FewPipes(t *testing.T) {
	_, descriptors := held(t)
	e := new(tunnel.Engine)
	var all []*opened
	var sent []<-chan error
	var left []int64
	message := frame(fin|text, tunneltest.Bytes(1, plenty), 8, false)
	for range tunnel.MaxPipes {
		o := openNarrow(t, e, webSocket)
		all = append(all, o)
		done, got := stuff(t, o, message)
		sent, left = append(sent, done), append(left, int64(len(message)-len(got)))
	}
	require.Equal(t, tunnel.MaxPipes, piped(e))

	copied := openNarrow(t, e, webSocket)
	done := make(chan error, 1)
	go func() {
		_, err := copied.backend.Write(message)
		done <- err
	}()
	got := make([]byte, len(message))
	_, err := io.ReadFull(copied.client, got)
	require.NoError(t, err)
	require.True(t, bytes.Equal(message, got))
	require.NoError(t, <-done)
	made, _ := tunnel.Pipes(e)
	require.Equal(t, tunnel.MaxPipes, made)

	var readers sync.WaitGroup
	for i, o := range all {
		readers.Go(func() { io.CopyN(io.Discard, o.client, left[i]) })
		require.NoError(t, <-sent[i])
	}
	readers.Wait()
	settled(t, func() bool { return piped(e) == 0 })
	made, _ = tunnel.Pipes(e)
	require.LessOrEqual(t, made, tunnel.MaxSpare)
	for _, o := range append(all, copied) {
		o.client.Close()
		o.backend.Close()
		o.end(t)
	}
	shutdown(t, e)
	settled(t, func() bool { return openDescriptors(t) <= descriptors })
}

// A slow reader of data in a pipe keeps its tunnel alive.
func TestTunnel_W5_SlowReaderOfSplicedIsNotIdle(t *testing.T) {
	t.Parallel()
	// A machine that stops for as long as the limit makes a tunnel idle.
	for idle := 300 * time.Millisecond; idle < 10*time.Second; idle *= 2 {
		if survives(t, idle) {
			return
		}
	}
	require.Fail(t, "a tunnel that moves bytes counts as idle")
}

// survives reports whether a tunnel lasts for longer than its idle limit while a pipe holds more
// than is read in that time.
func survives(t *testing.T, idle time.Duration) bool {
	client, near := tcpPair(t)
	require.NoError(t, client.(*net.TCPConn).SetReadBuffer(16<<10)) // or a socket would hold more than the pipe
	require.NoError(t, near.(*net.TCPConn).SetWriteBuffer(16<<10))
	backend, backendSide := tcpLink.narrow().make(t, nil)
	o := startOn(new(tunnel.Engine), tunnel.Side{Conn: near}, backendSide, tunnel.Options{Idle: idle})
	o.client, o.backend = client, backend
	limit(t, o)
	defer client.Close()
	defer backend.Close()
	if _, _, err := tryToStuff(o, make([]byte, plenty)); err != nil {
		return false
	}
	p := make([]byte, 4<<10)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < 4*idle; <-tick.C {
		if _, err := io.ReadFull(o.client, p); err != nil {
			return false
		}
	}
	o.Close(0)
	return o.end(t).By == tunnel.Closed
}

// Without descriptors for a pipe, bytes are copied.
func TestTunnel_NoDescriptorForPipe(t *testing.T) {
	var old syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old))
	restore := func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old) }
	t.Cleanup(restore)
	p, got := tunneltest.Bytes(1, plenty), make([]byte, plenty)
	for spare := range 2 {
		o := openNarrow(t, new(tunnel.Engine), tunnel.Options{})
		echo(t, o)
		taken := takeDescriptors(t, old.Max)
		for _, fd := range taken[:spare] {
			require.NoError(t, syscall.Close(fd))
		}
		sent := make(chan error, 1)
		go func() {
			_, err := o.client.Write(p)
			sent <- err
		}()
		_, err := io.ReadFull(o.backend, got)
		restore()
		for _, fd := range taken[spare:] {
			require.NoError(t, syscall.Close(fd))
		}
		require.NoError(t, err)
		require.NoError(t, <-sent)
		require.True(t, bytes.Equal(p, got))
		o.client.Close()
		o.backend.Close()
		shutdown(t, o.engine)
	}
}

// takeDescriptors lowers the limit of descriptors and takes all that are left, one or more.
func takeDescriptors(t testing.TB, most uint64) (taken []int) {
	t.Helper()
	highest := 0
	for fd := range descriptorsOf(t) {
		n, err := strconv.Atoi(fd)
		require.NoError(t, err)
		highest = max(highest, n)
	}
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(highest) + 3, Max: most}))
	for {
		fd, err := syscall.Dup(0)
		if err != nil {
			require.ErrorIs(t, err, syscall.EMFILE)
			return taken
		}
		taken = append(taken, fd)
	}
}

// Where a filter of system calls forbids splice(2), and where the system grants no large pipes,
// bytes are copied.
func TestTunnel_SpliceForbidden(t *testing.T) {
	for name, filter := range map[string][]syscall.SockFilter{
		"nothing": nil,
		"splice":  {jumpUnless(syscall.SYS_SPLICE, 1), refuse},
		"larger pipes": {
			jumpUnless(syscall.SYS_FCNTL, 3),
			{Code: loadWord, K: 24}, // the second argument, of a little-endian system
			jumpUnless(tunnel.SetPipeSize, 1), refuse,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if filter != nil {
				runtime.LockOSThread() // which ends with the test
				forbid(t, filter)
			}
			p := startProxy(t, "parking") // inherits the filter
			client, backend := p.open(t)
			before := p.usage(t, "usage").Descriptors
			message := frame(fin|text, tunneltest.Bytes(2, plenty), 8, false)
			for _, way := range [][2]net.Conn{{client, backend}, {backend, client}} {
				require.NoError(t, way[1].SetDeadline(time.Now().Add(30*time.Second)))
				go way[0].Write(message)
				got := make([]byte, len(message))
				_, err := io.ReadFull(way[1], got)
				require.NoError(t, err)
				require.True(t, bytes.Equal(message, got))
			}
			after := p.usage(t, "usage").Descriptors
			if filter == nil {
				require.Greater(t, after, before, "a spare pipe")
			} else {
				require.Equal(t, before, after)
			}
		})
	}
}

// The parts of a filter of system calls (seccomp(2), bpf(2)).
const (
	loadWord  = syscall.BPF_LD | syscall.BPF_W | syscall.BPF_ABS
	jumpEqual = syscall.BPF_JMP | syscall.BPF_JEQ | syscall.BPF_K
	yield     = syscall.BPF_RET | syscall.BPF_K
)

var (
	refuse = syscall.SockFilter{Code: yield, K: 0x00050000 | uint32(syscall.EPERM)} // SECCOMP_RET_ERRNO
	allow  = syscall.SockFilter{Code: yield, K: 0x7fff0000}                         // SECCOMP_RET_ALLOW
)

// jumpUnless jumps over so many instructions unless the word that was loaded is k.
func jumpUnless(k uint32, over uint8) syscall.SockFilter {
	return syscall.SockFilter{Code: jumpEqual, Jf: over, K: k}
}

// forbid puts a filter, which begins with the number of a system call at hand, before this thread
// and the programs that it starts.
func forbid(t *testing.T, filter []syscall.SockFilter) {
	t.Helper()
	const (
		noNewPrivileges = 38 // PR_SET_NO_NEW_PRIVS
		setSeccomp      = 22 // PR_SET_SECCOMP
		filterMode      = 2  // SECCOMP_MODE_FILTER
	)
	filter = slices.Concat([]syscall.SockFilter{{Code: loadWord, K: 0}}, filter, []syscall.SockFilter{allow})
	program := syscall.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, noNewPrivileges, 1, 0, 0, 0, 0)
	require.Zero(t, errno)
	_, _, errno = syscall.RawSyscall(syscall.SYS_PRCTL, setSeccomp, filterMode, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		t.Skip("the system has no filters of system calls:", errno)
	}
}

// Multipath TCP, which Go's listeners speak, is no reason for another behaviour. Where the system
// has none these are plain connections.
func TestTunnel_W5_SplicedMultipath(t *testing.T) {
	pair := func() (outer, near net.Conn) {
		var listen net.ListenConfig
		listen.SetMultipathTCP(true)
		l, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		var d net.Dialer
		d.SetMultipathTCP(true)
		outer, err = d.DialContext(t.Context(), "tcp", l.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { outer.Close() })
		near, err = l.Accept()
		require.NoError(t, err)
		return outer, near
	}
	client, near := pair()
	backend, far := pair()
	o := startOn(new(tunnel.Engine), tunnel.Side{Conn: near}, tunnel.Side{Conn: far}, tunnel.Options{})
	o.client, o.backend = client, backend
	limit(t, o)
	p := tunneltest.Bytes(1, plenty)
	for _, way := range [][2]net.Conn{{client, backend}, {backend, client}} {
		go func() {
			way[0].Write(p)
			way[0].(*net.TCPConn).CloseWrite()
		}()
		got, err := io.ReadAll(way[1])
		require.NoError(t, err)
		require.True(t, bytes.Equal(p, got))
	}
	end := o.end(t)
	require.NoError(t, end.Err)
	require.Equal(t, []int64{plenty, plenty}, []int64{end.FromClient, end.FromBackend})
	shutdown(t, o.engine)
}
