package peertest_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// examine runs one check of what listens at addr, and returns what is wrong there, or "".
func examine(t *testing.T, c health.Check, scheme, addr string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := c.Check(ctx, balancer.Target{URL: &url.URL{Scheme: scheme, Host: addr}})
	if err == nil {
		return ""
	}
	return strings.TrimPrefix(err.Error(), "health: ")
}

// nginx that speaks HTTP/2 is checked over HTTP/2, with TLS and without, and gets its requests the
// same way.
func TestHTTP_B5_NginxOverHTTP2(t *testing.T) {
	path := program(t, "nginx")
	named := httptest.NewTLSServer(nil) // for its certificate
	t.Cleanup(named.Close)
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(named.TLS.Certificates[0].PrivateKey)
	require.NoError(t, err)
	for name, block := range map[string]*pem.Block{"key": {Type: "PRIVATE KEY", Bytes: key}, "cert": {Type: "CERTIFICATE", Bytes: named.Certificate().Raw}} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
	}
	secure, plain := newAddr(t), newAddr(t)
	conf := fmt.Sprintf(`
	server {
		listen %s ssl http2;
		ssl_certificate cert;
		ssl_certificate_key key;
		location / { return 200 "over $server_protocol"; }
	}
	server {
		listen %s http2;
		location / { return 200 "over $server_protocol"; }
	}
`, secure, plain)
	file := nginxConf(t, dir, "", conf)
	start(t, plain, path, "-p", dir, "-c", file)

	trust := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "example.com"}
	trust.RootCAs.AddCert(named.Certificate())
	for scheme, addr := range map[string]string{"https": secure, "h2c": plain} {
		require.Empty(t, examine(t, health.HTTP{Contains: "over HTTP/2.0", TLS: trust}, scheme, addr))
		require.Equal(t, `the answer does not contain "over HTTP/1.1"`, examine(t, health.HTTP{Contains: "over HTTP/1.1", TLS: trust}, scheme, addr))
		require.Equal(t, `the answer is not gRPC, its Content-Type is "text/plain"`, examine(t, health.GRPC{TLS: trust}, scheme, addr))
		p := newProxy(t, nil, balancer.Target{URL: &url.URL{Scheme: scheme, Host: addr}})
		p.BackendTLS = trust
		res, err := http.Get("http://" + serveProxy(t, p))
		require.NoError(t, err)
		said, err := io.ReadAll(res.Body)
		res.Body.Close()
		require.NoError(t, err)
		require.Equal(t, "over HTTP/2.0", string(said))
	}
	require.Contains(t, examine(t, health.HTTP{}, "http", plain), "the target answers with HTTP/2 to HTTP/1.1")
	require.Contains(t, examine(t, health.WebSocket{}, "h2c", plain), "a WebSocket is opened over HTTP/1.1")
}

// Redis is healthy while it answers, and after a password if it wants one, which it repeats and the
// check does not.
func TestConversation_B5_Redis(t *testing.T) {
	addr, kill := redisServer(t)
	ping := health.Step{Send: "PING\r\n", Prefix: "+PONG\r\n"}
	require.Empty(t, examine(t, health.Conversation{Steps: []health.Step{ping}}, "tcp", addr))
	require.Empty(t, examine(t, health.Conversation{Steps: []health.Step{
		{Send: "INFO replication\r\n", Contains: "role:master\r\n"}, {Contains: "\r\n\r\n"}, ping,
	}}, "tcp", addr))

	const password = "hunter2-Correct"
	c, err := newRedisClient(addr)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.do("CONFIG", "SET", "requirepass", password)
	require.NoError(t, err)
	require.Equal(t, `step 1: the target says "-NOAUTH Authentication required.\r\n", expected "+PONG\r\n"`,
		examine(t, health.Conversation{Steps: []health.Step{ping}}, "tcp", addr))
	login := health.Step{Send: "AUTH " + password + "\r\n", Prefix: "+OK\r\n"}
	require.Empty(t, examine(t, health.Conversation{Steps: []health.Step{login, ping}}, "tcp", addr))
	said := examine(t, health.Conversation{Steps: []health.Step{{Send: "AUTH bad-" + password + "\r\n", Prefix: "+OK\r\n"}}}, "tcp", addr)
	require.Contains(t, said, "step 1: the target says \"-WRONGPASS ")
	require.NotContains(t, said, "hunt")
	said = examine(t, health.Conversation{Steps: []health.Step{login, {Send: "UNKNOWN " + password + "\r\n", Prefix: "+"}}}, "tcp", addr)
	require.Contains(t, said, "with args beginning with: '[sent]'")
	require.NotContains(t, said, "hunt")
	kill()
	require.Equal(t, "connection refused", examine(t, health.Conversation{Steps: []health.Step{ping}}, "tcp", addr))
}

// A mail server's greeting is of several lines and comes in many packets.
func TestConversation_B5_SMTP(t *testing.T) {
	addr := newAddr(t)
	host, port := split(t, addr)
	start(t, addr, program(t, "python3"), filepath.Join("testdata", "smtp.py"), host, port)
	greeting := health.Step{Match: regexp.MustCompile(`^(220-.*\r\n)*220 .*\r\n`)}
	quit := health.Step{Send: "QUIT\r\n", Prefix: "221 "}
	for range 3 {
		require.Empty(t, examine(t, health.Conversation{Steps: []health.Step{greeting, quit}}, "tcp", addr))
	}
	require.Equal(t, `step 2: the target says "502 5.5.2 not known: [sent]\r\n", expected "250 "`,
		examine(t, health.Conversation{Steps: []health.Step{greeting, {Send: "HELO-secret\r\n", Prefix: "250 "}}}, "tcp", addr))
}

// mariaDB runs a server with one user, checker, who has no password and no right.
func mariaDB(t *testing.T) (addr string) {
	t.Helper()
	path := program(t, "mariadbd")
	data := t.TempDir()
	options := []string{"--no-defaults", "--datadir=" + data, "--skip-innodb", "--default-storage-engine=Aria"}
	if os.Getuid() == 0 {
		options = append(options, "--user=root")
	}
	var tables strings.Builder
	tables.WriteString("create database mysql;\nuse mysql;\n")
	for _, name := range []string{"mysql_system_tables.sql", "mysql_system_tables_data.sql"} {
		script, err := os.ReadFile(filepath.Join("/usr/share/mysql", name))
		require.NoError(t, err)
		tables.Write(script)
	}
	tables.WriteString("FLUSH PRIVILEGES;\nCREATE USER checker@'%';\n")
	create := exec.CommandContext(soon(t), path, append(options, "--bootstrap")...)
	create.Stdin = strings.NewReader(tables.String())
	said, err := create.CombinedOutput()
	require.NoError(t, err, "%s", said)
	addr = newAddr(t)
	host, port := split(t, addr)
	options = append(options, "--bind-address="+host, "--port="+port, "--socket="+filepath.Join(data, "socket"), "--pid-file=pid")
	launch(t, addr, syscall.SIGKILL, exec.Command(path, options...))
	return addr
}

// packet is one of MySQL's protocol.
func packet(number byte, body string) string {
	return string(binary.LittleEndian.AppendUint32(nil, uint32(len(body))|uint32(number)<<24)) + body
}

// MariaDB greets, lets a check log in, and does not count that as a connection that was broken off.
func TestConversation_B5_MariaDB(t *testing.T) {
	addr := mariaDB(t)
	greeting := health.Step{Match: regexp.MustCompile(`(?s)^...\x00\x0a.*_password\x00`)}
	login := func(user string) health.Step {
		const protocol41, secureConnection = 1 << 9, 1 << 15
		body := string(binary.LittleEndian.AppendUint32(nil, protocol41|secureConnection)) + "\xff\xff\xff\x00\x21" +
			strings.Repeat("\x00", 23) + user + "\x00\x00"
		return health.Step{Send: packet(1, body), Match: regexp.MustCompile(`(?s)^...\x02\x00`)}
	}
	quit := health.Step{Send: packet(0, "\x01")}
	full := health.Conversation{Steps: []health.Step{greeting, login("checker"), quit}}
	aborted := func() string {
		c, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		defer c.Close()
		io.WriteString(c, login("checker").Send+packet(0, "\x03SHOW GLOBAL STATUS LIKE 'Aborted_connects'")+quit.Send)
		said, err := io.ReadAll(c)
		require.NoError(t, err)
		found := regexp.MustCompile(`\x10Aborted_connects.(\d+)`).FindSubmatch(said)
		require.NotNil(t, found, "%q", said)
		return string(found[1])
	}
	require.Empty(t, examine(t, full, "tcp", addr))
	var before string
	until(t, "it has counted who has looked whether it listens", func() bool {
		before = aborted()
		return before != "0"
	})
	for range 20 {
		require.Empty(t, examine(t, full, "tcp", addr))
	}
	require.Equal(t, before, aborted())
	require.Empty(t, examine(t, health.Conversation{Steps: []health.Step{greeting}}, "tcp", addr))
	until(t, "it has counted who left after the greeting", func() bool { return aborted() != before })
	require.Contains(t, examine(t, health.Conversation{Steps: []health.Step{greeting, login("nobody")}}, "tcp", addr),
		"step 2: connection closed by the target, the target has said ")
}
