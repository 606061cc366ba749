package tunnel_test

import (
	"io"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

func TestTunnel_W5_Idle(t *testing.T) {
	o := tunnel.Options{Idle: time.Minute}
	t.Run("no byte at all", func(t *testing.T) {
		inBubble(t, true, o, func(t *testing.T, b *bubble) {
			end := b.end()
			require.Equal(t, tunnel.End{By: tunnel.Idle, Duration: time.Minute}, end)
			expectEOF(t, b.client)
			expectEOF(t, b.backend)
		})
	})
	for name, from := range map[string]func(b *bubble) (io.Writer, io.Reader){
		"client":  func(b *bubble) (io.Writer, io.Reader) { return b.client, b.backend },
		"backend": func(b *bubble) (io.Writer, io.Reader) { return b.backend, b.client },
	} {
		t.Run("only the "+name+" sends", func(t *testing.T) {
			inBubble(t, true, o, func(t *testing.T, b *bubble) {
				w, r := from(b)
				for range 10 {
					time.Sleep(59 * time.Second)
					go io.WriteString(w, "x")
					expect(t, r, "x")
				}
				end := b.end()
				require.Equal(t, tunnel.Idle, end.By)
				require.Equal(t, 10*59*time.Second+time.Minute, end.Duration, "counted from the last byte")
				require.Equal(t, int64(10), end.FromClient+end.FromBackend)
			})
		})
	}
	t.Run("a reader that is stuck moves no byte", func(t *testing.T) {
		inBubble(t, true, o, func(t *testing.T, b *bubble) {
			time.Sleep(30 * time.Second)
			write(t, b.client, "nobody reads this")
			end := b.end()
			require.Equal(t, tunnel.Idle, end.By)
			require.Equal(t, 90*time.Second, end.Duration)
			require.Zero(t, end.FromClient)
			require.NoError(t, end.Err)
		})
	})
	t.Run("after a half-close", func(t *testing.T) {
		o.Linger = -1
		inBubble(t, true, o, func(t *testing.T, b *bubble) {
			require.NoError(t, b.client.CloseWrite())
			expectEOF(t, b.backend)
			time.Sleep(59 * time.Second)
			go io.WriteString(b.backend, "x")
			expect(t, b.client, "x")
			end := b.end()
			require.Equal(t, tunnel.Idle, end.By)
			require.Equal(t, 119*time.Second, end.Duration)
		})
	})
}

func TestTunnel_W5_Lifetime(t *testing.T) {
	o := tunnel.Options{Lifetime: time.Hour, Idle: time.Minute}
	inBubble(t, true, o, func(t *testing.T, b *bubble) {
		go func() {
			for {
				time.Sleep(7 * time.Second)
				if _, err := io.WriteString(b.client, "x"); err != nil {
					return
				}
			}
		}()
		got, err := io.ReadAll(b.backend)
		require.NoError(t, err)
		end := b.end()
		require.Equal(t, tunnel.Lifetime, end.By)
		require.Equal(t, time.Hour, end.Duration)
		require.EqualValues(t, 3600/7, len(got))
		require.EqualValues(t, len(got), end.FromClient)
		expectEOF(t, b.client)
	})
}

func TestTunnel_W5_NegativeLimitsAreNone(t *testing.T) {
	o := tunnel.Options{Idle: -1, Lifetime: -1, Linger: -1}
	inBubble(t, true, o, func(t *testing.T, b *bubble) {
		time.Sleep(1000 * time.Hour)
		require.NoError(t, b.client.CloseWrite())
		expectEOF(t, b.backend)
		time.Sleep(1000 * time.Hour)
		go io.WriteString(b.backend, "still here")
		expect(t, b.client, "still here")
		require.NoError(t, b.backend.Close())
		end := b.end()
		require.Equal(t, tunnel.ClientClosed, end.By)
		require.Equal(t, 2000*time.Hour, end.Duration)
	})
}

func TestTunnel_W5_NearestLimitRules(t *testing.T) {
	const lifetimes = 200 * 365 * 24 * time.Hour
	tests := map[string]struct {
		o    tunnel.Options
		by   tunnel.Reason
		want time.Duration
	}{
		"idle":     {tunnel.Options{Idle: 1, Lifetime: 2, Linger: 1}, tunnel.Idle, 1},
		"lifetime": {tunnel.Options{Idle: 2, Lifetime: 1, Linger: 1}, tunnel.Lifetime, 1},
		"longest":  {tunnel.Options{Idle: math.MaxInt64, Lifetime: lifetimes}, tunnel.Lifetime, lifetimes},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, true, tt.o, func(t *testing.T, b *bubble) {
				end := b.end()
				require.Equal(t, tt.by, end.By)
				require.Equal(t, tt.want, end.Duration)
			})
		})
	}
}

func TestTunnel_W5_Linger(t *testing.T) {
	sides := map[string]func(b *bubble) (first, other *duplex){
		"client first":  func(b *bubble) (first, other *duplex) { return b.client, b.backend },
		"backend first": func(b *bubble) (first, other *duplex) { return b.backend, b.client },
	}
	for name, pick := range sides {
		t.Run(name, func(t *testing.T) {
			o := tunnel.Options{} // 30 s by default
			inBubble(t, true, o, func(t *testing.T, b *bubble) {
				first, other := pick(b)
				time.Sleep(time.Hour)
				require.NoError(t, first.CloseWrite())
				expectEOF(t, other)
				for range 10 { // ignores the end
					time.Sleep(29 * time.Second)
					go io.WriteString(other, "x")
					expect(t, first, "x")
				}
				expectEOF(t, first)
				end := b.end()
				require.Equal(t, tunnel.Linger, end.By)
				require.Equal(t, time.Hour+10*29*time.Second+30*time.Second, end.Duration)
				require.NoError(t, end.Err)
			})
		})
		t.Run(name+", bytes that nobody takes", func(t *testing.T) {
			o := tunnel.Options{Linger: 30 * time.Second}
			inBubble(t, true, o, func(t *testing.T, b *bubble) {
				first, other := pick(b)
				require.NoError(t, first.CloseWrite())
				expectEOF(t, other)
				time.Sleep(29 * time.Second)
				go io.WriteString(other, "x") // is read, and so about to be delivered
				end := b.end()
				require.Equal(t, tunnel.Linger, end.By)
				require.Equal(t, 59*time.Second, end.Duration)
			})
		})
	}
}

// Linger does not affect a peer that ends in time.
func TestTunnel_W5_HalfCloseWithinLinger(t *testing.T) {
	o := tunnel.Options{Linger: 30 * time.Second}
	inBubble(t, true, o, func(t *testing.T, b *bubble) {
		require.NoError(t, b.backend.CloseWrite())
		expectEOF(t, b.client)
		time.Sleep(29 * time.Second)
		go func() {
			io.WriteString(b.client, "last words")
			b.client.Close()
		}()
		got, err := io.ReadAll(b.backend)
		require.NoError(t, err)
		require.Equal(t, "last words", string(got))
		end := b.end()
		require.Equal(t, tunnel.End{By: tunnel.BackendClosed, FromClient: 10, Duration: 29 * time.Second}, end)
	})
}
