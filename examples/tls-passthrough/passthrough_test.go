package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/internal/redisserver"
	"github.com/stickylb/stickylb/examples/internal/selfsigned"
)

const (
	patience = time.Minute
	glance   = 5 * time.Millisecond
)

// newListener listens on an address of its own.
func newListener(t *testing.T) net.Listener {
	t.Helper()
	addr, _, _ := newAddr()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	return l
}

// newAddr returns an address that nobody else uses. It does not look, because a listener that is
// closed keeps its port while a child process that was just forked has it. The port is below those
// of outgoing connections.
func newAddr() (addr, host, port string) {
	own := netip.AddrFrom4([4]byte{127, byte(1 + rand.N(254)), byte(rand.N(255)), byte(1 + rand.N(253))})
	host, port = own.String(), strconv.Itoa(10000+rand.N(20000))
	return net.JoinHostPort(host, port), host, port
}

// start starts the program and returns the host and the port on which it accepts. end ends it. It
// must end without an error.
func start(t *testing.T, args ...string) (host, port string, end func()) {
	t.Helper()
	addr, host, port := newAddr()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, append([]string{"-listen", addr}, args...), w)
		w.CloseWithError(err)
		done <- err
	}()
	line, err := bufio.NewReader(r).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "accepting on "+addr+"\n", line)
	var once sync.Once
	end = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				require.NoError(t, err)
			case <-time.After(patience):
				require.FailNow(t, "the program does not end")
			}
		})
	}
	t.Cleanup(end)
	return host, port, end
}

// certificateFiles writes a new certificate for a name, and its key.
func certificateFiles(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	made, err := selfsigned.New(name)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(made.PrivateKey)
	require.NoError(t, err)
	cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	write := func(file, kind string, der []byte) {
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	write(cert, "CERTIFICATE", made.Certificate[0])
	write(key, "PRIVATE KEY", der)
	return cert, key
}

// say runs a client and returns what it prints.
func say(t *testing.T, env []string, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, redisserver.Program(t, name), args...)
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"), "LC_ALL=C", "HOME=/nonexistent")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, &stderr)
	}
	return strings.TrimSpace(string(out)), err
}

// Ten connections each of psql, redis-cli and curl come to their own servers on one port. Each
// client verifies the certificate of its server, so TLS passes unchanged. nginx learns the address
// of curl from a PROXY header.
func TestPassthrough_W9_OnePort(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"psql", "redis-cli", "curl", "nginx"} {
		redisserver.Program(t, program)
	}
	dir := t.TempDir()
	dbCert, dbKey := certificateFiles(t, dir, "db.localhost")
	redisCert, redisKey := certificateFiles(t, dir, "redis.localhost")
	webCert, webKey := certificateFiles(t, dir, "web.localhost")
	db, killDB := startPostgres(t, dbCert, dbKey)
	_, _, redisPort := newAddr()
	redisserver.Start(t, "--tls-port", redisPort, "--tls-cert-file", redisCert, "--tls-key-file", redisKey, "--tls-auth-clients", "no")
	host, port, end := start(t,
		"-route", "DB.localhost tcp://"+db+";label.speaks=postgres",
		"-route", "redis.localhost tcp://127.0.0.1:"+redisPort,
		"-route", "web.localhost tcp://"+startNginx(t, webCert, webKey)+";label.proxy=yes")
	env := []string{"PGHOST=db.localhost", "PGHOSTADDR=" + host, "PGPORT=" + port, "PGUSER=postgres", "PGDATABASE=postgres",
		"PGSSLMODE=verify-full", "PGSSLROOTCERT=" + dbCert, "PGCONNECT_TIMEOUT=60"}
	redis := []string{"-e", "-h", host, "-p", port, "--tls", "--cacert", redisCert, "--sni", "redis.localhost"}
	for i := range 10 {
		said, err := say(t, env, "psql", "-XAtqc", "select ssl, length(repeat('x', 1000000)) from pg_stat_ssl where pid = pg_backend_pid()")
		require.NoError(t, err)
		require.Equal(t, "t|1000000", said)

		said, err = say(t, nil, "redis-cli", append(redis, "incr", "visits")...)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i+1), said)

		from := fmt.Sprintf("127.7.7.%d", i+1)
		said, err = say(t, nil, "curl", "-q", "-sS", "--noproxy", "*", "--max-time", "60", "--cacert", webCert, "--interface", from,
			"--resolve", "web.localhost:"+port+":"+host, "https://web.localhost:"+port+"/")
		require.NoError(t, err)
		require.Equal(t, "the client is "+from, said)
	}

	// What has no TLS, no name, or another server's certificate.
	_, err := say(t, append(env, "PGSSLMODE=disable"), "psql", "-XAtqc", "select 1")
	require.ErrorContains(t, err, "server closed the connection unexpectedly")
	_, err = say(t, append(env, "PGSSLSNI=0"), "psql", "-XAtqc", "select 1")
	require.Error(t, err)
	_, err = say(t, append(env, "PGHOST=web.localhost"), "psql", "-XAtqc", "select 1")
	require.Error(t, err)
	_, err = say(t, nil, "redis-cli", append(redis, "--sni", "other.localhost", "ping")...)
	require.Error(t, err)

	// A server that dies ends its clients' connections, and only those.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	session := exec.CommandContext(ctx, redisserver.Program(t, "psql"), "-XAtq")
	session.Env = append(env, "PATH="+os.Getenv("PATH"), "LC_ALL=C", "HOME=/nonexistent")
	in, err := session.StdinPipe()
	require.NoError(t, err)
	out, err := session.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, session.Start())
	io.WriteString(in, "select 'there';\n")
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "there\n", line)
	killDB()
	io.WriteString(in, "select 'still there';\n")
	in.Close()
	rest, _ := io.ReadAll(out)
	require.NotContains(t, string(rest), "still there")
	require.Error(t, session.Wait())
	said, err := say(t, nil, "redis-cli", append(redis, "get", "visits")...)
	require.NoError(t, err)
	require.Equal(t, "10", said)
	end()
}

// Without flags, openssl gets to the two small servers five times each. Only the one that knows
// PROXY headers sees the client's address. Nothing of the program is left at its end.
func TestPassthrough_Embedded(t *testing.T) {
	redisserver.Program(t, "openssl")
	before := runtime.NumGoroutine()
	host, port, end := start(t)
	for range 5 {
		for _, name := range []string{"one.localhost", "two.localhost", "TWO.localhost"} {
			said, err := say(t, nil, "openssl", "s_client", "-quiet", "-connect", host+":"+port, "-bind", "127.6.6.6", "-servername", name)
			require.NoError(t, err)
			from := map[bool]string{false: "127.0.0.1", true: "127.6.6.6"}[strings.EqualFold(name, "two.localhost")]
			require.Contains(t, said, fmt.Sprintf("this is %s, and you come from %s:", strings.ToLower(name), from))
		}
	}
	for _, name := range []string{"three.localhost", "one.localhost.example", "localhost"} {
		said, _ := say(t, nil, "openssl", "s_client", "-quiet", "-connect", host+":"+port, "-servername", name)
		require.NotContains(t, said, "this is")
	}
	said, _ := say(t, nil, "openssl", "s_client", "-quiet", "-connect", host+":"+port, "-noservername")
	require.NotContains(t, said, "this is")
	end()
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(glance) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			require.FailNow(t, "goroutines are left", "%s", stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// clientHello returns a ClientHello with a server name.
func clientHello(t testing.TB, name string) string {
	t.Helper()
	client, server := net.Pipe()
	go func() {
		tls.Client(client, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
		client.Close()
	}()
	hello := make([]byte, 16<<10)
	n, err := server.Read(hello)
	require.NoError(t, err)
	server.Close()
	return string(hello[:n])
}

// A silent target gets no octet of a client that does not send its name by TLS, and each such
// client is closed: at once, or after the 5 s of the limit if it stops.
func TestPassthrough_W9_Refused(t *testing.T) {
	t.Parallel()
	target := newListener(t)
	defer target.Close()
	var got sync.Map
	go func() {
		for {
			c, err := target.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if b, _ := io.ReadAll(c); len(b) > 0 {
					got.Store(string(b), true)
				}
			}()
		}
	}()
	host, port, end := start(t, "-route", "db.localhost tcp://"+target.Addr().String())
	hello := clientHello(t, "db.localhost")
	var clients sync.WaitGroup
	for name, tt := range map[string]struct {
		sent string
		want string // of the answers before the end
		ends bool   // the client's side ends
	}{
		"nothing":                       {"", "", true},
		"HTTP":                          {"GET / HTTP/1.1\r\n\r\n", "", false},
		"a start without TLS":           {"\x00\x00\x00\x12\x00\x03\x00\x00user\x00me\x00\x00\x00", "", false},
		"a cancel request":              {"\x00\x00\x00\x10\x04\xd2\x16\x2e\x00\x00\x00\x01\x00\x00\x00\x02", "", false},
		"a start without TLS after yes": {sslRequest + "\x00\x00\x00\x12\x00\x03\x00\x00user\x00me\x00\x00\x00", "S", false},
		"yes twice":                     {sslRequest + sslRequest, "S", false},
		"the wrong order":               {sslRequest + gssencRequest, "S", false},
		"no twice":                      {gssencRequest + gssencRequest, "N", false},
		"half a request":                {sslRequest[:5], "", true},
		"half a request, then nothing":  {sslRequest[:5], "", false},
		"yes, then nothing":             {sslRequest, "S", false},
		"half a ClientHello":            {sslRequest + hello[:100], "S", true},
		"a ClientHello in one record that is too long": {sslRequest + "\x16\x03\x01\xff\xff" + hello[5:], "S", false},
		"an enormous length":                           {"\xff\xff\xff\xff\x04\xd2\x16\x2f" + hello, "", false},
		"an SSLRequest that goes on":                   {"\x00\x00\x00\x09\x04\xd2\x16\x2fx" + hello, "", false},
		"plain text before TLS":                        {sslRequest + "\x00\x00\x00\x08\x04\xd2\x16\x2e" + hello, "S", false},
		"yes after TLS has begun":                      {hello[:20] + sslRequest + hello[20:], "", false},
		"another name":                                 {sslRequest + clientHello(t, "other.localhost"), "S", false},
		"no name":                                      {gssencRequest + sslRequest + clientHello(t, "192.0.2.1"), "NS", false},
	} {
		clients.Go(func() {
			c, err := net.Dial("tcp", net.JoinHostPort(host, port))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			io.WriteString(c, tt.sent)
			if tt.ends {
				c.(*net.TCPConn).CloseWrite()
			}
			answer, err := io.ReadAll(c)
			if errors.Is(err, os.ErrDeadlineExceeded) || !strings.HasPrefix(tt.want, string(answer)) {
				t.Errorf("%s: %q, %v", name, answer, err) // a reset may take the answer away
			}
		})
	}
	clients.Wait()
	end()
	got.Range(func(b, _ any) bool { t.Errorf("the target got %q", b); return true })
}

// A PostgreSQL that refuses, lies, stops or ends costs an error and no connection.
func TestAskForTLS(t *testing.T) {
	for name, tt := range map[string]struct {
		serve func(net.Conn)
		want  string // empty: TLS may begin
	}{
		"yes":          {func(c net.Conn) { io.WriteString(c, "S") }, ""},
		"no":           {func(c net.Conn) { io.WriteString(c, "N") }, `the server has no TLS: it answered an SSLRequest with 'N'`},
		"an error":     {func(c net.Conn) { io.WriteString(c, "Etoo old\x00") }, "the server has no TLS"},
		"an end":       {func(c net.Conn) { c.Close() }, "the answer to an SSLRequest: EOF"},
		"silence":      {func(net.Conn) {}, "deadline exceeded"},
		"nothing read": {nil, "deadline exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			defer far.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			if tt.want != "deadline exceeded" {
				cancel()
				ctx, cancel = context.WithTimeout(t.Context(), patience)
			}
			defer cancel()
			if tt.serve != nil {
				go func() {
					request := make([]byte, 8)
					io.ReadFull(far, request)
					if string(request) == sslRequest {
						tt.serve(far)
					}
				}()
			}
			conn, err := ready(ctx, near, "postgres")
			if tt.want == "" {
				require.NoError(t, err)
				conn.Close()
				return
			}
			require.ErrorContains(t, err, tt.want)
			_, err = near.Write([]byte("x"))
			require.ErrorIs(t, err, io.ErrClosedPipe)
		})
	}
}

func TestRun_Refused(t *testing.T) {
	taken := newListener(t)
	defer taken.Close()
	for _, args := range [][]string{
		{"-route", ""}, {"-route", "db.localhost"}, {"-route", " tcp://127.0.0.1:1"}, {"-route", "db.localhost ftp://127.0.0.1:1"},
		{"-route", "a tcp://127.0.0.1:1", "-route", "A tcp://127.0.0.1:2"}, {"-listen", taken.Addr().String()}, {"more"},
	} {
		require.Error(t, run(t.Context(), args, io.Discard), "%q", args)
	}
}

// Whatever a client sends, in whatever pieces: it gets at most one answer to each request, and all
// other octets are passed on unchanged.
func FuzzAnswerRequests(f *testing.F) {
	hello := clientHello(f, "db.localhost")
	for _, seed := range []string{hello, sslRequest + hello, gssencRequest + sslRequest + hello, gssencRequest + hello,
		sslRequest + sslRequest, sslRequest[:7], "\x00", ""} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		c := &pieces{in: in, size: 1 + int(size)}
		early, err := answerRequests(c)
		rest := append(append([]byte{}, early...), c.in...)
		consumed := map[string]string{"": "", "N": gssencRequest, "S": sslRequest, "NS": gssencRequest + sslRequest}
		requests, ok := consumed[c.out.String()]
		require.True(t, ok, "the answers are %q", &c.out)
		require.Equal(t, string(in), requests+string(rest))
		require.LessOrEqual(t, len(early), len(sslRequest))
		if err != nil {
			require.Empty(t, c.in, "%v", err)
		}
	})
}

// Pieces is a client that sends a few octets at a time.
type pieces struct {
	in   []byte
	size int
	out  bytes.Buffer
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.in) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.size)], p.in)
	p.in = p.in[n:]
	return n, nil
}

func (p *pieces) Write(b []byte) (int, error) { return p.out.Write(b) }
