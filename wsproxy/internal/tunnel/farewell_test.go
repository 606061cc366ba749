package tunnel_test

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

var (
	webSocket = tunnel.Options{WebSocket: true}
	restart   = tunnel.Farewell{Code: 1012, Text: "restart", By: tunnel.Moved}
)

// expectClose reads a close frame, checks that it is masked or not and what it says.
func expectClose(t testing.TB, r io.Reader, masked bool, code uint16, text string) {
	t.Helper()
	want := closeFrame(code, text, masked)
	got := make([]byte, len(want))
	_, err := io.ReadFull(r, got)
	require.NoError(t, err)
	require.Equal(t, want[:2], got[:2], "FIN, opcode, mask bit and length")
	p := parse(got)
	require.Equal(t, []int{int(code)}, p.codes)
	require.Equal(t, text, p.text)
}

// Both sides get the close frame, answer it, and get the end of stream.
func TestTunnel_W6_CloseFrame(t *testing.T) {
	inBubble(t, true, webSocket, func(t *testing.T, b *bubble) {
		b.CloseFrame(restart, time.Now().Add(time.Minute))
		expectClose(t, b.client, false, 1012, "restart")
		expectClose(t, b.backend, true, 1012, "restart")
		time.Sleep(time.Second)
		_, err := b.client.Write(closeFrame(4001, "", true))
		require.NoError(t, err)
		expectEOF(t, b.client)
		time.Sleep(time.Second)
		_, err = b.backend.Write(frame(fin|closing, nil, 0, false))
		require.NoError(t, err)
		expectEOF(t, b.backend)
		require.NoError(t, b.client.Close())
		require.NoError(t, b.backend.Close())
		require.Equal(t, tunnel.End{
			By: tunnel.Moved, ClientCode: 4001, BackendCode: 1005, Duration: 2 * time.Second,
		}, b.end())
	})
}

// A stream with all kinds of frames is cut at every octet: what comes before the close frame is
// whole frames, and nothing comes after it.
func TestTunnel_W6_CloseFrameOnBoundary(t *testing.T) {
	for _, masked := range []bool{false, true} {
		stream := slices.Concat(
			frame(text, []byte("fragment"), 0, masked),
			frame(fin|ping, nil, 0, masked),
			frame(continuation, []byte("one more"), 2, masked),
			frame(fin|continuation, nil, 8, masked),
			frame(fin|text, bytes.Repeat([]byte{'x'}, 30), 8, masked),
			frame(fin|text, nil, 0, masked),
			frame(fin|text, []byte("last"), 0, masked),
		)
		ends := append([]int{0}, parse(stream).ends...)
		for at := range len(stream) + 1 {
			inBubble(t, true, webSocket, func(t *testing.T, b *bubble) {
				from, to := b.backend, b.client
				if masked {
					from, to = to, from
				}
				got := new(bytes.Buffer)
				read := make(chan struct{})
				go func() {
					defer close(read)
					io.Copy(got, to)
				}()
				from.Write(stream[:at])
				synctest.Wait()
				require.Equal(t, at, got.Len())
				b.CloseFrame(restart, time.Now().Add(time.Minute))
				expectClose(t, from, !masked, 1012, "restart")
				from.Write(stream[at:])
				synctest.Wait()
				boundary := ends[slices.IndexFunc(ends, func(e int) bool { return e >= at })]
				require.Equal(t, stream[:boundary], got.Bytes()[:boundary], "cut at %d", at)
				expectClose(t, bytes.NewReader(got.Bytes()[boundary:]), masked, 1012, "restart")
				require.Len(t, got.Bytes()[boundary:], len(closeFrame(1012, "restart", masked)))
				from.Write(closeFrame(1000, "", masked))
				to.Write(closeFrame(1000, "", !masked))
				<-read
				expectEOF(t, from)
				from.Close()
				to.Close()
				end := b.end()
				require.Equal(t, tunnel.Moved, end.By)
				require.EqualValues(t, boundary, end.FromClient+end.FromBackend)
				require.Zero(t, end.Duration)
			})
		}
	}
}

// The close frame of a stream in the middle of a frame waits, at most until the deadline. The
// other side does not wait for it.
func TestTunnel_W6_CloseFrameDeadline(t *testing.T) {
	half := frame(fin|text, make([]byte, 1000), 2, false)[:500]
	tests := map[string]struct {
		calls []time.Duration // deadlines of CloseFrame, a second apart
		want  time.Duration
	}{
		"one":               {[]time.Duration{time.Minute}, time.Minute},
		"brought forward":   {[]time.Duration{time.Minute, 10 * time.Second}, 11 * time.Second},
		"not put off":       {[]time.Duration{time.Minute, time.Hour}, time.Minute},
		"set by a later":    {[]time.Duration{0, time.Hour}, time.Hour + time.Second},
		"past":              {[]time.Duration{-time.Hour}, 0},
		"later without one": {[]time.Duration{time.Minute, 0}, time.Minute},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, true, webSocket, func(t *testing.T, b *bubble) {
				go io.Copy(io.Discard, b.backend)
				write(t, b.backend, string(half))
				expect(t, b.client, string(half))
				for i, d := range tt.calls {
					if i > 0 {
						time.Sleep(time.Second)
					}
					var deadline time.Time
					if d != 0 {
						deadline = time.Now().Add(d)
					}
					f := restart
					f.Code += uint16(i)
					if i > 0 {
						f.By = tunnel.Shutdown // changes nothing
					}
					b.CloseFrame(f, deadline)
				}
				expectEOF(t, b.client) // without a close frame
				end := b.end()
				require.Equal(t, tunnel.Moved, end.By)
				require.Equal(t, tt.want, end.Duration)
				require.NoError(t, end.Err)
			})
		})
	}
}

// A client that does not read delays neither the close frame to the backend nor the end.
func TestTunnel_W6_CloseFrameToStuckPeer(t *testing.T) {
	inBubble(t, true, webSocket, func(t *testing.T, b *bubble) {
		_, err := b.backend.Write(frame(fin|text, []byte("nobody reads this"), 0, false))
		require.NoError(t, err)
		b.CloseFrame(restart, time.Now().Add(time.Minute))
		expectClose(t, b.backend, true, 1012, "restart")
		go b.backend.Write(closeFrame(1012, "", false))
		end := b.end()
		require.Equal(t, tunnel.Moved, end.By)
		require.Equal(t, time.Minute, end.Duration)
		expectEOF(t, b.backend)
	})
	patient := tunnel.Options{WebSocket: true, Linger: -1}
	inBubble(t, true, patient, func(t *testing.T, b *bubble) { // stuck in the close frame itself
		b.CloseFrame(restart, time.Now().Add(time.Minute))
		expectClose(t, b.client, false, 1012, "restart")
		_, err := b.client.Write(closeFrame(1012, "", true))
		require.NoError(t, err)
		expectEOF(t, b.client)
		require.NoError(t, b.client.Close())
		end := b.end()
		require.Equal(t, time.Minute, end.Duration)
		require.NoError(t, end.Err)
	})
}

// After the tunnel's close frame nothing is written to that side, whatever the other side sends.
func TestTunnel_W6_NothingAfterCloseFrame(t *testing.T) {
	inBubble(t, true, webSocket, func(t *testing.T, b *bubble) {
		b.CloseFrame(restart, time.Time{})
		expectClose(t, b.client, false, 1012, "restart")
		expectClose(t, b.backend, true, 1012, "restart")
		for range 100 {
			time.Sleep(time.Second)
			_, err := b.backend.Write(frame(fin|text, []byte("dropped"), 0, false))
			require.NoError(t, err)
			_, err = b.client.Write(frame(fin|text, []byte("dropped"), 0, true))
			require.NoError(t, err)
		}
		b.backend.Write(closeFrame(1000, "", false))
		expectEOF(t, b.backend)
		b.client.Write(closeFrame(1000, "", true))
		expectEOF(t, b.client)
		b.client.Close()
		b.backend.Close()
		end := b.end()
		require.Equal(t, 100*time.Second, end.Duration, "dropping is no end while an answer is awaited")
		require.Zero(t, end.FromClient+end.FromBackend)
	})
}

// Peers that have answered but do not close are cut after a while.
func TestTunnel_W6_AnsweredButOpen(t *testing.T) {
	inBubble(t, true, webSocket, func(t *testing.T, b *bubble) {
		b.CloseFrame(restart, time.Now().Add(time.Hour))
		expectClose(t, b.client, false, 1012, "restart")
		expectClose(t, b.backend, true, 1012, "restart")
		b.client.Write(closeFrame(1012, "", true))
		b.backend.Write(closeFrame(1012, "", false))
		require.Equal(t, 5*time.Second, b.end().Duration)
	})
}

// A side that already got the other side's close frame gets no second one.
func TestTunnel_W6_CloseFrameAfterPeers(t *testing.T) {
	inBubble(t, true, webSocket, func(t *testing.T, b *bubble) {
		bye := closeFrame(1001, "leaving", true)
		_, err := b.client.Write(bye)
		require.NoError(t, err)
		expect(t, b.backend, string(bye))
		b.CloseFrame(restart, time.Now().Add(time.Minute))
		expectClose(t, b.client, false, 1012, "restart")
		expectEOF(t, b.client)
		_, err = b.backend.Write(closeFrame(1001, "", false)) // its answer, which comes too late
		require.NoError(t, err)
		expectEOF(t, b.backend)
		b.client.Close()
		b.backend.Close()
		end := b.end()
		require.Equal(t, tunnel.Moved, end.By)
		require.Equal(t, []uint16{1001, 1001}, []uint16{end.ClientCode, end.BackendCode})
		require.Zero(t, end.Duration)
	})
}

// After an end of stream in the middle of a frame, no close frame can be sent.
func TestTunnel_W6_EndInTheMiddle(t *testing.T) {
	inBubble(t, true, webSocket, func(t *testing.T, b *bubble) {
		half := frame(fin|text, make([]byte, 1000), 2, false)[:500]
		write(t, b.backend, string(half))
		expect(t, b.client, string(half))
		b.CloseFrame(restart, time.Now().Add(time.Minute))
		expectClose(t, b.backend, true, 1012, "restart")
		require.NoError(t, b.backend.Close())
		expectEOF(t, b.client)
		b.client.Close()
		end := b.end()
		require.Equal(t, tunnel.Moved, end.By)
		require.Zero(t, end.Duration)
	})
}

// A side without CloseWrite is closed as soon as it has answered.
func TestTunnel_W6_CloseFrameWithoutCloseWrite(t *testing.T) {
	inBubble(t, false, webSocket, func(t *testing.T, b *bubble) {
		b.CloseFrame(restart, time.Now().Add(time.Minute))
		expectClose(t, b.client, false, 1012, "restart")
		expectClose(t, b.backend, true, 1012, "restart")
		b.client.Write(closeFrame(1012, "", true))
		expectEOF(t, b.client)
		b.backend.Write(closeFrame(1012, "", false))
		expectEOF(t, b.backend)
		require.Zero(t, b.end().Duration)
	})
}

// A side that has sent its close frame is not waited for, with or without a farewell.
func TestTunnel_W5_WithoutCloseWriteAfterCloseFrames(t *testing.T) {
	inBubble(t, false, webSocket, func(t *testing.T, b *bubble) {
		bye := string(closeFrame(1000, "", true))
		write(t, b.client, bye)
		expect(t, b.backend, bye)
		reply := string(closeFrame(1000, "", false))
		write(t, b.backend, reply)
		expect(t, b.client, reply)
		require.NoError(t, b.backend.CloseWrite()) // the server closes first
		expectEOF(t, b.client)
		require.Equal(t, tunnel.End{
			By: tunnel.BackendClosed, FromClient: int64(len(bye)), FromBackend: int64(len(reply)),
			ClientCode: 1000, BackendCode: 1000,
		}, b.end())
	})
	inBubble(t, false, webSocket, func(t *testing.T, b *bubble) {
		require.NoError(t, b.client.CloseWrite())
		time.Sleep(100 * time.Millisecond)
		reply := string(closeFrame(1000, "", false))
		write(t, b.backend, reply)
		time.Sleep(10 * time.Second)
		expect(t, b.client, reply) // written in full before the backend is closed
		require.Equal(t, 10*time.Second+100*time.Millisecond, b.end().Duration)
	})
}

func TestTunnel_W6_CloseFrameFails(t *testing.T) {
	inBubble(t, true, webSocket, func(t *testing.T, b *bubble) {
		b.clientConn.breakWrites(errBroken)
		b.CloseFrame(restart, time.Now().Add(time.Minute))
		expectClose(t, b.backend, true, 1012, "restart")
		b.backend.Write(closeFrame(1012, "", false))
		expectEOF(t, b.client)
		expectEOF(t, b.backend)
		b.backend.Close()
		end := b.end()
		require.Equal(t, tunnel.Moved, end.By)
		require.ErrorIs(t, end.Err, errBroken)
		require.Equal(t, time.Second, end.Duration)
	})
}

// CloseFrame cuts a tunnel that is not a WebSocket.
func TestTunnel_W6_CloseFrameOfOtherProtocols(t *testing.T) {
	inBubble(t, true, tunnel.Options{}, func(t *testing.T, b *bubble) {
		b.CloseFrame(restart, time.Now().Add(time.Minute))
		expectEOF(t, b.client)
		expectEOF(t, b.backend)
		require.Equal(t, tunnel.End{By: tunnel.Moved}, b.end())
	})
}

// Each frame to the backend has a different masking key (RFC 6455 section 5.3).
func TestTunnel_W6_CloseFrameKey(t *testing.T) {
	keys := make(map[string]bool)
	for range 3 {
		inBubble(t, true, webSocket, func(t *testing.T, b *bubble) {
			b.CloseFrame(restart, time.Now().Add(time.Second))
			head := make([]byte, 6)
			_, err := io.ReadFull(b.backend, head)
			require.NoError(t, err)
			keys[string(head[2:])] = true
			b.end()
		})
	}
	require.Len(t, keys, 3)
}

func TestTunnel_W6_CloseFrameText(t *testing.T) {
	long := strings.Repeat("x", 122) + "äöü"
	tests := map[string]struct {
		f    tunnel.Farewell
		code int
		text string
	}{
		"code and text":   {tunnel.Farewell{Code: 1001, Text: "going away"}, 1001, "going away"},
		"code alone":      {tunnel.Farewell{Code: 4999}, 4999, ""},
		"nothing":         {tunnel.Farewell{Text: "not without a code"}, 1005, ""},
		"longest":         {tunnel.Farewell{Code: 1001, Text: long[:122] + "y"}, 1001, long[:122] + "y"},
		"half a char":     {tunnel.Farewell{Code: 1001, Text: long}, 1001, long[:122]},
		"three quarters":  {tunnel.Farewell{Code: 1001, Text: long[:120] + "😀"}, 1001, long[:120]},
		"no valid string": {tunnel.Farewell{Code: 1001, Text: strings.Repeat("\x80", 200)}, 1001, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, true, webSocket, func(t *testing.T, b *bubble) {
				b.CloseFrame(tt.f, time.Now().Add(time.Second))
				for _, r := range []io.Reader{b.client, b.backend} {
					got := make([]byte, 200)
					n, err := r.Read(got)
					require.NoError(t, err)
					p := parse(got[:n])
					require.Equal(t, []int{n}, p.ends, "one frame and nothing else")
					require.Equal(t, []int{tt.code}, p.codes)
					require.Equal(t, tt.text, p.text)
					require.True(t, utf8.ValidString(p.text))
				}
				require.Equal(t, tunnel.Closed, b.end().By)
			})
		})
	}
}
