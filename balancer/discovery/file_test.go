package discovery_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/balancer/discovery"
	"github.com/stretchr/testify/require"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

// file returns a source of a file that has two targets.
func file(t *testing.T, w *watcher) *discovery.File {
	t.Helper()
	f := &discovery.File{Path: filepath.Join(t.TempDir(), "targets"), Report: w.report, Logger: w.logger()}
	write(t, f.Path, "a=http://10.0.0.1\nb=http://10.0.0.2\n")
	return f
}

func TestFile_TakesChangesOver(t *testing.T) {
	w := &watcher{}
	f := file(t, w)
	inBubble(t, f, func(t *testing.T) {
		require.NoError(t, f.Ready(t.Context()))
		at := func(text, ids string, reports int) {
			t.Helper()
			if text != "" {
				write(t, f.Path, text)
			}
			time.Sleep(8 * time.Second) // a turn of at most 5.5 s, and one of at most 1.1 s
			now, _ := w.last()
			require.Equal(t, ids, now)
			require.Equal(t, reports, w.reports())
		}
		at("", "a b", 1)
		at("# other text, the same targets\na=http://10.0.0.1 b=http://10.0.0.2:80/\n", "a b", 1)
		at("b=http://10.0.0.2\na=http://10.0.0.1\n", "b a", 2)
		at(`["c=http://10.0.0.3"]`, "c", 3)
		require.Empty(t, w.text())
	})
}

// The file's modification time does not matter: it may stay the same, or go back.
func TestFile_IgnoresTimes(t *testing.T) {
	w := &watcher{}
	f := file(t, w)
	inBubble(t, f, func(t *testing.T) {
		info, err := os.Stat(f.Path)
		require.NoError(t, err)
		write(t, f.Path, "a=http://10.0.0.1\nc=http://10.0.0.2\n") // as long as before
		require.NoError(t, os.Chtimes(f.Path, info.ModTime(), info.ModTime()))
		time.Sleep(8 * time.Second)
		ids, _ := w.last()
		require.Equal(t, "a c", ids)
		for range 10 {
			require.NoError(t, os.Chtimes(f.Path, time.Now(), time.Now()))
			time.Sleep(8 * time.Second)
		}
		require.Equal(t, 2, w.reports())
	})
}

// A mistake is a change of the file that makes it unusable, and what the log says then.
type mistake struct {
	change func(t *testing.T, path string)
	log    string
}

func TestFile_MistakesChangeNothing(t *testing.T) {
	testMistakes(t, map[string]mistake{
		"empty":       {func(t *testing.T, path string) { write(t, path, "") }, "the file is empty"},
		"blank":       {func(t *testing.T, path string) { write(t, path, " \n\n") }, "the file is empty"},
		"comments":    {func(t *testing.T, path string) { write(t, path, "# nothing\n") }, "no targets"},
		"empty array": {func(t *testing.T, path string) { write(t, path, "[]\n") }, "no targets"},
		"half a line": {func(t *testing.T, path string) { write(t, path, "a=http://10.0.0.1\nb=http://10.0") }, "line 2 has no line break"},
		"half JSON":   {func(t *testing.T, path string) { write(t, path, "[\n\"a=http://10.0.0.1\",\n\"b=http") }, "line 3: the JSON is incomplete"},
		"a bad line":  {func(t *testing.T, path string) { write(t, path, "a=http://10.0.0.1\n\n10.0.0.2:80\n") }, "line 3: the URL has no scheme"},
		"too large":   {func(t *testing.T, path string) { write(t, path, "#"+strings.Repeat(" ", 4096)) }, "larger than 4096 octets"},
		"deleted":     {func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) }, "discovery: "},
		"a directory": {func(t *testing.T, path string) {
			require.NoError(t, os.Remove(path))
			require.NoError(t, os.Mkdir(path, 0o700))
		}, "not a regular file"},
	})
}

func testMistakes(t *testing.T, mistakes map[string]mistake) {
	t.Helper()
	for name, tt := range mistakes {
		t.Run(name, func(t *testing.T) {
			w := &watcher{}
			f := file(t, w)
			f.MaxSize = 4096
			inBubble(t, f, func(t *testing.T) {
				tt.change(t, f.Path)
				time.Sleep(time.Minute)
				require.Equal(t, 1, w.reports())
				require.Equal(t, 1, w.warnings(""), w.text())
				require.Equal(t, 1, w.warnings(tt.log), w.text())
				require.NoError(t, os.RemoveAll(f.Path))
				write(t, f.Path, "a=http://10.0.0.1\nb=http://10.0.0.2\n")
				time.Sleep(time.Minute)
				require.Equal(t, 1, w.reports(), "it is as before")
				require.Contains(t, w.text(), "level=INFO msg=\"discovery: over: the file cannot be used")
			})
		})
	}
}

// Half of a list that is being written, cut where a line ends, is not used.
func TestFile_WaitsUntilItHasSettled(t *testing.T) {
	w := &watcher{}
	f := file(t, w)
	f.Interval = time.Second
	inBubble(t, f, func(t *testing.T) {
		var text strings.Builder
		for _, id := range []string{"c", "d", "e", "f", "g", "h", "i", "j", "k", "l"} {
			text.WriteString(id + "=http://10.0.0.1\n")
			write(t, f.Path, text.String())
			time.Sleep(800 * time.Millisecond) // less than a turn
		}
		require.Equal(t, 1, w.reports())
		time.Sleep(3 * time.Second)
		ids, _ := w.last()
		require.Equal(t, "c d e f g h i j k l", ids)
		require.Equal(t, 2, w.reports())
	})
}

// The second reading follows after a second, also when failures have made the turns rare.
func TestFile_SettlesSoonAfterFailures(t *testing.T) {
	w := &watcher{}
	f := file(t, w)
	f.Interval = 10 * time.Minute
	inBubble(t, f, func(t *testing.T) {
		require.NoError(t, os.Remove(f.Path))
		time.Sleep(2 * time.Hour)
		write(t, f.Path, "c=http://10.0.0.3\n")
		fixed := time.Now()
		time.Sleep(time.Hour)
		ids, at := w.last()
		require.Equal(t, "c", ids)
		require.Less(t, at.Sub(fixed), 11*time.Minute+2*time.Second)
	})
}

func TestFile_NoneAtTheStart(t *testing.T) {
	w := &watcher{}
	f := file(t, w)
	require.NoError(t, os.Remove(f.Path))
	inBubble(t, f, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := f.Ready(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, os.ErrNotExist)
		w.refuse(errors.New("not now"))
		write(t, f.Path, "a=http://10.0.0.1\n")
		time.Sleep(time.Minute)
		require.Equal(t, 1, w.warnings("not now"))
		w.refuse(nil)
		require.NoError(t, f.Ready(t.Context()))
		n := w.reports()
		time.Sleep(time.Hour)
		require.Equal(t, n, w.reports())
	})
}

func TestFile_Refuses(t *testing.T) {
	report := func([]balancer.Target) error { return nil }
	for want, source := range map[string]*discovery.File{
		"Path is empty":        {Report: report},
		"Report is nil":        {Path: "targets"},
		"must not be negative": {Path: "targets", Report: report, Interval: -1},
		"MaxSize":              {Path: "targets", Report: report, MaxSize: -1},
	} {
		require.ErrorContains(t, source.Run(t.Context()), want)
		require.ErrorContains(t, source.Ready(t.Context()), want)
	}
}
