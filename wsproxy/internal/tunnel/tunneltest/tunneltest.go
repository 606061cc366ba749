// Package tunneltest checks whatever joins two connections against the promises of a tunnel. No
// byte is lost, added or reordered. Every end is passed on. A slow reader stops the writer. The
// package uses only the two outer ends, and knows nothing of what is between them.
package tunneltest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// patience bounds a test that hangs. A busy machine takes many seconds for tens of megabytes.
	patience = 2 * time.Minute

	// usualRoom is enough for sockets that grow as far as systems usually let them.
	usualRoom = 64 << 20
)

// A Suite says how tunnels are made and what their ends can do.
type Suite struct {
	// Open makes a tunnel, and returns its two outer ends. Before the tunnel starts, the client has
	// sent early and the backend has sent glued. Both may be empty. Open registers the close of
	// everything that it makes with t.Cleanup.
	Open func(t testing.TB, early, glued []byte) (client, backend net.Conn)

	// ToBackend and ToClient say that an end of stream reaches that side while that side can still
	// send. The other side's end then has a method CloseWrite() error.
	ToBackend, ToClient bool

	// Room is a number of bytes that the sockets of both sides together cannot hold. A writer whose
	// reader does not read tries to send one and a half times as many. Zero means 64 MiB.
	Room int64
}

// Sizes are message sizes around the borders of buffers and of TLS records.
var Sizes = []int{
	0, 1, 2, 125, 126, 1023, 1024, 1025, 4095, 4096, 4097, 16383, 16384, 16385,
	32767, 32768, 32769, 65535, 65536, 65537, 1 << 20,
}

// Run runs the suite.
func (s Suite) Run(t *testing.T) {
	t.Run("echo", s.echo)
	t.Run("both ways", s.bothWays)
	t.Run("early and glued", s.earlyAndGlued)
	for _, w := range []way{
		{name: "client to backend", half: s.ToBackend},
		{name: "backend to client", half: s.ToClient, reverse: true},
	} {
		t.Run(w.name+"/half-close", func(t *testing.T) { s.halfClose(t, w) })
		t.Run(w.name+"/close", func(t *testing.T) { s.close(t, w) })
		t.Run(w.name+"/reset", func(t *testing.T) { s.reset(t, w) })
		t.Run(w.name+"/stuck reader", func(t *testing.T) { s.stuckReader(t, w) })
	}
}

// way is the direction that a test looks at.
type way struct {
	name    string
	half    bool // an end of stream is passed on as an end of stream
	reverse bool
}

// open returns the sending and the receiving end.
func (s Suite) open(t *testing.T, w way) (from, to net.Conn) {
	from, to = s.Open(t, nil, nil)
	if w.reverse {
		from, to = to, from
	}
	limit(t, from, to)
	return from, to
}

func limit(t testing.TB, conns ...net.Conn) {
	for _, c := range conns {
		require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	}
}

// Bytes returns n bytes that depend on the seed.
func Bytes(seed uint64, n int) []byte {
	p := make([]byte, n)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	rand.NewChaCha8(key).Read(p)
	return p
}

func (s Suite) echo(t *testing.T) {
	client, backend := s.open(t, way{})
	go io.Copy(backend, backend)
	for i, n := range Sizes {
		want := Bytes(uint64(i), n)
		sent := send(client, want)
		got := make([]byte, n)
		_, err := io.ReadFull(client, got)
		require.NoError(t, err, "size %d", n)
		require.NoError(t, <-sent, "size %d", n)
		require.True(t, bytes.Equal(want, got), "size %d: other bytes came back", n)
	}
}

// send writes p from a goroutine of its own.
func send(c net.Conn, p []byte) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := c.Write(p)
		done <- err
	}()
	return done
}

func (s Suite) bothWays(t *testing.T) {
	const size = 4 << 20
	client, backend := s.open(t, way{})
	up, down := Bytes(1, size), Bytes(2, size)
	sentUp, sentDown := sendChunks(client, up, 3), sendChunks(backend, down, 4)
	gotUp := make(chan [32]byte, 1)
	go func() { gotUp <- sum(backend, size) }()
	require.Equal(t, sha256.Sum256(down), sum(client, size), "from the backend")
	require.Equal(t, sha256.Sum256(up), <-gotUp, "from the client")
	require.NoError(t, <-sentUp)
	require.NoError(t, <-sentDown)
}

// sendChunks writes p in pieces of random size.
func sendChunks(c net.Conn, p []byte, seed uint64) <-chan error {
	done := make(chan error, 1)
	random := rand.New(rand.NewPCG(seed, seed))
	go func() {
		for len(p) > 0 {
			n := min(1+random.IntN(100_000), len(p))
			if _, err := c.Write(p[:n]); err != nil {
				done <- err
				return
			}
			p = p[n:]
		}
		done <- nil
	}()
	return done
}

// sum returns the checksum of the next n bytes, or a wrong one if there are fewer.
func sum(r io.Reader, n int64) [32]byte {
	h := sha256.New()
	io.CopyN(h, r, n)
	return [32]byte(h.Sum(nil))
}

func (s Suite) earlyAndGlued(t *testing.T) {
	for _, n := range []int{1, 1024, 100_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			early, glued := Bytes(5, n), Bytes(6, n)
			client, backend := s.Open(t, early, glued)
			limit(t, client, backend)
			later := []byte("and the rest")
			for _, end := range []struct {
				from, to net.Conn
				first    []byte
			}{{client, backend, early}, {backend, client, glued}} {
				sent := send(end.from, later)
				got := make([]byte, n+len(later))
				_, err := io.ReadFull(end.to, got)
				require.NoError(t, err)
				require.NoError(t, <-sent)
				require.True(t, bytes.Equal(append(end.first, later...), got))
			}
		})
	}
}

// halfClose sends bytes and an end of stream, and requires that both arrive at the other side. If
// ends of stream are passed on, the other side's answer must then arrive, too.
func (s Suite) halfClose(t *testing.T, w way) {
	sizes := []int{0, 1, 100_000}
	if !w.half {
		sizes = sizes[2:] // the end comes late then, so only one size
	}
	for _, n := range sizes {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			from, to := s.open(t, w)
			closer, ok := from.(interface{ CloseWrite() error })
			if !ok {
				require.False(t, w.half, "this end cannot send an end of stream")
				return
			}
			question, answer := Bytes(7, n), Bytes(8, 3*n)
			sent := send(from, question)
			got := make([]byte, n)
			_, err := io.ReadFull(to, got)
			require.NoError(t, err)
			require.NoError(t, <-sent)
			require.True(t, bytes.Equal(question, got))
			require.NoError(t, closer.CloseWrite())
			requireEnd(t, to)
			if !w.half {
				return
			}
			sent = send(to, answer)
			got = make([]byte, len(answer))
			_, err = io.ReadFull(from, got)
			require.NoError(t, err)
			require.NoError(t, <-sent)
			require.True(t, bytes.Equal(answer, got))
			require.NoError(t, to.Close())
			requireEnd(t, from)
		})
	}
}

// requireEnd requires that the next Read returns no byte, but io.EOF or another error.
func requireEnd(t testing.TB, c net.Conn) {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	require.Zero(t, n)
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the end was not passed on")
}

// close sends bytes and closes the connection. All bytes must arrive, and after them the end.
func (s Suite) close(t *testing.T, w way) {
	from, to := s.open(t, w)
	want := Bytes(9, 200_000)
	got := make(chan []byte, 1)
	go func() {
		p, _ := io.ReadAll(to)
		got <- p
	}()
	require.NoError(t, <-send(from, want))
	require.NoError(t, from.Close())
	require.True(t, bytes.Equal(want, <-got))
	to.Close()
}

// reset resets one end after all bytes have arrived at the other end. The other end must get an end
// of stream or an error.
func (s Suite) reset(t *testing.T, w way) {
	from, to := s.open(t, w)
	want := Bytes(10, 100_000)
	sent := send(from, want)
	got := make([]byte, len(want))
	_, err := io.ReadFull(to, got)
	require.NoError(t, err)
	require.NoError(t, <-sent)
	require.True(t, bytes.Equal(want, got))
	Reset(t, from)
	requireEnd(t, to)
}

// Reset closes c so that its peer sees a reset: the TCP connection under c is closed with
// SO_LINGER zero.
func Reset(t testing.TB, c net.Conn) {
	t.Helper()
	if under, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = under.NetConn()
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		require.NoError(t, tcp.SetLinger(0))
	}
	require.NoError(t, c.Close())
}

// stuckReader sends to an end that does not read. The writer must be stopped once the sockets are
// full, and the other direction must go on. When the reader starts to read, no byte may be missing.
func (s Suite) stuckReader(t *testing.T, w way) {
	from, to := s.open(t, w)
	chunk, room := Bytes(11, 1<<20), cmp.Or(s.Room, usualRoom)
	chunks := room * 3 / 2 >> 20
	var written atomic.Int64
	done := make(chan error, 1)
	go func() {
		for range chunks {
			if _, err := from.Write(chunk); err != nil {
				done <- err
				return
			}
			written.Add(1)
		}
		done <- nil
	}()
	held := standstill(&written) << 20
	require.Less(t, held, room, "bytes taken although nobody reads")

	sent := send(to, []byte("still here"))
	got := make([]byte, len("still here"))
	_, err := io.ReadFull(from, got)
	require.NoError(t, err)
	require.NoError(t, <-sent)

	all := sha256.New()
	for range chunks {
		all.Write(chunk)
	}
	require.Equal(t, [32]byte(all.Sum(nil)), sum(to, chunks<<20))
	require.NoError(t, <-done)
}

// standstill waits until n has not changed for a while and returns it.
func standstill(n *atomic.Int64) int64 {
	const still = 10
	last, same := n.Load(), 0
	for range time.Tick(20 * time.Millisecond) {
		if now := n.Load(); now != last {
			last, same = now, 0
		} else if same++; same == still {
			break
		}
	}
	return last
}
