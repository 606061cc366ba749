package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"
)

// TestMain runs the demo itself, in a process of its own, for the tests that want one.
func TestMain(m *testing.M) {
	if os.Getenv("STICKYLB_TEST_DEMO") != "" {
		main()
	}
	os.Exit(m.Run())
}

// demoCommand is the demo as a program.
func demoCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), "STICKYLB_TEST_DEMO=1")
	return cmd
}

func TestProgram_Signals(t *testing.T) {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)     // a program inherits that it is ignored, as it is under nohup
	t.Cleanup(func() { signal.Stop(caught) }) // after the parallel tests
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel() // they wait
			cmd := demoCommand(t, "-listen", "127.0.0.1:0", "-listen-tls", "127.0.0.1:0")
			stdout, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			p := &process{}
			for out := bufio.NewScanner(stdout); p.https == "" && out.Scan(); {
				p.note(out.Text())
			}
			require.NotEmpty(t, p.https)
			v := newVisitor(t)
			v.ask(t, p.https)
			ws, _ := v.dial(t, p.http)
			signalled := time.Now()
			require.NoError(t, cmd.Process.Signal(signal))
			closeFrame(t, ws, signalled)
			ws.Close()
			_, err = io.Copy(io.Discard, stdout)
			require.NoError(t, err)
			require.NoError(t, cmd.Wait(), "exit code 0")
		})
	}
}

// TestProgram_SecondSignal does not wait for what the first one has the demo wait for.
func TestProgram_SecondSignal(t *testing.T) {
	arrived, answer := make(chan struct{}), make(chan struct{})
	backend := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-answer
	}))
	defer backend.Close()
	defer close(answer)
	cmd := demoCommand(t, "-listen", own(), "-listen-tls", "", "-target", backend.URL)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &process{}
	for out := bufio.NewScanner(stdout); p.http == "" && out.Scan(); {
		p.note(out.Text())
	}
	go http.Get(p.http)
	<-arrived
	signalled := time.Now()
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	requireRefusing(t, p.http)

	ended := make(chan error, 1)
	go func() {
		io.Copy(io.Discard, stdout)
		ended <- cmd.Wait()
	}()
	require.Eventually(t, func() bool {
		cmd.Process.Signal(os.Interrupt) // the first to come after the demo has stopped listening to them counts
		select {
		case err = <-ended:
			return true
		default:
			return false
		}
	}, patience, glance)
	if !cmd.ProcessState.Exited() || !overdue(signalled) {
		require.Error(t, err)
		require.Equal(t, os.Interrupt, cmd.ProcessState.Sys().(syscall.WaitStatus).Signal())
	}
}

// TestProgram_NobodyReadsTheLog goes on when the readers of its output and of its log are gone, as
// when `demo | head -1` has what it wants.
func TestProgram_NobodyReadsTheLog(t *testing.T) {
	cmd := demoCommand(t, "-listen", "127.0.0.1:0", "-listen-tls", "")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &process{}
	for out := bufio.NewScanner(stdout); p.http == "" && out.Scan(); {
		p.note(out.Text())
	}
	require.NotEmpty(t, p.http)
	stdout.Close()
	stderr.Close()
	v := newVisitor(t)
	v.ask(t, p.http)
	for _, action := range []string{"drain", "ready", "drain"} { // each is a line of the log
		res, err := http.Post(p.http+"/demo/backends/app-1/"+action, "", nil)
		require.NoError(t, err)
		res.Body.Close()
		v.ask(t, p.http)
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait(), "exit code 0, not the signal of a broken pipe")
}

// overdue reports whether the machine has been so slow, since the demo was told to end, that the
// grace may be over.
func overdue(since time.Time) bool { return time.Since(since) >= grace }

// requireRefusing waits until nothing is accepted any more.
func requireRefusing(t *testing.T, base string) {
	t.Helper()
	_, addr, _ := strings.Cut(base, "//")
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	}, patience, glance, "nothing more is accepted")
}

func TestProgram_RefusedFlags(t *testing.T) {
	cmd := demoCommand(t, "-sticky", "ip")
	stderr, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Equal(t, exitUsage, cmd.ProcessState.ExitCode())
	require.Equal(t, 1, strings.Count(string(stderr), "\n"), string(stderr))
}

func TestShutdown_LeavesNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	p := start(t, "-listen", own(), "-listen-tls", own(), "-admin", own())
	v := newVisitor(t)
	v.ask(t, p.http)
	v.ask(t, p.https)
	v.get(t, p.admin)
	plain, _ := v.dial(t, p.http)
	secure, _ := v.dial(t, p.https)

	stopped := time.Now()
	p.stop()
	for _, ws := range []*websocket.Conn{plain, secure} {
		if payload := closeFrame(t, ws, stopped); payload != nil {
			require.Equal(t, []byte{goingAway >> 8, goingAway & 0xFF}, payload)
		}
		ws.Close()
	}
	require.Equal(t, exitOK, p.end(t))
	for _, base := range []string{p.http, p.https, p.admin} {
		_, addr, _ := strings.Cut(base, "//")
		_, err := net.Dial("tcp", addr)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	}
	v.CloseIdleConnections()
	const looking = 1 // Eventually looks from a goroutine of its own
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+looking }, patience, glance, "goroutines are left")
}

// TestShutdown_Cuts has a WebSocket whose client does not close it.
func TestShutdown_Cuts(t *testing.T) {
	t.Parallel() // it waits for the grace
	p := start(t)
	ws, _ := newVisitor(t).dial(t, p.http)
	stopped := time.Now()
	p.stop()
	closeFrame(t, ws, stopped)
	require.Equal(t, exitOK, p.end(t))
	_, err := io.Copy(io.Discard, ws)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
}

// closeFrame reads up to the close frame and returns what it says. It returns nil if the demo,
// which was told to end at that time, may have cut the connection.
func closeFrame(t *testing.T, ws *websocket.Conn, stopped time.Time) []byte {
	t.Helper()
	require.NoError(t, ws.SetReadDeadline(time.Now().Add(patience)))
	for {
		frame, err := ws.NewFrameReader()
		if err != nil && overdue(stopped) {
			return nil
		}
		require.NoError(t, err)
		payload, err := io.ReadAll(frame)
		require.NoError(t, err)
		if frame.PayloadType() == websocket.CloseFrame {
			return payload
		}
	}
}

// TestShutdown_RequestInFlight lets the request end that is under way when the demo is told to.
func TestShutdown_RequestInFlight(t *testing.T) {
	arrived, answer := make(chan struct{}), make(chan struct{})
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-answer
		io.WriteString(w, "done")
	}))
	defer backend.Close()
	p := start(t, "-listen", own(), "-target", backend.URL)
	got := make(chan string, 1)
	go func() {
		res, err := http.Get(p.http)
		if err != nil {
			got <- err.Error()
			return
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		got <- string(body)
	}()
	<-arrived
	stopped := time.Now()
	p.stop()
	requireRefusing(t, p.http)
	close(answer)
	if answered := <-got; !overdue(stopped) {
		require.Equal(t, "done", answered)
	}
	require.Equal(t, exitOK, p.end(t))
}
