package tunnel_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/soaktest"
	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

// This file measures a process that does nothing but proxy.

// proxyMode is in the environment of a proxy's process. It names one of the engines, or is "copy":
// two io.Copy as httputil.ReverseProxy has them, whose connections have no splice. With withTLS
// behind it the clients speak TLS.
const (
	proxyMode = "STICKYLB_TEST_PROXY_MODE"
	withTLS   = "+tls"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv(proxyMode); mode != "" {
		runProxy(mode)
		return
	}
	os.Exit(m.Run())
}

// runProxy joins every connection with one to the backend whose address is the first line of its
// input, and prints its own address. For every further line it prints what it has and has used;
// if that is "drain" it asks all tunnels to end before, over a second.
func runProxy(mode string) {
	in := bufio.NewScanner(os.Stdin)
	in.Scan()
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	fmt.Println(l.Addr())
	var e *tunnel.Engine
	mode, secure := strings.CutSuffix(mode, withTLS)
	if engine := engines[mode]; engine != nil {
		e = engine()
	}
	if secure {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate()}})
	}
	go joinAll(e, l, in.Text())
	for in.Scan() {
		var drained time.Duration
		if in.Text() == "drain" {
			began := time.Now()
			f := tunnel.Farewell{Code: 1001, By: tunnel.Shutdown, Window: time.Second}
			tunnels := joined.take()
			tunnel.Ask(context.Background(), f, tunnels...)
			for _, tun := range tunnels {
				<-tun.Ended()
			}
			drained = time.Since(began)
		}
		printUsage(drained)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func joinAll(e *tunnel.Engine, l net.Listener, address string) {
	for {
		client, backend := must(l.Accept()), must(net.Dial("tcp", address))
		go func() { // a server's handler has ended when a tunnel begins, and its stack is gone
			if secure, ok := client.(*tls.Conn); ok {
				secure.Handshake()
			}
			join(e, client, backend)
		}()
	}
}

func join(e *tunnel.Engine, client, backend net.Conn) {
	if e != nil {
		joined.add(e.Start(tunnel.Side{Conn: client}, tunnel.Side{Conn: backend}, webSocket))
		return
	}
	go io.Copy(struct{ io.Writer }{client}, struct{ io.Reader }{backend})
	go io.Copy(struct{ io.Writer }{backend}, struct{ io.Reader }{client})
}

// joined has the tunnels of the process.
var joined joins

type joins struct {
	mu      sync.Mutex
	tunnels []*tunnel.Tunnel
}

func (j *joins) add(t *tunnel.Tunnel) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.tunnels = append(j.tunnels, t)
}

func (j *joins) take() []*tunnel.Tunnel {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := j.tunnels
	j.tunnels = nil
	return all
}

// usage is what a process has and has used.
type usage struct {
	Resident, InUse         float64 // bytes from the system; heap and stacks
	CPU                     float64 // nanoseconds
	Goroutines, Descriptors int
	Drained                 time.Duration // what that took
}

// printUsage prints the usage, and then collects garbage.
func printUsage(drained time.Duration) {
	var size, pages int
	must(fmt.Sscan(string(must(os.ReadFile("/proc/self/statm"))), &size, &pages))
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	json.NewEncoder(os.Stdout).Encode(usage{
		Resident:    float64(pages * os.Getpagesize()),
		InUse:       float64(m.HeapAlloc + m.StackInuse),
		CPU:         float64(r.Utime.Nano() + r.Stime.Nano()),
		Goroutines:  runtime.NumGoroutine(),
		Descriptors: len(must(os.ReadDir("/proc/self/fd"))),
		Drained:     drained,
	})
}

// proxy is a process that runs runProxy.
type proxy struct {
	address  string
	secure   bool
	backends net.Listener
	in       io.WriteCloser
	out      *bufio.Reader
}

func startProxy(t testing.TB, mode string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), proxyMode+"="+mode,
		"GORACE="+os.Getenv("GORACE")+" atexit_sleep_ms=0") // else it takes a second to end
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	require.NoError(t, err)
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		l.Close()
		in.Close()
		require.NoError(t, command.Wait())
	})
	p := &proxy{secure: strings.HasSuffix(mode, withTLS), backends: l, in: in, out: bufio.NewReader(out)}
	p.address = strings.TrimSpace(p.ask(t, l.Addr().String()))
	return p
}

// ask sends a line and returns the line that is the answer.
func (p *proxy) ask(t testing.TB, question string) string {
	t.Helper()
	_, err := fmt.Fprintln(p.in, question)
	require.NoError(t, err)
	answer, err := p.out.ReadString('\n')
	require.NoError(t, err)
	return answer
}

// usage asks for the usage; after that the process holds no garbage.
func (p *proxy) usage(t testing.TB, question string) (u usage) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(p.ask(t, question)), &u))
	return u
}

// open returns the outer ends of a new tunnel that has moved a frame each way.
func (p *proxy) open(t testing.TB) (client, backend net.Conn) {
	t.Helper()
	client, err := net.Dial("tcp", p.address)
	require.NoError(t, err)
	backend, err = p.backends.Accept()
	require.NoError(t, err)
	if p.secure {
		client = tls.Client(client, &tls.Config{InsecureSkipVerify: true})
	}
	t.Cleanup(func() {
		client.Close()
		backend.Close()
	})
	for _, masked := range []bool{true, false} {
		from, to := client, backend
		if !masked {
			from, to = to, from
		}
		hello := string(frame(fin|text, []byte("hello"), 0, masked))
		write(t, from, hello)
		expect(t, to, hello)
	}
	return client, backend
}

// Idle tunnels are all asked to end: each gets its close frames, and nothing is left. They are so
// many that a usual limit of 1024 descriptors is enough for those of all engines, in this process
// and in the other one.
func TestEngine_W6_LeaveOfMany(t *testing.T) {
	t.Parallel()
	for mode := range engines {
		t.Run(mode, func(t *testing.T) {
			t.Parallel() // it waits
			leave(t, mode, soaktest.Times(150, 400))
		})
	}
}

// Ten thousand tunnels, nearly: it takes a second over their asking.
func BenchmarkEngineLeave(b *testing.B) {
	for _, mode := range []string{"parking", "plain"} {
		b.Run(mode+"/tunnels=9900", func(b *testing.B) {
			for b.Loop() {
				b.ReportMetric(leave(b, mode, 9900).Seconds(), "leave-s")
			}
		})
	}
}

// leave makes a proxy end n tunnels and returns how long that took.
func leave(t testing.TB, mode string, n int) time.Duration {
	t.Helper()
	p := startProxy(t, mode)
	before := p.usage(t, "usage")
	var peers sync.WaitGroup
	for range n {
		client, backend := p.open(t)
		peers.Go(func() { sayGoodbye(t, client, true) })
		peers.Go(func() { sayGoodbye(t, backend, false) })
	}
	require.GreaterOrEqual(t, p.usage(t, "usage").Descriptors, 2*n)
	drained := p.usage(t, "drain").Drained
	peers.Wait()
	var after usage
	settled(t, func() bool {
		after = p.usage(t, "usage")
		return after.Goroutines <= before.Goroutines
	})
	require.LessOrEqual(t, after.Descriptors, before.Descriptors)
	return drained
}

// sayGoodbye answers the close frame that is the only thing that comes, and closes.
func sayGoodbye(t testing.TB, c net.Conn, masked bool) {
	defer c.Close()
	goodbye := closeFrame(1001, "", !masked)
	got := make([]byte, len(goodbye)+1)
	n, err := io.ReadAtLeast(c, got, len(goodbye))
	if err != nil || n != len(goodbye) || got[0] != goodbye[0] || got[1] != goodbye[1] {
		t.Errorf("instead of a close frame: % x, %v", got[:n], err)
		return
	}
	c.Write(closeFrame(1001, "", masked))
	if n, err := c.Read(got); n != 0 || err != io.EOF {
		t.Errorf("after the close frames: %d octets, %v", n, err)
	}
}

// Tunnels that were used and wait: what the process takes from the system for each, and what of
// that is heap and stacks in use.
func BenchmarkTunnelIdle(b *testing.B) {
	for _, mode := range []string{"parking", "plain", "copy"} {
		for _, n := range []int{1000, 4000, 9900} { // twice as many descriptors
			b.Run(fmt.Sprintf("%s/tunnels=%d", mode, n), func(b *testing.B) { benchmarkIdle(b, mode, n) })
		}
		b.Run(mode+withTLS+"/tunnels=1000", func(b *testing.B) { benchmarkIdle(b, mode+withTLS, 1000) })
	}
}

func benchmarkIdle(b *testing.B, mode string, n int) {
	for b.Loop() {
		p := startProxy(b, mode)
		p.usage(b, "usage")
		before := p.usage(b, "usage")
		for range n {
			p.open(b)
		}
		after := p.usage(b, "usage")
		b.ReportMetric((after.Resident-before.Resident)/float64(n), "rss-B/tunnel")
		b.ReportMetric((after.InUse-before.InUse)/float64(n), "inuse-B/tunnel")
	}
}

// Small messages there and back on many tunnels at once: the proxy's CPU time for one.
func BenchmarkTunnelEchoCPU(b *testing.B) {
	const size = 100
	for _, conns := range []int{1, 64} {
		for _, mode := range []string{"parking", "plain", "copy"} {
			b.Run(fmt.Sprintf("%s/tunnels=%d", mode, conns), func(b *testing.B) {
				p := startProxy(b, mode)
				turns := make(chan struct{}, conns)
				for range conns {
					client, backend := p.open(b)
					go io.Copy(struct{ io.Writer }{backend}, struct{ io.Reader }{backend})
					go func() {
						message := frame(fin|text, make([]byte, size-4), 2, false)
						for range turns {
							client.Write(message)
							io.ReadFull(client, message)
						}
					}()
				}
				before := p.usage(b, "usage")
				for b.Loop() {
					turns <- struct{}{}
				}
				after := p.usage(b, "usage")
				close(turns)
				b.ReportMetric((after.CPU-before.CPU)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// One megabyte after the other to the client: the proxy's CPU time for one.
func BenchmarkTunnelBulkCPU(b *testing.B) {
	const size = 1 << 20
	for _, conns := range []int{1, 8} {
		for _, mode := range []string{"parking", "copying", "plain", "copy"} {
			b.Run(fmt.Sprintf("%s/tunnels=%d", mode, conns), func(b *testing.B) {
				p := startProxy(b, mode)
				turns := make(chan struct{}, conns)
				for range conns {
					client, backend := p.open(b)
					message := frame(fin|text, make([]byte, size-10), 8, false)
					go func() {
						for range turns {
							backend.Write(message)
						}
						backend.Close()
					}()
					go io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{client}, make([]byte, 256<<10))
				}
				before := p.usage(b, "usage")
				b.SetBytes(size)
				for b.Loop() {
					turns <- struct{}{}
				}
				after := p.usage(b, "usage")
				close(turns)
				b.ReportMetric((after.CPU-before.CPU)/float64(b.N)*1024/1e9, "cpu-s/GiB")
			})
		}
	}
}
