package main

import (
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func newSetup(t *testing.T) *setup {
	t.Helper()
	return &setup{
		dir:       t.TempDir(),
		targets:   []string{"127.0.0.1:3001", "127.0.0.2:3002"},
		listen:    "127.0.0.1:8001",
		listenTLS: "127.0.0.1:8002",
		certFile:  "/c/cert.pem", keyFile: "/c/key.pem",
		demo:        "/d/demo",
		threads:     7,
		descriptors: 20_400,
		checkPath:   pathHealth, checkEvery: 10 * time.Second,
		sticky: "lb",
	}
}

func TestConfigs(t *testing.T) {
	tests := map[string]struct {
		config string
		want   []string
	}{
		"HAProxy": {haproxyConfig(newSetup(t), "/c/both.pem"), []string{
			"\tnbthread 7\n", "\tmaxconn 10099\n", "\tbind 127.0.0.1:8001\n", "\tbind 127.0.0.1:8002 ssl crt /c/both.pem ciphersuites TLS_AES_128_GCM_SHA256 alpn h2,http/1.1\n",
			"\tcookie SRV insert indirect nocache\n", "\toption httpchk GET /healthz\n", "default-server check inter 10000ms\n",
			"\tserver s1 127.0.0.1:3001 cookie s1\n", "\tserver s2 127.0.0.2:3002 cookie s2\n"}},
		"nginx": {nginxConfig(newSetup(t)), []string{
			"worker_processes 7;", "worker_connections 20200;", "access_log off;", "hash $session consistent;",
			"server 127.0.0.1:3001 max_fails=3", "server 127.0.0.2:3002 max_fails=3", "listen 127.0.0.1:8001;",
			"listen 127.0.0.1:8002 ssl http2;", "ssl_certificate /c/cert.pem;", "ssl_certificate_key /c/key.pem;"}},
		"Caddy": {caddyConfig(newSetup(t)), []string{
			"reverse_proxy 127.0.0.1:3001 127.0.0.2:3002 {", "lb_policy cookie lb", "health_uri /healthz", "health_interval 10s",
			"http://localhost:8001 {", "https://localhost:8002 {", "tls /c/cert.pem /c/key.pem", "bind 127.0.0.1\n"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, part := range tt.want {
				require.Contains(t, tt.config, part)
			}
		})
	}
}

func TestStickylbCommand(t *testing.T) {
	cmd, err := stickylbCommand(newSetup(t))
	require.NoError(t, err)
	require.Equal(t, []string{"/d/demo", "-listen", "127.0.0.1:0", "-listen-tls", "127.0.0.1:0", "-tls-cert", "/c/cert.pem",
		"-tls-key", "/c/key.pem", "-sticky", "lb", "-check", "/healthz", "-check-interval", "10s",
		"-target", "http://127.0.0.1:3001", "-target", "http://127.0.0.2:3002"}, cmd.Args)

	other := newSetup(t)
	other.before = "/d/before"
	before, err := beforeCommand(other)
	require.NoError(t, err)
	require.Equal(t, "/d/before", before.Args[0])
	require.Equal(t, cmd.Args[1:], before.Args[1:])
}

func TestProgram_NotInstalled(t *testing.T) {
	p := &program{name: "No-Such-Proxy", install: "apt-get install no-such-proxy"}
	_, err := new(bench).versionOf(t.Context(), p)
	require.EqualError(t, err, "not installed; on Debian: apt-get install no-such-proxy")
	for _, p := range programs {
		require.Equal(t, p.install == "", slices.Contains([]string{nameStickylb, nameReverseProxy, nameBefore}, p.name), p.name)
	}
}

func TestFreeAddresses(t *testing.T) {
	plain, secure, err := freeAddresses()
	require.NoError(t, err)
	require.NotEqual(t, plain, secure)
}

func TestLoopback(t *testing.T) {
	seen := make(map[string]bool)
	for i := range 3000 {
		seen[loopback(i)] = true
	}
	require.Len(t, seen, 3000)
	require.Equal(t, "127.0.0.1", loopback(0))
	require.True(t, seen["127.0.29.100"])
}

func TestProcess_EndsEarly(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	_, err := (&setup{dir: filepath.Dir(script)}).write("script", "#!/bin/sh\n", "echo no such thing >&2; exit 3\n")
	require.NoError(t, err)
	p, err := startProcess(exec.Command("/bin/sh", script))
	require.NoError(t, err)
	_, err = p.addresses(t.Context(), 1)
	require.EqualError(t, err, `it has ended (exit status 3); it says "no such thing"`)
	p.stop()
}

func TestTranscript(t *testing.T) {
	var out transcript
	write := func(text string) {
		n, err := out.Write([]byte(text))
		require.NoError(t, err)
		require.Equal(t, len(text), n)
	}
	write("hello\n" + announced + " http://127.0.0.1:80 (a note)\n" + announced + " https://127.0")
	require.Equal(t, []string{"http://127.0.0.1:80"}, out.after(announced), "half a line is none")
	write(".0.1:443\n")
	require.Equal(t, []string{"http://127.0.0.1:80", "https://127.0.0.1:443"}, out.after(announced))
	write(string(make([]byte, 2*maxTranscript)))
	require.Len(t, out.text, maxTranscript)
	require.Less(t, len(out.quote()), 3000)
}
