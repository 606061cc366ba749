package peertest_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// reachNginx starts an nginx that answers with the host that it was asked for, on a Unix socket
// and, for clients with a certificate, with TLS on an address.
func reachNginx(t *testing.T, p *pki, socket, addr string) (kill func()) {
	t.Helper()
	dir := t.TempDir()
	conf := fmt.Sprintf(`
	server {
		listen unix:%s;
		location / { return 200 "$host $request_uri"; }
	}
	server {
		listen %s ssl;
		ssl_certificate %s; ssl_certificate_key %s;
		ssl_client_certificate %s; ssl_verify_client on;
		location / { return 200 "$host $ssl_client_s_dn $ssl_server_name"; }
	}
`, socket, addr, p.serverFile, p.serverFile, p.authorityFile)
	file := nginxConf(t, dir, "", conf)
	return launch(t, addr, syscall.SIGKILL, exec.Command(program(t, "nginx"), "-p", dir, "-c", file))
}

// nodeOnSocket answers requests and echoes on upgraded connections. It also listens on an address,
// to be waited for.
const nodeOnSocket = `
const server = require("http").createServer((req, res) => res.end(req.headers.host + " " + req.url));
server.on("upgrade", (req, socket) => {
	const key = require("crypto").createHash("sha1").update(req.headers["sec-websocket-key"] +
		"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest("base64");
	socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + key + "\r\n\r\n");
	socket.pipe(socket);
});
server.listen(process.argv[1], () => require("net").createServer().listen(Number(process.argv[3]), process.argv[2]));
`

// talk asks the proxy as the application's host.
func talk(t *testing.T, addr, path string) (int, string) {
	t.Helper()
	r := request(t, addr, path)
	r.Host = host
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(body)
}

// nginx and Node on Unix sockets answer, and are found again when they were killed and started
// anew.
func TestReach_W16_UnixSockets(t *testing.T) {
	p := newPKI(t)
	for name, start := range map[string]func(t *testing.T, socket string) (kill func()){
		"nginx": func(t *testing.T, socket string) func() { return reachNginx(t, p, socket, newAddr(t)) },
		"Node": func(t *testing.T, socket string) func() {
			addr := newAddr(t)
			h, port, err := net.SplitHostPort(addr)
			require.NoError(t, err)
			return launch(t, addr, syscall.SIGKILL, exec.Command(program(t, "node"), "-e", nodeOnSocket, socket, h, port))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "s")
			require.NoError(t, err)
			defer os.RemoveAll(dir)
			socket := filepath.Join(dir, "app.sock")
			u, err := url.Parse("http://app.internal")
			require.NoError(t, err)
			addr := serveProxy(t, newProxy(t, nil, balancer.Target{ID: "a", URL: u, Addr: "unix:" + socket}))
			for range 3 {
				status, _ := talk(t, addr, "/")
				require.Equal(t, http.StatusBadGateway, status, "nobody listens")
				kill := start(t, socket)
				for range 3 {
					status, body := talk(t, addr, "/path?q")
					require.Equal(t, http.StatusOK, status)
					require.Equal(t, host+" /path?q", body)
				}
				if name == "Node" {
					echoesThrough(t, addr)
				}
				kill()
				status, _ = talk(t, addr, "/")
				require.Equal(t, http.StatusBadGateway, status, "nobody listens any more")
				require.NoError(t, os.Remove(socket))
			}
		})
	}
}

// echoesThrough upgrades a connection to the proxy and has what it sends come back.
func echoesThrough(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	io.WriteString(conn, "GET /chat HTTP/1.1\r\nHost: "+host+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	_, err = io.WriteString(conn, "hello")
	require.NoError(t, err)
	echo := make([]byte, 5)
	_, err = io.ReadFull(r, echo)
	require.NoError(t, err)
	require.Equal(t, "hello", string(echo))
}

// nginx verifies the client certificate of the target, which it reaches by Addr and knows by
// ServerName. It answers itself, with 400, where the certificate is missing or a stranger's.
func TestReach_W16_NginxVerifiesClients(t *testing.T) {
	p, other := newPKI(t), newPKI(t)
	addr := newAddr(t)
	reachNginx(t, p, filepath.Join(t.TempDir(), "s"), addr)
	u, err := url.Parse("https://10.255.255.1:4711")
	require.NoError(t, err)
	target := balancer.Target{ID: "a", URL: u, Addr: addr, ServerName: host, Certificate: &p.client}
	proxy := newProxy(t, nil, target)
	proxy.BackendTLS = &tls.Config{RootCAs: p.authority}
	front := serveProxy(t, proxy)
	for _, step := range []struct {
		certificate *tls.Certificate
		status      int
		want        string
	}{
		{&p.client, http.StatusOK, host + " CN=client " + host},
		{&other.client, http.StatusBadRequest, "certificate"},
		{nil, http.StatusBadRequest, "No required SSL certificate was sent"},
		{&p.client, http.StatusOK, host + " CN=client " + host},
	} {
		target.Certificate = step.certificate
		require.NoError(t, proxy.Pool.Update(target))
		for range 2 {
			status, body := talk(t, front, "/")
			require.Equal(t, step.status, status, body)
			require.True(t, strings.Contains(body, step.want), body)
		}
	}

	target.ServerName = "other.example"
	wrong := &wsproxy.Proxy{BackendTLS: proxy.BackendTLS}
	wrong.Pool, err = balancer.New(balancer.Config{Targets: []balancer.Target{target}})
	require.NoError(t, err)
	failures := make(chan *wsproxy.Error, 1)
	wrong.ErrorPage = func(w http.ResponseWriter, _ *http.Request, e *wsproxy.Error) {
		failures <- e
		w.WriteHeader(e.Status)
	}
	status, _ := talk(t, serveProxy(t, wrong), "/")
	require.Equal(t, http.StatusBadGateway, status)
	e := <-failures
	require.Equal(t, wsproxy.ClassTLS, e.Class)
	require.ErrorContains(t, e, addr)
}
