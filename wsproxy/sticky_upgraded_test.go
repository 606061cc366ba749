package wsproxy_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// A target may go down while the handler writes its header, on whatever goroutine: the policy
// binds, or the connection is cut before.
func TestSticky_S22_CutWhileTheHeaderIsWritten(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	a := member(t, pool, "a")
	s := sticky(t, pool)
	for range 200 {
		var writing sync.WaitGroup
		s.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			require.NoError(t, err)
			writing.Go(func() { io.WriteString(conn, switching()) })
		})).ServeHTTP(&pipe{ResponseRecorder: *httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, "/", nil))
		a.SetAdmin(balancer.Down)
		writing.Wait()
		a.SetAdmin(balancer.Ready)
	}
	require.NoError(t, s.Close())
	require.Zero(t, a.Load())
}

// Each switch that is reported to the hooks also has a reported end, even if the connection is cut
// at that moment.
func TestSticky_W6_SwitchAndEndGoTogether(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	s := sticky(t, pool)
	v := observed(t, pool)
	ended := make(chan wsproxy.TunnelRecord, 2)
	s.Trace = &wsproxy.Trace{Switch: func(*http.Request) func(wsproxy.TunnelRecord) {
		member(t, pool, "a").SetAdmin(balancer.Down)
		v.next(t)
		return func(r wsproxy.TunnelRecord) { ended <- r }
	}}
	c, _ := joined(t, s, nil)
	require.Equal(t, "moved", wait(t, ended, "the end").EndedBy)
	c.expectClosed()
	require.NoError(t, s.Close())
	require.Empty(t, ended, "once")
}

// A handler that panics after it has taken the connection over leaves no lease, and no connection.
func TestSticky_B5_PanicAfterHijack(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	s := sticky(t, pool)
	v := observed(t, pool)
	done := make(chan wsproxy.Record, 1)
	s.Trace = &wsproxy.Trace{Done: func(_ *http.Request, r wsproxy.Record) { done <- r }}
	c := dial(t, serve(t, s.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		require.NoError(t, err)
		io.WriteString(conn, switching())
		panic("a bug")
	}))))
	c.send(upgrade())
	require.Equal(t, http.StatusSwitchingProtocols, c.head().StatusCode)
	c.expectClosed()
	require.Equal(t, balancer.BodyFailed.String(), v.next(t).Class.String())
	require.Zero(t, member(t, pool, "a").Load())
	require.Error(t, wait(t, done, "the record").Err)
	require.NoError(t, s.Shutdown(t.Context()))
}

// A handler may read from the reader that Hijack returns: what it reads counts, early bytes are in
// its buffer, and the end of the stream is the client's.
func TestSticky_W4_ReaderOfHijack(t *testing.T) {
	t.Parallel()
	pool, _ := shards(t, "a")
	s := sticky(t, pool)
	records := make(chan wsproxy.TunnelRecord, 1)
	s.Trace = &wsproxy.Trace{Tunnel: func(r wsproxy.TunnelRecord) { records <- r }}
	c := dial(t, serve(t, s.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		require.NoError(t, err)
		defer conn.Close()
		early, err := rw.Peek(5)
		require.NoError(t, err)
		require.Equal(t, "early", string(early))
		require.Equal(t, 5, rw.Reader.Buffered())
		io.WriteString(conn, switching())
		all, err := io.ReadAll(rw)
		require.NoError(t, err)
		require.Equal(t, "early and late", string(all))
	}))))
	c.send(upgrade() + "early")
	require.Equal(t, http.StatusSwitchingProtocols, c.head().StatusCode)
	c.send(" and late")
	c.closeWrite()
	record := wait(t, records, "the record")
	require.EqualValues(t, len("early and late"), record.FromClient)
	require.Equal(t, "client closed", record.EndedBy)
	c.expectEnd()
}

// A failure that the handler reports does not count against the target if the client's connection
// failed before, or could not be hijacked.
func TestSticky_B5_SwitchFailsAtTheClient(t *testing.T) {
	t.Parallel()
	broken := errors.New("switch failed")
	report := func(t *testing.T, r *http.Request) { require.True(t, wsproxy.ReportError(r.Context(), broken)) }
	tests := map[string]struct {
		below func(http.ResponseWriter) http.ResponseWriter
		class balancer.Class
	}{
		"refused":        {func(w http.ResponseWriter) http.ResponseWriter { return unwilling{w} }, balancer.Unjudged},
		"not hijackable": {func(w http.ResponseWriter) http.ResponseWriter { return plainRecorder{w} }, balancer.Unjudged},
		"not writable":   {func(w http.ResponseWriter) http.ResponseWriter { return deaf{w} }, balancer.ClientGone},
		"the target's":   {func(w http.ResponseWriter) http.ResponseWriter { return w }, balancer.UpgradeFailed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			pool, _ := shards(t, "a")
			v := observed(t, pool)
			h := sticky(t, pool).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if name == "the target's" {
					report(t, r)
					w.WriteHeader(http.StatusBadGateway)
					return
				}
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					report(t, r)
					return
				}
				_, err = io.WriteString(conn, switching())
				require.Error(t, err)
				report(t, r)
				conn.Close()
			}))
			c := dial(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(tt.below(w), r) })))
			c.send(upgrade())
			require.Equal(t, tt.class.String(), v.next(t).Class.String())
		})
	}
}

// An unwilling is a writer whose Hijack always returns an error.
type unwilling struct{ http.ResponseWriter }

func (unwilling) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, net.ErrClosed }

// A deaf is a writer whose hijacked connection refuses all writes.
type deaf struct{ http.ResponseWriter }

type deafConn struct{ net.Conn }

func (deafConn) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func (d deaf) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(d.ResponseWriter).Hijack()
	return deafConn{conn}, rw, err
}

// An upgraded connection is asked to end when its target no longer keeps its session, and no other.
func TestSticky_S25_Rebalance(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, _ := shards(t, "a", "b")
		s := sticky(t, pool)
		s.Tunnels.Rebalance, s.Tunnels.CloseCode = 1, 4001
		asked := make(chan string, 3)
		conns := make(map[string]net.Conn)
		h := s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			wsproxy.OnLeave(r.Context(), func(code uint16) { asked <- r.URL.Path + strconv.Itoa(int(code)) })
			var err error
			conns[r.URL.Path], _, err = http.NewResponseController(w).Hijack()
			require.NoError(t, err)
		}))
		for path, target := range map[string]string{"/a": "a", "/b": "b", "/free": ""} {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			if target != "" {
				r.Header.Set("Cookie", bound(t, target)[len("Cookie: "):])
			}
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", "websocket")
			h.ServeHTTP(&pipe{ResponseRecorder: *httptest.NewRecorder()}, r)
		}
		require.NoError(t, member(t, pool, "a").SetShare(0))
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, "/a4001", <-asked)
		require.Empty(t, asked)
		require.EqualValues(t, 2, member(t, pool, "a").Tunnels(), "they are the handler's to close")
		for _, conn := range conns {
			require.NoError(t, conn.Close())
		}
		require.Zero(t, member(t, pool, "a").Load())
		require.NoError(t, s.Shutdown(t.Context()))
	})
}

// The files of a multipart form are removed after the handler, as net/http does for its own
// request.
func TestSticky_FilesOfFormsAreRemoved(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	pool, _ := shards(t, "a")
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("file", "name")
	require.NoError(t, err)
	part.Write(make([]byte, 1<<10))
	require.NoError(t, form.Close())
	served := make(chan int, 1)
	c := newClient(t, serve(t, sticky(t, pool).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.NoError(t, r.ParseMultipartForm(1))
		files, err := os.ReadDir(dir)
		require.NoError(t, err)
		served <- len(files)
	}))))
	c.do(http.MethodPost, "/", &body, "Content-Type: "+form.FormDataContentType())
	require.Equal(t, 1, wait(t, served, "the number of files"))
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, files)
}
