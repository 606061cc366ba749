//go:build unix

package discovery_test

import (
	"os"
	"syscall"
	"testing"
	"time"

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
