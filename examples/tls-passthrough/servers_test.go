package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/internal/redisserver"
)

// launch starts a server, and waits until it accepts connections at addr. kill ends it with all its
// processes.
func launch(t *testing.T, addr string, cmd *exec.Cmd) (kill func()) {
	t.Helper()
	var said bytes.Buffer // read after Wait
	cmd.Stdout, cmd.Stderr = &said, &said
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	kill = func() {
		cmd.Process.Signal(syscall.SIGQUIT) // PostgreSQL then ends its processes at once, and nginx when they are done
		<-ended
	}
	t.Cleanup(kill)
	for deadline := time.Now().Add(patience); ; time.Sleep(glance) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return kill
		}
		select {
		case <-ended:
			require.FailNow(t, "it does not start", "%s", &said)
		default:
		}
		if time.Now().After(deadline) {
			kill()
			require.FailNow(t, "it does not accept", "%s", &said)
		}
	}
}

// startNginx starts a web server with TLS that requires a PROXY header, and tells who its client
// is.
func startNginx(t *testing.T, cert, key string) (addr string) {
	t.Helper()
	addr, _, _ = newAddr()
	dir := t.TempDir()
	file := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `
daemon off; master_process off; pid pid; error_log stderr;
events { worker_connections 100; }
http {
	access_log off;
	client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
	server {
		listen %s ssl proxy_protocol;
		ssl_certificate %s; ssl_certificate_key %s;
		return 200 "the client is $proxy_protocol_addr\n";
	}
}
`, addr, cert, key), 0o600))
	launch(t, addr, exec.Command(redisserver.Program(t, "nginx"), "-p", dir, "-c", file, "-e", "stderr"))
	return addr
}
