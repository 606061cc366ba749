// Package redisserver starts real Redis servers for the tests of the example programs. It does not
// depend on a client library.
package redisserver

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const (
	attempts = 20                     // ports that are tried
	pause    = 100 * time.Millisecond // between two attempts on one port
)

// A Server is a redis-server process on a loopback port. It keeps its data in memory only. Its
// methods fail the test if they cannot do what they are to do. They must not be called
// concurrently, except for CLI.
type Server struct {
	// Addr is the host and port that the server listens on. It does not change.
	Addr string

	t    testing.TB
	args []string
	cmd  *exec.Cmd
}

// Program returns the path of a program. If it is not installed, Program skips the test, or fails
// it if the variable CI is set.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
	case os.Getenv("CI") != "":
		t.Fatalf("%s is not installed", name)
	default:
		t.Skipf("%s is not installed", name)
	}
	return path
}

// Start starts a server and waits until it accepts connections. args are further options of
// redis-server, such as "--requirepass", "secret". The server is killed at the end of the test.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	s := &Server{t: t, args: append([]string{Program(t, "redis-server"), "--bind", "127.0.0.1",
		"--save", "", "--appendonly", "no", "--dir", t.TempDir()}, args...)}
	t.Cleanup(s.Kill)
	for range attempts {
		s.Addr = freeAddr(t)
		if s.start() {
			return s
		}
	}
	t.Fatalf("redis-server does not start: %v", s.cmd)
	return nil
}

// freeAddr returns an address that nobody listens on at the moment.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start starts the process, and reports whether it accepts connections. If another process has
// taken the port, the server exits before it says so.
func (s *Server) start() bool {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(s.Addr)
	s.cmd = exec.Command(s.args[0], append([]string{"--port", port}, s.args[1:]...)...)
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for log := bufio.NewScanner(stdout); log.Scan(); {
		if strings.Contains(log.Text(), "Ready to accept connections") {
			go io.Copy(io.Discard, stdout) // ends with the process
			return true
		}
	}
	s.Kill()
	return false
}

// Kill ends the process at once, with its data and its connections. It does nothing if the server
// does not run.
func (s *Server) Kill() {
	if s.cmd != nil && s.cmd.ProcessState == nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

// Restart starts a server without data on the same address, after Kill.
func (s *Server) Restart() {
	s.t.Helper()
	for range attempts {
		if s.start() {
			return
		}
		time.Sleep(pause) // a client's connection may have the port
	}
	s.t.Fatalf("redis-server does not start again: %v", s.cmd)
}

// CLI runs redis-cli with a command, and returns what it prints. It fails the test if the server
// answers with an error.
func (s *Server) CLI(command ...string) string {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(s.Addr)
	args := append([]string{"-e", "-p", port}, command...)
	out, err := exec.Command(Program(s.t, "redis-cli"), args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("redis-cli %q: %v: %s", command, err, out)
	}
	return strings.TrimSpace(string(out))
}
