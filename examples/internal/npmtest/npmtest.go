// Package npmtest runs programs of Node.js in the tests of the example programs. It installs the
// packages of a folder once for all tests of a package.
package npmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stickylb/stickylb/examples/internal/nodejs"
)

var (
	mu        sync.Mutex
	installed = make(map[string]*nodejs.Folder) // by path
)

// Run runs the tests, and then removes what Folder has installed. Call it from TestMain and exit
// with the code that it returns.
func Run(m *testing.M) (code int) {
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		for _, f := range installed {
			f.Close()
		}
	}()
	return m.Run()
}

// Folder returns a copy of the directory at path, with the packages of its package-lock.json. All
// tests share it. Without node or npm it skips the test, or fails it if the variable CI is set.
func Folder(t testing.TB, path string) *nodejs.Folder {
	t.Helper()
	for _, name := range []string{"node", "npm"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is not installed", name)
			}
			t.Skipf("%s is not installed", name)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	path = filepath.Clean(path)
	if f := installed[path]; f != nil {
		return f
	}
	f, err := nodejs.Install(t.Context(), os.DirFS(path), ".")
	if err != nil {
		t.Fatal(err)
	}
	installed[path] = f
	return f
}

// WithPackages returns a context for a program under test that installs the directory at path. The
// program uses the packages of Folder, instead of installing them again.
func WithPackages(t testing.TB, path string) context.Context {
	t.Helper()
	return nodejs.WithPackages(t.Context(), Folder(t, path))
}

// Start starts a server of the folder. It is killed at the end of the test.
func Start(t testing.TB, f *nodejs.Folder, args ...string) *nodejs.Process {
	t.Helper()
	p, err := f.Start(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// Play runs a client of the folder to its end. The client must write one value of JSON, which Play
// stores in result.
func Play(t testing.TB, ctx context.Context, f *nodejs.Folder, result any, args ...string) {
	t.Helper()
	cmd := f.Command(ctx, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node %q: %v\n%s", args, err, &said)
	}
	if err := json.Unmarshal(out, result); err != nil {
		t.Fatalf("node %q: %v in %s", args, err, out)
	}
}
