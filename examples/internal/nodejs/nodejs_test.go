package nodejs_test

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/internal/nodejs"
)

var files = fstest.MapFS{
	"app/package.json":      {Data: []byte(`{"name":"app","private":true}`)},
	"app/package-lock.json": {Data: []byte(`{"name":"app","lockfileVersion":3,"requires":true,"packages":{"":{"name":"app"}}}`)},
	"app/server.js": {Data: []byte(`
		const server = require("node:http").createServer((req, res) => res.end(process.argv[2]));
		server.listen(0, "127.0.0.1", () => console.log(server.address().port));`)},
	"app/talk.js":   {Data: []byte(`console.log("no port"); setInterval(() => {}, 1000);`)},
	"app/ends.js":   {Data: []byte(`process.exit(3);`)},
	"app/zero.js":   {Data: []byte(`console.log(0); setInterval(() => {}, 1000);`)},
	"app/late.js":   {Data: []byte(`console.log("4242"); process.exit(3);`)},
	"app/flood.js":  {Data: []byte(`process.stdout.on("error", () => {}); setInterval(() => process.stdout.write("1".repeat(1000)), 1);`)},
	"app/silent.js": {Data: []byte(`setInterval(() => {}, 1000);`)},
}

// Servers start, end at Kill and at Close, and a program that is no server is an error and does not
// go on.
func TestFolder(t *testing.T) {
	for _, name := range []string{"node", "npm"} {
		if _, err := exec.LookPath(name); err != nil && os.Getenv("CI") == "" {
			t.Skipf("%s is not installed", name)
		}
	}
	t.Setenv("TMPDIR", t.TempDir())
	f, err := nodejs.Install(t.Context(), files, "app")
	require.NoError(t, err)
	defer f.Close()
	a, err := f.Start(t.Context(), "server.js", "a")
	require.NoError(t, err)
	b, err := f.Start(t.Context(), "server.js", "b")
	require.NoError(t, err)
	for p, name := range map[*nodejs.Process]string{a: "a", b: "b"} {
		res, err := http.Get(p.URL)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, name, string(body))
	}
	for _, program := range []string{"talk.js", "ends.js", "missing.js", "zero.js", "flood.js"} {
		_, err = f.Start(t.Context(), program)
		require.ErrorContains(t, err, program+" has not written its port")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = f.Start(ctx, "silent.js")
	require.ErrorIs(t, err, context.Canceled)

	late, err := f.Start(t.Context(), "late.js")
	require.NoError(t, err)
	late.Kill() // has ended, or is about to
	late.Kill()

	a.Kill()
	a.Kill()
	_, err = http.Get(a.URL)
	require.Error(t, err)
	require.NoError(t, f.Close())
	_, err = http.Get(b.URL)
	require.Error(t, err)
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	require.Empty(t, left)
}

// replaceNPM puts a shell script in the place of npm until the test ends.
func replaceNPM(t *testing.T, script string) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs a shell")
	}
	if _, err := exec.LookPath("node"); err != nil && os.Getenv("CI") == "" {
		t.Skip("node is not installed")
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "npm"), []byte("#!/bin/sh\n"+script), 0o755))
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

// A folder uses the packages of another one where the context says so. They are still there when it
// is closed.
func TestInstall_WithPackages(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	replaceNPM(t, `mkdir -p node_modules/greet && echo 'module.exports = "hello"' >node_modules/greet/index.js`)
	first, err := nodejs.Install(t.Context(), files, "app")
	require.NoError(t, err)
	replaceNPM(t, "exit 1")
	ctx := nodejs.WithPackages(t.Context(), first)
	for range 2 {
		second, err := nodejs.Install(ctx, files, "app")
		require.NoError(t, err)
		out, err := second.Command(t.Context(), "-p", `require("greet")`).Output()
		require.NoError(t, err)
		require.Equal(t, "hello\n", string(out))
		require.NoError(t, second.Close())
	}
	require.NoError(t, first.Close())
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	require.Empty(t, left)
}

// When the user interrupts an npm that hangs or has failed, npm ends, and no files are left.
func TestInstall_Interrupted(t *testing.T) {
	for name, then := range map[string]string{"hangs": "exec sleep 1000", "fails": "exit 1"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			began := filepath.Join(t.TempDir(), "began")
			replaceNPM(t, "touch "+began+"; "+then)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			failed := make(chan error, 1)
			go func() {
				_, err := nodejs.Install(ctx, files, "app")
				failed <- err
			}()
			require.Eventually(t, func() bool { _, err := os.Stat(began); return err == nil }, time.Minute, time.Millisecond)
			cancel()
			require.ErrorIs(t, <-failed, context.Canceled)
			left, err := os.ReadDir(os.TempDir())
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

// Without Node.js, and after a start that is given up, there is an error and no files are left.
func TestInstall_Fails(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := nodejs.Install(ctx, files, "app")
	require.Error(t, err)
	_, err = nodejs.Install(t.Context(), files, "../app")
	require.Error(t, err)
	t.Setenv("PATH", t.TempDir())
	_, err = nodejs.Install(t.Context(), files, "app")
	require.ErrorContains(t, err, "node is not installed")
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	require.Empty(t, left)
}
