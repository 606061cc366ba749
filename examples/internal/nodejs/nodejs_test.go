package nodejs_test

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"testing/fstest"

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
	for _, program := range []string{"talk.js", "ends.js", "missing.js"} {
		_, err = f.Start(t.Context(), program)
		require.ErrorContains(t, err, program+" has not written its port")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = f.Start(ctx, "silent.js")
	require.ErrorIs(t, err, context.Canceled)

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
