package tunnel_test

import (
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

// A side without CloseWrite is closed completely, but only once it has been silent.
func TestTunnel_W5_WithoutCloseWrite(t *testing.T) {
	t.Run("what it still sends arrives", func(t *testing.T) {
		inBubble(t, false, tunnel.Options{}, func(t *testing.T, b *bubble) {
			time.Sleep(time.Hour) // silence before that does not count
			write(t, b.client, "question")
			expect(t, b.backend, "question")
			require.NoError(t, b.client.CloseWrite())
			for range 20 {
				time.Sleep(900 * time.Millisecond)
				go io.WriteString(b.backend, "answer")
				expect(t, b.client, "answer")
			}
			last := time.Now()
			expectEOF(t, b.backend)
			require.Equal(t, time.Second, time.Since(last))
			expectEOF(t, b.client)
			require.Equal(t, tunnel.End{
				By: tunnel.ClientClosed, FromClient: 8, FromBackend: 20 * 6, Duration: time.Hour + 19*time.Second,
			}, b.end())
		})
	})
	t.Run("what is stuck on its way out is not silence", func(t *testing.T) {
		inBubble(t, false, tunnel.Options{Linger: -1}, func(t *testing.T, b *bubble) {
			require.NoError(t, b.client.CloseWrite())
			write(t, b.backend, "answer")
			time.Sleep(time.Minute) // the client reads nothing meanwhile
			expect(t, b.client, "answer")
			end := b.end()
			require.Equal(t, int64(6), end.FromBackend)
			require.Equal(t, 61*time.Second, end.Duration)
		})
	})
	t.Run("a client too", func(t *testing.T) {
		inBubble(t, false, tunnel.Options{}, func(t *testing.T, b *bubble) {
			time.Sleep(time.Hour)
			require.NoError(t, b.backend.CloseWrite())
			time.Sleep(500 * time.Millisecond)
			write(t, b.client, "late")
			expect(t, b.backend, "late")
			expectEOF(t, b.client)
			require.Equal(t, tunnel.End{
				By: tunnel.BackendClosed, FromClient: 4, Duration: time.Hour + 1500*time.Millisecond,
			}, b.end())
		})
	})
	t.Run("one that ends in time is not waited for", func(t *testing.T) {
		inBubble(t, false, tunnel.Options{}, func(t *testing.T, b *bubble) {
			require.NoError(t, b.client.CloseWrite())
			time.Sleep(time.Millisecond)
			require.NoError(t, b.backend.CloseWrite())
			require.Equal(t, time.Millisecond, b.end().Duration)
		})
	})
	t.Run("linger is the limit of that too", func(t *testing.T) {
		inBubble(t, false, tunnel.Options{Linger: 10 * time.Second}, func(t *testing.T, b *bubble) {
			require.NoError(t, b.client.CloseWrite())
			go func() {
				for {
					if _, err := io.WriteString(b.backend, "x"); err != nil {
						return
					}
					time.Sleep(900 * time.Millisecond)
				}
			}()
			got, err := io.ReadAll(b.client)
			require.NoError(t, err)
			require.Len(t, got, 12)
			end := b.end()
			require.Equal(t, tunnel.Linger, end.By)
			require.Equal(t, 10*time.Second, end.Duration)
		})
	})
}

// A side whose CloseWrite fails is treated like one that has none.
func TestTunnel_W5_CloseWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, near := newDuplex()
		backend, far := newDuplex()
		o := start(t, tunnel.Side{Conn: near}, tunnel.Side{Conn: refusesEnd{far}}, tunnel.Options{})
		require.NoError(t, client.CloseWrite())
		time.Sleep(999 * time.Millisecond)
		write(t, backend, "answer")
		expect(t, client, "answer")
		expectEOF(t, backend)
		end := <-o.ended
		require.Equal(t, tunnel.ClientClosed, end.By)
		require.Equal(t, int64(6), end.FromBackend)
		require.Equal(t, 1999*time.Millisecond, end.Duration)
	})
}

type refusesEnd struct{ *duplex }

func (refusesEnd) CloseWrite() error { return syscall.ENOTCONN }

// When a peer answers and goes away, writes fail while its answer is still to be read.
func TestTunnel_W5_WriteFails(t *testing.T) {
	for name, tt := range failures {
		t.Run(name, func(t *testing.T) {
			inBubble(t, true, tunnel.Options{}, func(t *testing.T, b *bubble) {
				from, to, toConn := tt.sides(b)
				toConn.breakWrites(errBroken)
				write(t, from, "this is what fails")
				for range 5 {
					time.Sleep(900 * time.Millisecond)
					write(t, from, "and this is dropped")
					write(t, to, "answer")
					expect(t, from, "answer")
				}
				require.NoError(t, to.Close())
				expectEOF(t, from)
				require.NoError(t, from.Close())
				end := b.end()
				require.Equal(t, tt.writeFailed, end.By)
				require.ErrorIs(t, end.Err, errBroken)
				require.ErrorContains(t, end.Err, tt.writeFailed.String())
				require.Equal(t, int64(30), end.FromClient+end.FromBackend)
				require.Equal(t, 4500*time.Millisecond, end.Duration)
			})
		})
		t.Run(name+", and then it says nothing", func(t *testing.T) {
			inBubble(t, true, tunnel.Options{}, func(t *testing.T, b *bubble) {
				from, to, toConn := tt.sides(b)
				toConn.breakWrites(errBroken)
				write(t, from, "this is what fails")
				expectEOF(t, to) // closed after a second's silence
				expectEOF(t, from)
				for range 10 { // a peer that goes on sending is read for a while
					time.Sleep(450 * time.Millisecond)
					write(t, from, "dropped")
				}
				end := b.end()
				require.Equal(t, tt.writeFailed, end.By)
				require.Zero(t, end.FromClient+end.FromBackend)
				require.Equal(t, time.Second+5*time.Second, end.Duration)
			})
		})
	}
}

// Linger counts from a failure in the same way as from an end of stream.
func TestTunnel_W5_LingerAfterFailure(t *testing.T) {
	inBubble(t, true, tunnel.Options{Linger: 10 * time.Second}, func(t *testing.T, b *bubble) {
		time.Sleep(time.Hour)
		b.backendConn.breakWrites(errBroken)
		write(t, b.client, "this is what fails")
		go func() {
			for {
				time.Sleep(900 * time.Millisecond)
				if _, err := io.WriteString(b.backend, "x"); err != nil {
					return
				}
			}
		}()
		got, err := io.ReadAll(b.client)
		require.NoError(t, err)
		require.Len(t, got, 11)
		end := b.end()
		require.Equal(t, tunnel.BackendWriteFailed, end.By)
		require.Equal(t, time.Hour+10*time.Second, end.Duration)
	})
}

// A side that broke off: what it had sent is delivered, the other side learns of the end and
// may still send for a while, so that closing does not reset it.
func TestTunnel_W5_ReadFails(t *testing.T) {
	for name, tt := range failures {
		t.Run(name, func(t *testing.T) {
			inBubble(t, true, tunnel.Options{}, func(t *testing.T, b *bubble) {
				other, broken, brokenConn := tt.sides(b)
				go func() {
					io.WriteString(broken, "before")
					broken.fail(errBroken)
				}()
				expect(t, other, "before")
				expectEOF(t, other)
				write(t, other, "dropped")
				require.NoError(t, other.Close())
				end := b.end()
				require.Equal(t, tt.readFailed, end.By)
				require.ErrorIs(t, end.Err, errBroken)
				require.ErrorContains(t, end.Err, tt.readFailed.String())
				require.Equal(t, int64(6), end.FromClient+end.FromBackend)
				require.Zero(t, end.Duration)
				require.Zero(t, brokenConn.ends, "no end of stream for what is dead")
			})
		})
		t.Run(name+", and the other one stays", func(t *testing.T) {
			inBubble(t, true, tunnel.Options{}, func(t *testing.T, b *bubble) {
				other, broken, _ := tt.sides(b)
				broken.fail(errBroken)
				expectEOF(t, other)
				end := b.end()
				require.Equal(t, tt.readFailed, end.By)
				require.Equal(t, 5*time.Second, end.Duration)
			})
		})
	}
}

// failures are the two sides that can fail. Sides returns the outer end of the good one, of the
// failing one, and the failing one's connection in the tunnel.
var failures = map[string]struct {
	writeFailed, readFailed tunnel.Reason
	sides                   func(b *bubble) (good, failing *duplex, conn *counted)
}{
	"client": {tunnel.ClientWriteFailed, tunnel.ClientReadFailed,
		func(b *bubble) (good, failing *duplex, conn *counted) { return b.backend, b.client, b.clientConn }},
	"backend": {tunnel.BackendWriteFailed, tunnel.BackendReadFailed,
		func(b *bubble) (good, failing *duplex, conn *counted) { return b.client, b.backend, b.backendConn }},
}

// The first reason stays. The error of a later failure is still reported.
func TestTunnel_FirstReasonRules(t *testing.T) {
	inBubble(t, true, tunnel.Options{}, func(t *testing.T, b *bubble) {
		require.NoError(t, b.client.CloseWrite())
		expectEOF(t, b.backend)
		b.clientConn.breakWrites(errBroken)
		write(t, b.backend, "nobody takes this")
		require.NoError(t, b.backend.Close())
		end := b.end()
		require.Equal(t, tunnel.ClientClosed, end.By)
		require.ErrorIs(t, end.Err, errBroken)
	})
	inBubble(t, true, tunnel.Options{}, func(t *testing.T, b *bubble) {
		b.client.fail(errBroken)
		expectEOF(t, b.backend)
		b.Close(tunnel.Moved)
		require.Equal(t, tunnel.ClientReadFailed, b.end().By, "what was cut had failed before")
	})
	inBubble(t, true, tunnel.Options{}, func(t *testing.T, b *bubble) {
		require.NoError(t, b.client.CloseWrite())
		expectEOF(t, b.backend)
		b.Close(tunnel.Moved)
		require.Equal(t, tunnel.Moved, b.end().By, "the other side had not ended")
	})
}

// A connection that takes less than it is given and says nothing must not lose bytes silently.
func TestTunnel_ShortWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, near := newDuplex()
		backend, far := newDuplex()
		o := start(t, tunnel.Side{Conn: near}, tunnel.Side{Conn: halfTaker{far}}, tunnel.Options{})
		go io.Copy(io.Discard, backend)
		write(t, client, "1234")
		client.Close()
		end := <-o.ended
		require.Equal(t, tunnel.BackendWriteFailed, end.By)
		require.ErrorIs(t, end.Err, io.ErrShortWrite)
		require.Equal(t, int64(2), end.FromClient)
	})
}

type halfTaker struct{ *duplex }

func (h halfTaker) Write(p []byte) (int, error) { return h.duplex.Write(p[:len(p)/2]) }

// A Close that waits, as a TLS one does for a peer that does not read, is cut short by past
// deadlines, set until it is back and not after.
func TestTunnel_W5_CloseThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, near := newDuplex()
		backend, far := newDuplex()
		slow := &slowCloser{duplex: near, past: make(chan struct{}, 1), needs: 3}
		o := start(t, tunnel.Side{Conn: slow}, tunnel.Side{Conn: far}, tunnel.Options{})
		o.Close(tunnel.Closed)
		began := time.Now()
		expectEOF(t, backend)
		require.Zero(t, time.Since(began), "a slow Close holds up the other side")
		expectEOF(t, client)
		require.Equal(t, 3*time.Second, (<-o.ended).Duration)
		time.Sleep(time.Minute)
		require.EqualValues(t, 3, slow.set.Load())
	})
}

// slowCloser is a connection whose Close returns after so many past deadlines.
type slowCloser struct {
	*duplex
	past  chan struct{}
	needs int
	set   atomic.Int64
}

func (s *slowCloser) SetDeadline(d time.Time) error {
	if d.After(time.Now()) {
		return fmt.Errorf("a deadline in the future: %v", d)
	}
	s.set.Add(1)
	s.past <- struct{}{}
	return nil
}

func (s *slowCloser) Close() error {
	for range s.needs {
		<-s.past
	}
	return s.duplex.Close()
}

func TestReason_String(t *testing.T) {
	require.Equal(t, "client closed", tunnel.ClientClosed.String())
	require.Equal(t, "shutdown", tunnel.Shutdown.String())
	require.Equal(t, "Reason(0)", tunnel.Reason(0).String())
	require.Equal(t, "Reason(99)", tunnel.Reason(99).String())
}
