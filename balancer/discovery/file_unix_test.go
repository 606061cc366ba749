//go:build unix

package discovery_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stickylb/stickylb/balancer/discovery"
	"github.com/stretchr/testify/require"
)

// Opening a FIFO waits for a writer.
func TestFile_FIFO(t *testing.T) {
	w := &watcher{}
	f := file(t, w)
	inBubble(t, f, func(t *testing.T) {
		require.NoError(t, os.Remove(f.Path))
		require.NoError(t, syscall.Mkfifo(f.Path, 0o600))
		time.Sleep(time.Minute)
		require.Equal(t, 1, w.reports())
		require.Equal(t, 1, w.warnings("not a regular file"))
	})
}

func TestFile_MistakesWithLinksChangeNothing(t *testing.T) {
	link := func(to string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			require.NoError(t, os.Remove(path))
			require.NoError(t, os.Symlink(to, path))
		}
	}
	testMistakes(t, map[string]mistake{
		"a link to itself": {link("targets"), "too many levels of symbolic links"},
		"a broken link":    {link("nowhere"), "no such file"},
		"a device":         {link("/dev/zero"), "not a regular file"},
	})
}

func TestFile_LinksThatAreSwapped(t *testing.T) {
	w := &watcher{}
	dir := t.TempDir()
	for name, id := range map[string]string{"..1": "a", "..2": "b"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		write(t, filepath.Join(dir, name, "targets"), id+"=http://10.0.0.1\n")
	}
	swap := func(t *testing.T, to string) { // as the kubelet does
		require.NoError(t, os.Symlink(to, filepath.Join(dir, "..data_tmp")))
		require.NoError(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	swap(t, "..1")
	require.NoError(t, os.Symlink(filepath.Join("..data", "targets"), filepath.Join(dir, "targets")))
	f := &discovery.File{Path: filepath.Join(dir, "targets"), Report: w.report, Logger: w.logger()}
	inBubble(t, f, func(t *testing.T) {
		swap(t, "..2")
		time.Sleep(8 * time.Second)
		ids, _ := w.last()
		require.Equal(t, "b", ids)
		swap(t, "..gone")
		time.Sleep(time.Minute)
		require.Equal(t, 1, w.warnings("no such file"))
		swap(t, "..1")
		time.Sleep(time.Minute)
		ids, _ = w.last()
		require.Equal(t, "a", ids)
	})
}
