package browsertest_test

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/browsertest"
)

const (
	patience = time.Minute           // for the page to show what it must
	glance   = 20 * time.Millisecond // between two looks
)

// A demo is the program under test, in a process of its own.
type demo struct{ http, https, admin string }

// startDemo starts it with flags besides the usual ones.
func startDemo(t *testing.T, flags ...string) demo {
	t.Helper()
	program := filepath.Join(t.TempDir(), "demo")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./examples/demo")
	build.Dir = filepath.Join("..", "..")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))

	flags = append([]string{"-listen", "127.0.0.1:0", "-listen-tls", "127.0.0.1:0",
		"-admin", "127.0.0.1:0", "-check-interval", "100ms"}, flags...)
	cmd := exec.Command(program, flags...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		io.Copy(io.Discard, stdout)
		require.NoError(t, cmd.Wait())
	})
	var d demo
	for out := bufio.NewScanner(stdout); d.admin == "" && out.Scan(); { // the last one
		if addr, ok := strings.CutPrefix(out.Text(), "admin accepts on "); ok {
			d.admin, _, _ = strings.Cut(addr, " ")
		}
		if addr, ok := strings.CutPrefix(out.Text(), "balancer accepts on "); ok {
			addr, _, _ = strings.Cut(addr, " ")
			if strings.HasPrefix(addr, "https:") {
				d.https = addr
			} else {
				d.http = addr
			}
		}
	}
	require.NotEmpty(t, d.admin, "the demo has not started")
	return d
}

// startBrowser returns the context of a browser whose tabs all run.
func startBrowser(t *testing.T) context.Context {
	t.Helper()
	return browsertest.Start(t,
		chromedp.Flag("disable-background-timer-throttling", true), // there are two tabs
		chromedp.Flag("disable-renderer-backgrounding", true))
}
