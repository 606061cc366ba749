//go:build unix

package main

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/internal/redisserver"
)

// startPostgres starts a PostgreSQL of its own with that certificate. It accepts only TLS.
func startPostgres(t *testing.T, cert, key string) (addr string, kill func()) {
	t.Helper()
	programs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	require.NoError(t, err)
	slices.SortStableFunc(programs, func(a, b string) int { return len(a) - len(b) }) // 9 before 15
	program := func(name string) string {
		if len(programs) > 0 {
			return filepath.Join(programs[len(programs)-1], name)
		}
		return redisserver.Program(t, name)
	}
	dir := t.TempDir()
	attr := notRoot(t, dir)
	data := filepath.Join(dir, "data")
	create := exec.Command(program("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale", "C")
	create.SysProcAttr, create.Dir = attr, dir
	said, err := create.CombinedOutput()
	require.NoError(t, err, "%s", said)
	require.NoError(t, os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte("hostssl all all 127.0.0.0/8 trust\n"), 0o644))
	for name, from := range map[string]string{"server.crt": cert, "server.key": key} { // the server requires to own its key
		b, err := os.ReadFile(from)
		require.NoError(t, err)
		file := filepath.Join(data, name)
		require.NoError(t, os.WriteFile(file, b, 0o600))
		if attr.Credential != nil {
			require.NoError(t, os.Chown(file, int(attr.Credential.Uid), int(attr.Credential.Gid)))
		}
	}
	addr, host, port := newAddr()
	cmd := exec.Command(program("postgres"), "-D", data, "-h", host, "-p", port, "-k", "", "-F", "-c", "ssl=on",
		"-c", "shared_buffers=16MB", "-c", "autovacuum=off")
	cmd.SysProcAttr, cmd.Dir = &syscall.SysProcAttr{Credential: attr.Credential}, dir
	return addr, launch(t, addr, cmd)
}

// notRoot is who runs PostgreSQL, which refuses to be run by root. The directory is given to that
// user.
func notRoot(t *testing.T, dir string) *syscall.SysProcAttr {
	t.Helper()
	if os.Getuid() != 0 {
		return &syscall.SysProcAttr{}
	}
	u, err := user.Lookup("postgres")
	if err != nil && os.Getenv("CI") == "" {
		t.Skip("there is no user postgres")
	}
	require.NoError(t, err)
	uid, err := strconv.Atoi(u.Uid)
	require.NoError(t, err)
	gid, err := strconv.Atoi(u.Gid)
	require.NoError(t, err)
	require.NoError(t, os.Chown(dir, uid, gid))
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755)) // testing keeps it to itself
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}
