//go:build unix

package peertest_test

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
)

// postgresProgram returns the path of a program of the newest version of Debian's package
// postgresql, most of which are in nobody's PATH.
func postgresProgram(t *testing.T, name string) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	require.NoError(t, err)
	if len(found) == 0 {
		return program(t, name)
	}
	slices.SortStableFunc(found, func(a, b string) int { return len(a) - len(b) }) // 9 before 15
	return found[len(found)-1]
}

// postgresAttr is who runs a server: it refuses to be run by root. What it is to own is given to
// that user.
func postgresAttr(t *testing.T, dir string) *syscall.SysProcAttr {
	t.Helper()
	if os.Getuid() != 0 {
		return &syscall.SysProcAttr{}
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		missing(t, "the user postgres")
	}
	uid, err := strconv.Atoi(u.Uid)
	require.NoError(t, err)
	gid, err := strconv.Atoi(u.Gid)
	require.NoError(t, err)
	require.NoError(t, os.Chown(dir, uid, gid))
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755)) // testing keeps it to itself
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

// postgresServer runs a server with a database of its own, and returns where it listens.
func postgresServer(t *testing.T) (addr string, kill func()) {
	t.Helper()
	dir := t.TempDir()
	attr := postgresAttr(t, dir)
	data := filepath.Join(dir, "data")
	create := exec.CommandContext(soon(t), postgresProgram(t, "initdb"), "-D", data, "-U", "postgres", "-A", "trust",
		"-N", "-E", "UTF8", "--locale", "C")
	create.SysProcAttr, create.Dir = attr, dir
	said, err := create.CombinedOutput()
	require.NoError(t, err, "%s", said)
	addr = newAddr(t)
	host, port := split(t, addr)
	cmd := exec.Command(postgresProgram(t, "postgres"), "-D", data, "-h", host, "-p", port, "-k", "", "-F",
		"-c", "shared_buffers=16MB", "-c", "autovacuum=off", "-c", "max_connections=60")
	cmd.SysProcAttr, cmd.Dir = &syscall.SysProcAttr{Credential: attr.Credential}, dir
	kill = launch(t, addr, syscall.SIGQUIT, cmd) // which ends its processes, and cleans up nothing
	until(t, "it answers", func() bool {
		said, err := psql(t, addr, "select 1")
		return err == nil && said == "1"
	})
	return addr, kill
}

// postgresEnv keeps settings of whoever runs the tests out of them.
func postgresEnv(addr string) []string {
	host, port, _ := strings.Cut(addr, ":")
	return []string{"PGHOST=" + host, "PGPORT=" + port, "PGUSER=postgres", "PGDATABASE=postgres", "PGSSLMODE=disable",
		"PGGSSENCMODE=disable", "PGCONNECT_TIMEOUT=60", "PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=/nonexistent"}
}

// A psqlError is what psql says when it fails.
type psqlError struct {
	error
	said string
}

func (e *psqlError) Error() string { return e.error.Error() + ": " + e.said }

// psql sends a query over a connection of its own and returns the answer.
func psql(t *testing.T, addr, query string) (string, error) {
	cmd := exec.CommandContext(t.Context(), program(t, "psql"), "-XAtqc", query)
	cmd.Env = postgresEnv(addr)
	said, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = &psqlError{err, string(exit.Stderr)}
	}
	return strings.TrimSpace(string(said)), err
}

// lost reports whether psql says that its server is gone.
func lost(err error) bool {
	e, ok := errors.AsType[*psqlError](err)
	return ok && (strings.Contains(e.said, "server closed the connection unexpectedly") ||
		strings.Contains(e.said, "terminating connection because of") ||
		strings.Contains(e.said, "Connection reset by peer") ||
		strings.Contains(e.said, "the database system is shutting down"))
}

// A postgresSession is a psql that goes on over one connection.
type postgresSession struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func newPostgresSession(t *testing.T, addr string) *postgresSession {
	t.Helper()
	cmd := exec.CommandContext(soon(t), program(t, "psql"), "-XAtq")
	cmd.Env = postgresEnv(addr)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return &postgresSession{cmd, in, bufio.NewReader(out)}
}

// ask sends a query and returns the one line of its answer.
func (s *postgresSession) ask(t *testing.T, query string) string {
	t.Helper()
	_, err := io.WriteString(s.in, query+";\n")
	require.NoError(t, err)
	line, err := s.out.ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(line)
}

func (s *postgresSession) close(t *testing.T) {
	t.Helper()
	require.NoError(t, s.in.Close())
	require.NoError(t, s.cmd.Wait())
}

// PostgreSQL clients work while one of two servers is drained, comes back, and the other one is
// killed. During the drain there is no error at all. The only error that a client may see of the
// kill is that its server has closed the connection, and only if it had begun to connect before
// that was over.
func TestStream_W9_PostgreSQL(t *testing.T) {
	addrs := make(map[string]string)
	kills := make(map[string]func())
	ids := make(map[string]string) // by port
	for _, id := range []string{"drained", "killed"} {
		addrs[id], kills[id] = postgresServer(t)
		_, port := split(t, addrs[id])
		ids[port] = id
	}
	before := leaktest.Settled(t)
	f := newForwarder(t, addrs)

	// Each transaction of this pgbench has a connection of its own, which is the heaviest that it
	// can do.
	bench := exec.CommandContext(soon(t), postgresProgram(t, "pgbench"), "-n", "-C", "-c", "4", "-T", "3", "-f", "-")
	bench.Env, bench.Stdin = postgresEnv(f.addr), strings.NewReader("select sum(n) from generate_series(1, 1000) n;\n")
	var said strings.Builder // read after Wait
	bench.Stdout, bench.Stderr = &said, &said
	require.NoError(t, bench.Start())

	var keeper *postgresSession
	for keeper == nil {
		s := newPostgresSession(t, f.addr)
		if ids[s.ask(t, "show port")] == "drained" {
			keeper = s
		} else {
			s.close(t)
		}
	}
	require.Equal(t, "kept", keeper.ask(t, "create temporary table t as select 'kept' as v; select v from t"))
	drain := f.drain(t, "drained")
	for range 10 {
		port, err := psql(t, f.addr, "show port")
		require.NoError(t, err)
		require.Equal(t, "killed", ids[port], "a new connection")
		require.Equal(t, "kept", keeper.ask(t, "select v from t"))
	}
	require.NoError(t, bench.Wait(), "%s", &said)
	require.NotContains(t, said.String(), "abort")
	require.Empty(t, drain, "the drain is over while a client is connected")
	keeper.close(t)
	select {
	case err := <-drain:
		require.NoError(t, err)
	case <-time.After(patience):
		require.Fail(t, "the drain does not end")
	}

	f.member(t, "drained").SetAdmin(balancer.Ready)
	killed := newMoment()
	stop := make(chan struct{})
	var dones, breaks atomic.Int64
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for !isClosed(stop) {
				late := isClosed(killed.over)
				port, err := psql(t, f.addr, "show port")
				switch {
				case err == nil && !(late && ids[port] == "killed"):
					dones.Add(1)
				case err == nil:
					t.Errorf("a server answers that was killed")
					return
				case late || !isClosed(killed.begun) || !lost(err):
					t.Errorf("%v", err)
					return
				default:
					breaks.Add(1)
				}
			}
		})
	}
	busy(t, dones.Load, 20)
	killed.happen(kills["killed"])
	busy(t, dones.Load, 20)
	close(stop)
	clients.Wait()

	records := f.close(t)
	retried := 0
	for _, rec := range records {
		if rec.Attempts > 1 {
			retried++
		}
		require.NotEmpty(t, rec.EndedBy, "a client got no target: %v", rec.Err)
	}
	require.Positive(t, retried, "no client was sent on from the server that was killed")
	leaktest.RequireNoMore(t, before)
	t.Logf("%d connections, %d sent on, %d broken, %d queries", len(records), retried, breaks.Load(), dones.Load())
}
