// Package redistest starts real Redis servers for tests: one server, a Cluster, or Sentinel.
//
// All listen on loopback addresses that nothing else uses, keep their files in temporary
// directories and are killed when the test ends. A test is skipped if the program is not installed,
// and fails where the environment has CI set.
package redistest

import (
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	program  = "redis-server"
	patience = time.Minute           // limit for what has to happen
	glance   = 10 * time.Millisecond // between two looks
	parallel = 6                     // tests
	logTail  = 4 << 10               // octets of a server's log that a failed test prints
)

// A Server is a process of redis-server that ends with its test. Its methods are for one goroutine
// at a time, except Try.
type Server struct {
	// Addr is the host and port. They stay the same when the server restarts.
	Addr string

	t     testing.TB
	dir   string
	args  []string
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
}

// Start starts a server and waits until it answers. The arguments go to the command line, such as
// "--maxmemory", "10mb". Unless they say otherwise, it stores nothing on disk, so that a restart
// empties it.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	s := newServer(t, newIP())
	s.args = append(baseArgs(s), args...)
	s.Restart()
	return s
}

// baseArgs returns the arguments that all servers but sentinels have.
func baseArgs(s *Server) []string {
	host, port := s.hostPort()
	return []string{"--bind", host, "--port", port, "--protected-mode", "no", "--dir", s.dir,
		"--save", "", "--appendonly", "no", "--enable-debug-command", "yes",
		"--repl-diskless-sync-delay", "0", "--replica-announce-ip", host}
}

// newServer returns a server at a new port that is not running.
func newServer(t testing.TB, ip netip.Addr) *Server {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("CI") != "" {
			require.FailNow(t, program+" is not installed")
		}
		t.Skip(program + " is not installed")
	}
	s := &Server{Addr: newAddr(ip), t: t, dir: t.TempDir(), ended: make(chan struct{})}
	close(s.ended)
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("the server at %s said:\n%s", s.Addr, s.log())
		}
	})
	return s
}

// newIP returns a loopback address that nobody else uses.
func newIP() netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(1 + rand.N(254)), byte(rand.N(255)), byte(1 + rand.N(253))})
}

// NewAddr returns an address that nobody else uses.
func NewAddr() string { return newAddr(newIP()) }

// lastPort is the last port that newAddr has returned. The ports are not looked at, because a
// listener that is closed keeps its port while a child process that was just forked has it. They
// are below those of outgoing connections.
var lastPort atomic.Uint32

// newAddr returns a port of a loopback address that nobody else uses.
func newAddr(ip netip.Addr) string {
	return netip.AddrPortFrom(ip, uint16(10000+lastPort.Add(1)%20000)).String()
}

func (s *Server) hostPort() (host, port string) {
	host, port, err := net.SplitHostPort(s.Addr)
	require.NoError(s.t, err)
	return host, port
}

// Restart starts the process again, after it has been killed, and waits until it answers.
func (s *Server) Restart() {
	s.t.Helper()
	out, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(s.t, err)
	defer out.Close()
	cmd, ended := exec.Command(program, s.args...), make(chan struct{})
	cmd.Stdout, cmd.Stderr = out, out
	endWithTests(cmd)
	require.NoError(s.t, cmd.Start())
	s.cmd, s.ended = cmd, ended
	go func() {
		cmd.Wait() // the signal that ends it is no news
		close(ended)
	}()
	s.AwaitReady()
}

// AwaitReady waits until the server answers PING. A server that loads its data does not yet.
func (s *Server) AwaitReady() {
	s.t.Helper()
	Until(s.t, s.Addr+" answers", func() bool {
		select {
		case <-s.ended:
			require.FailNow(s.t, "the server has ended", "%s\n%s", s.Addr, s.log())
		default:
		}
		said, err := s.Try("PING")
		return err == nil && said == "PONG"
	})
}

// awaitLink waits until the server is a replica that is connected to its primary and has its data.
func (s *Server) awaitLink() {
	s.t.Helper()
	Until(s.t, s.Addr+" follows its primary", func() bool {
		info, err := s.Try("INFO", "replication")
		return err == nil && field(info, "role") == "slave" && field(info, "master_link_status") == "up"
	})
}

// Running reports whether the process has not ended. A frozen one runs.
func (s *Server) Running() bool {
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

// Kill ends the process with SIGKILL and waits for its end. It may be called twice.
func (s *Server) Kill() {
	if s.cmd != nil {
		s.cmd.Process.Kill()
	}
	<-s.ended
}

// Freeze stops the process with SIGSTOP: the system still accepts connections and data for it, but
// nothing is answered.
func (s *Server) Freeze() { require.NoError(s.t, freeze(s.cmd.Process)) }

// Thaw continues a frozen process.
func (s *Server) Thaw() { require.NoError(s.t, thaw(s.cmd.Process)) }

// Do sends a command over a connection of its own and returns the answer as [Server.Try] does. An
// error fails the test.
func (s *Server) Do(args ...string) string {
	s.t.Helper()
	said, err := s.Try(args...)
	require.NoError(s.t, err, "%s at %s", strings.Join(args, " "), s.Addr)
	return said
}

func (s *Server) logFile() string { return filepath.Join(s.dir, "log") }

// log returns the end of what the server has printed.
func (s *Server) log() string {
	f, err := os.Open(s.logFile())
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		f.Seek(max(0, size-logTail), io.SeekStart)
	}
	b, _ := io.ReadAll(f)
	return string(b)
}

// Parallel allows more tests at a time than there are processors, because they mostly wait for
// servers. It is for TestMain. Fuzzing, which does not wait, stays as it is.
func Parallel() {
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		return
	}
	flag.Set("test.parallel", strconv.Itoa(max(parallel, runtime.GOMAXPROCS(0))))
}

// Until checks a condition repeatedly, for at most a minute. It starts no goroutine.
func Until(t testing.TB, what string, happened func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for !happened() {
		select {
		case <-deadline:
			require.FailNow(t, "not so: "+what)
		case <-tick.C:
		}
	}
}
