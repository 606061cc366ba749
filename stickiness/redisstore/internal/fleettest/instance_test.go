package fleettest_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness/redisstore/internal/redistest"
)

// An instance is a balancer that runs in a process of its own.
type instance struct {
	t        *testing.T
	settings settings
	cmd      *exec.Cmd
	stdin    io.Closer
	said     *bytes.Buffer // read when the process has ended
	ended    chan struct{}
	client   *http.Client
	base     stats // when the fault began; zero for a process that is younger
}

// newInstance starts a balancer. It is ended by the test, or with it.
func newInstance(t *testing.T, s settings) *instance {
	t.Helper()
	s.Addr = redistest.NewAddr()
	transport := &http.Transport{MaxIdleConnsPerHost: atOnce}
	b := &instance{t: t, settings: s, client: &http.Client{Transport: transport, Timeout: patience}}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		b.kill()
	})
	b.start()
	return b
}

func (b *instance) start() {
	b.t.Helper()
	self, err := os.Executable()
	require.NoError(b.t, err)
	text, err := json.Marshal(b.settings)
	require.NoError(b.t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), settingsVar+"="+string(text))
	b.said = &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = b.said, b.said
	b.stdin, err = cmd.StdinPipe()
	require.NoError(b.t, err)
	require.NoError(b.t, cmd.Start())
	ended := make(chan struct{})
	b.cmd, b.ended, b.base = cmd, ended, stats{}
	go func() {
		cmd.Wait()
		close(ended)
	}()
	redistest.Until(b.t, "the balancer answers", func() bool {
		select {
		case <-ended:
			require.FailNow(b.t, "the balancer has ended", b.said.String())
		default:
		}
		_, err := b.stats()
		return err == nil
	})
}

// kill ends the process with SIGKILL and waits for its end. It may be called twice.
func (b *instance) kill() {
	if b.cmd == nil {
		return
	}
	b.cmd.Process.Kill()
	<-b.ended
	b.stdin.Close()
}

// stop has the process end by itself, and requires that nothing was left in it.
func (b *instance) stop() {
	b.t.Helper()
	require.NoError(b.t, b.cmd.Process.Signal(syscall.SIGTERM))
	<-b.ended
	b.stdin.Close()
	require.True(b.t, b.cmd.ProcessState.Success(), b.said.String())
}

func (b *instance) url(path string) string { return "http://" + b.settings.Addr + path }

func (b *instance) stats() (s stats, err error) {
	res, err := b.client.Get(b.url(statsPath))
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	return s, json.NewDecoder(res.Body).Decode(&s)
}
