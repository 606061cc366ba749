package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"debug/buildinfo"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Names of the programs that are always there.
const (
	nameStickylb     = "stickylb"
	nameReverseProxy = "ReverseProxy"
)

// nameBefore is the name of another version of the demo balancer.
const nameBefore = "before"

// A program is a proxy to be measured.
type program struct {
	name    string
	about   string   // how it is set up
	install string   // how to get it; empty: it is built from here
	version []string // arguments that print the version
	command func(s *setup) (*exec.Cmd, error)
	sticks  bool // it has stickiness and several targets
}

// A setup has the values that a program's configuration needs.
type setup struct {
	dir               string   // for the program's files
	targets           []string // addresses
	listen, listenTLS string   // addresses, for a program that cannot choose and announce its own
	certFile, keyFile string
	demo, before      string // files of the library's demo balancer, and of another version
	threads           int
	descriptors       int // limit of the program

	checkPath  string
	checkEvery time.Duration // in all programs that check
	sticky     string        // mode of the demo balancer
}

// programs are all programs. The first two are always there.
var programs = []*program{
	{
		name:    nameStickylb,
		about:   "examples/demo: sealed cookie, HTTP checks, least connections",
		command: stickylbCommand,
		sticks:  true,
	},
	{
		name:    nameReverseProxy,
		about:   "httputil.ReverseProxy with a BufferPool and http.Transport: one target, no stickiness, no checks",
		command: reverseProxyCommand,
	},
	{
		name:    "HAProxy",
		about:   "cookie insert indirect, option httpchk, leastconn; one thread a processor",
		install: "apt-get install haproxy",
		version: []string{"-v"},
		command: haproxyCommand,
		sticks:  true,
	},
	{
		name: "nginx",
		about: "one worker a processor; without the sticky directive (open source since 1.29.6) the cookie is made of map, " +
			"hash and add_header; passive checks, since it has no active ones; bodies are streamed and not written to files",
		install: "apt-get install nginx-light",
		version: []string{"-v"},
		command: nginxCommand,
		sticks:  true,
	},
	{
		name:    "Caddy",
		about:   "lb_policy cookie, health_uri",
		install: "apt-get install caddy",
		version: []string{"version"},
		command: caddyCommand,
		sticks:  true,
	},
	{
		name:    nameBefore,
		about:   "another version of examples/demo, set up like " + nameStickylb,
		command: beforeCommand,
		sticks:  true,
	},
}

// find returns the path of an installed program.
func find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", name)) // where Debian has the servers, for everybody
}

// versionOf returns a line about the program's version, or an error that says how to install it.
func (b *bench) versionOf(ctx context.Context, p *program) (line string, err error) {
	switch p.name {
	case nameReverseProxy:
		return runtime.Version(), nil
	case nameStickylb:
		return builtWith(b.demo)
	case nameBefore:
		return builtWith(b.before)
	}
	path, err := find(strings.ToLower(p.name))
	if err != nil {
		return "", fmt.Errorf("not installed; on Debian: %s", p.install)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	text, err := exec.CommandContext(ctx, path, p.version...).CombinedOutput()
	line, _, _ = strings.Cut(string(text), "\n")
	return line, err
}

// builtWith returns the version of Go that has built a program.
func builtWith(file string) (string, error) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return "", err
	}
	return info.GoVersion, nil
}

func stickylbCommand(s *setup) (*exec.Cmd, error) {
	cmd := exec.Command(s.demo, "-listen", "127.0.0.1:0", "-listen-tls", "127.0.0.1:0", "-tls-cert", s.certFile, "-tls-key", s.keyFile,
		"-sticky", s.sticky, "-check", s.checkPath, "-check-interval", s.checkEvery.String())
	for _, target := range s.targets {
		cmd.Args = append(cmd.Args, "-target", "http://"+target)
	}
	cmd.Env = append(os.Environ(), godebug(extendedConnect+"=1"))
	return cmd, nil
}

// extendedConnect is the setting of GODEBUG that lets net/http's server offer extended CONNECT (RFC
// 8441).
const extendedConnect = "http2xconnect"

// godebug returns the environment variable GODEBUG of this process with a setting added.
func godebug(setting string) string {
	return "GODEBUG=" + strings.TrimPrefix(os.Getenv("GODEBUG")+","+setting, ",")
}

func beforeCommand(s *setup) (*exec.Cmd, error) {
	other := *s
	other.demo = s.before
	return stickylbCommand(&other)
}

func reverseProxyCommand(s *setup) (*exec.Cmd, error) {
	cmd, err := roleCommand(roleReverseProxy, s.targets[0], s.certFile, s.keyFile)
	if err != nil {
		return nil, err
	}
	cmd.Env = append(cmd.Env, godebug(extendedConnect+"=0")) // httputil.ReverseProxy cannot serve one
	return cmd, nil
}

// write writes a file into the program's directory.
func (s *setup) write(name string, parts ...string) (path string, err error) {
	path = filepath.Join(s.dir, name)
	return path, os.WriteFile(path, []byte(strings.Join(parts, "")), 0o600)
}

func haproxyCommand(s *setup) (*exec.Cmd, error) {
	path, err := find("haproxy")
	if err != nil {
		return nil, err
	}
	cert, certErr := os.ReadFile(s.certFile)
	key, keyErr := os.ReadFile(s.keyFile)
	pem, pemErr := s.write("haproxy.pem", string(cert), string(key))
	config, configErr := s.write("haproxy.cfg", haproxyConfig(s, pem))
	if err := errors.Join(certErr, keyErr, pemErr, configErr); err != nil {
		return nil, err
	}
	return exec.Command(path, "-q", "-db", "-f", config), nil
}

// haproxyConfig returns HAProxy's configuration. HAProxy needs certificate and key in one file. It
// prefers AES-256 to what the client prefers, so the others would have less work.
func haproxyConfig(s *setup, pem string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `global
	nbthread %d
	maxconn %d
defaults
	mode http
	timeout connect 3s
	timeout client 1h
	timeout server 1h
	timeout tunnel 1h
	retries 1
frontend front
	bind %s
	bind %s ssl crt %s ciphersuites TLS_AES_128_GCM_SHA256 alpn h2,http/1.1
	default_backend back
backend back
	balance leastconn
	cookie SRV insert indirect nocache
	option httpchk GET %s
	default-server check inter %dms
`, s.threads, (s.descriptors-spareDescriptors/2-len(s.targets))/2, s.listen, s.listenTLS, pem, s.checkPath, s.checkEvery.Milliseconds())
	for i, target := range s.targets {
		fmt.Fprintf(&b, "\tserver s%d %s cookie s%d\n", i+1, target, i+1)
	}
	return b.String()
}

func nginxCommand(s *setup) (*exec.Cmd, error) {
	path, err := find("nginx")
	if err != nil {
		return nil, err
	}
	config, err := s.write("nginx.conf", nginxConfig(s))
	if err != nil {
		return nil, err
	}
	return exec.Command(path, "-p", s.dir, "-c", config, "-e", "stderr"), nil
}

// nginxConfig returns nginx's configuration. nginx makes a name for the session at the first
// request, and a cookie with it. The hash of the name chooses the target, from the first request
// on.
func nginxConfig(s *setup) string {
	var b strings.Builder
	if os.Geteuid() == 0 {
		b.WriteString("user root;\n") // the workers write into a directory that is ours alone
	}
	fmt.Fprintf(&b, `daemon off;
pid nginx.pid;
worker_processes %d;
events { worker_connections %d; }
http {
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	keepalive_requests 1000000000;
	keepalive_timeout 1h;
	map $cookie_SRV $session { "" $request_id; default $cookie_SRV; }
	map $cookie_SRV $bind { "" "SRV=$request_id; Path=/; HttpOnly"; default ""; }
	map $http_upgrade $hop { "" ""; default upgrade; }
	upstream back {
		hash $session consistent;
		keepalive 64;
		keepalive_requests 1000000000;
`, s.threads, s.descriptors-spareDescriptors/2)
	for _, target := range s.targets {
		fmt.Fprintf(&b, "\t\tserver %s max_fails=3 fail_timeout=%ds;\n", target, max(1, int(s.checkEvery.Seconds())))
	}
	fmt.Fprintf(&b, `	}
	server {
		listen %s;
		listen %s ssl http2;
		ssl_certificate %s;
		ssl_certificate_key %s;
		ssl_protocols TLSv1.2 TLSv1.3;
		location / {
			proxy_pass http://back;
			proxy_http_version 1.1;
			proxy_request_buffering off;
			proxy_max_temp_file_size 0;
			proxy_set_header Host $host;
			proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection $hop;
			proxy_read_timeout 1h;
			proxy_send_timeout 1h;
			add_header Set-Cookie $bind;
		}
	}
}
`, s.listen, s.listenTLS, s.certFile, s.keyFile)
	return b.String()
}

func caddyCommand(s *setup) (*exec.Cmd, error) {
	path, err := find("caddy")
	if err != nil {
		return nil, err
	}
	config, err := s.write("Caddyfile", caddyConfig(s))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, "run", "--config", config, "--adapter", "caddyfile")
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), godebug(extendedConnect+"=1"), "HOME="+s.dir, "XDG_DATA_HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir)
	return cmd, nil
}

func caddyConfig(s *setup) string {
	_, plain, _ := net.SplitHostPort(s.listen)
	_, secure, _ := net.SplitHostPort(s.listenTLS)
	return fmt.Sprintf(`{
	admin off
	auto_https off
	log {
		level ERROR
	}
}
(proxy) {
	bind 127.0.0.1
	reverse_proxy %s {
		lb_policy cookie lb secret
		health_uri %s
		health_interval %v
		transport http {
			compression off
			keepalive_idle_conns_per_host 1024
		}
	}
}
http://localhost:%s {
	import proxy
}
https://localhost:%s {
	tls %s %s
	import proxy
}
`, strings.Join(s.targets, " "), s.checkPath, s.checkEvery, plain, secure, s.certFile, s.keyFile)
}

// A proxy is a program that runs.
type proxy struct {
	*program
	process           *process
	listen, listenTLS string // addresses
	pids              []int
	setup             *setup
	suite             string // of TLS
}

// entry returns the request that begins a session.
func (p *proxy) entry() exchange {
	if p.setup.sticky == stickyLearned {
		return login(rand.Text())
	}
	return small
}

// startAttempts limits the starts of a program that cannot choose free ports itself: another
// process may take its ports before it does.
const startAttempts = 3

// startProgram starts a program with these targets and waits until it answers. If change is not
// nil, it may change the setup.
func (b *bench) startProgram(ctx context.Context, p *program, targets []string, change func(*setup)) (started *proxy, err error) {
	for range startAttempts {
		started, err = b.tryProgram(ctx, p, targets, change)
		if err == nil || p.install == "" || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return started, nil
}

func (b *bench) tryProgram(ctx context.Context, p *program, targets []string, change func(*setup)) (*proxy, error) {
	s := &setup{targets: targets, certFile: b.certFile, keyFile: b.keyFile, demo: b.demo, before: b.before,
		threads: runtime.NumCPU(), descriptors: b.descriptors,
		checkPath: pathHealth, checkEvery: 10 * time.Second, sticky: "lb"}
	if change != nil {
		change(s)
	}
	var err error
	if s.dir, err = os.MkdirTemp(b.dir, strings.ToLower(p.name)+"-"); err != nil {
		return nil, err
	}
	if s.listen, s.listenTLS, err = freeAddresses(); err != nil {
		return nil, err
	}
	cmd, err := p.command(s)
	if err != nil {
		return nil, err
	}
	process, err := startProcess(cmd)
	if err != nil {
		return nil, err
	}
	started := &proxy{program: p, process: process, listen: s.listen, listenTLS: s.listenTLS, setup: s}
	if err := b.awaitProxy(ctx, started); err != nil {
		process.stop()
		return nil, err
	}
	return started, nil
}

// awaitProxy waits until the proxy answers, and checks that it works as configured.
func (b *bench) awaitProxy(ctx context.Context, p *proxy) (err error) {
	if p.install == "" {
		found, err := p.process.addresses(ctx, 2)
		if err != nil {
			return err
		}
		p.listen, p.listenTLS = strings.TrimPrefix(found[0], "http://"), strings.TrimPrefix(found[1], "https://")
	}
	err = p.process.poll(ctx, func() error {
		return errors.Join(b.visit(ctx, p, false), b.visit(ctx, p, true), b.visitHTTP2(ctx, p))
	})
	if err != nil {
		return err
	}
	if p.pids, err = family(p.process.cmd.Process.Pid); err != nil {
		return err
	}
	return b.checkSpread(ctx, p)
}

// visit makes a session of two requests.
func (b *bench) visit(ctx context.Context, p *proxy, secure bool) error {
	c, err := b.dial(ctx, p, secure)
	if err != nil {
		return err
	}
	defer c.close()
	if conn, ok := c.conn.(*tls.Conn); ok {
		p.suite = tls.CipherSuiteName(conn.ConnectionState().CipherSuite)
	}
	return inOrder(func() error { return c.start(p.entry()) }, func() error { return c.do(small) })
}

// visitHTTP2 makes a session of two requests over HTTP/2.
func (b *bench) visitHTTP2(ctx context.Context, p *proxy) error {
	c, err := dialHTTP2(ctx, p.listenTLS, b.tls2, 1)
	if err != nil {
		return err
	}
	defer c.close()
	return inOrder(func() error { return c.start(p.entry()) }, func() error { return c.do(small) })
}

// checkSpread returns an error if there are several targets and all sessions have the same one.
func (b *bench) checkSpread(ctx context.Context, p *proxy) error {
	if !p.sticks || p.setup.checkPath == pathFlapping { // the targets' sessions move

		return nil
	}
	const sessions = 32
	c, err := b.dial(ctx, p, false)
	if err != nil {
		return err
	}
	defer c.close()
	seen := make(map[string]bool)
	for range sessions {
		if err := inOrder(func() error { return c.start(p.entry()) }, func() error { return c.do(small) }); err != nil {
			return err
		}
		if c.session.cookies == "" {
			return errors.New("it sets no cookie")
		}
		seen[c.session.backend] = true
	}
	if len(seen) < 2 {
		return errors.New("all sessions went to " + strconv.Quote(c.session.backend))
	}
	return nil
}

// freeAddresses returns two addresses without a listener. Another process may take them before they
// are used.
func freeAddresses() (plain, secure string, err error) {
	for _, address := range []*string{&plain, &secure} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", "", err
		}
		defer l.Close()
		*address = l.Addr().String()
	}
	return plain, secure, nil
}
