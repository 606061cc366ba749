package clienttest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
)

// blob is what an application answers where it makes up the bytes.
func blob(seed uint64, size int) []byte {
	b := make([]byte, size)
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	rand.NewChaCha8(key).Read(b)
	return b
}

// beApplication is the process of a backend. Every answer and every switch has its ID in Backend.
// It sends back what is posted to /echo, having told the id of the request on its standard output,
// and what comes over the WebSocket at /ws; /blob is made of the query's seed and size.
func beApplication() {
	id := os.Getenv("CLIENTTEST_ID")
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0) // the tests are gone
	}()
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()

	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		os.Stdout.WriteString(r.Header.Get("Request-Id") + "\n")
		w.Write(body)
	})
	mux.HandleFunc("GET /blob", func(w http.ResponseWriter, r *http.Request) {
		seed, _ := strconv.ParseUint(r.FormValue("seed"), 10, 64)
		size, _ := strconv.Atoi(r.FormValue("size"))
		w.Header().Set("Content-Length", r.FormValue("size"))
		w.Write(blob(seed, size))
	})
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, message, err := c.Read(stop)
			if err != nil || c.Write(stop, kind, message) != nil {
				return
			}
		}
	})
	l, err := net.Listen("tcp", os.Getenv("CLIENTTEST_ADDR"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Backend", id)
		mux.ServeHTTP(w, r)
	})}
	go func() {
		<-stop.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		srv.Shutdown(ctx)
		os.Exit(0)
	}()
	srv.Serve(l)
	select {} // until the shutdown is over
}

// An application is a backend in a process of its own, which can be ended and started again at the
// same address.
type application struct {
	id, addr string
	cmd      *exec.Cmd
	stdin    io.Closer
	ended    chan struct{} // closed when the process and its output have ended

	mu       sync.Mutex
	executed map[string]int // how often, by the ids of requests
}

// newApplication starts a process at an address that nobody else uses.
func newApplication(t *testing.T, id string) *application {
	t.Helper()
	addr := netip.AddrFrom4([4]byte{127, byte(1 + rand.N(254)), byte(rand.N(255)), byte(1 + rand.N(253))})
	l, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	require.NoError(t, err)
	l.Close()
	a := &application{id: id, addr: l.Addr().String(), executed: make(map[string]int)}
	require.NoError(t, a.start())
	t.Cleanup(func() { a.signal(syscall.SIGKILL); a.reap() })
	return a
}

func (a *application) target() balancer.Target {
	return balancer.Target{ID: a.id, URL: &url.URL{Scheme: "http", Host: a.addr}}
}

// start starts the process and waits for it to listen.
func (a *application) start() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	a.cmd = exec.Command(self)
	a.cmd.Env = append(os.Environ(), role+"=application", "CLIENTTEST_ID="+a.id, "CLIENTTEST_ADDR="+a.addr)
	a.cmd.Stderr = os.Stderr
	endsWithTests(a.cmd, syscall.SIGKILL) // a frozen one cannot see that the tests are gone
	if a.stdin, err = a.cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := a.cmd.Start(); err != nil {
		return err
	}
	a.ended = make(chan struct{})
	go a.follow(out)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", a.addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-a.ended:
			return errors.New("the application has ended")
		default:
		}
	}
	return errors.New("the application does not listen")
}

// follow notes which requests are executed.
func (a *application) follow(out io.Reader) {
	defer close(a.ended)
	for s := bufio.NewScanner(out); s.Scan(); {
		a.mu.Lock()
		a.executed[s.Text()]++
		a.mu.Unlock()
	}
	a.cmd.Wait() // the signal that ends it is no news
}

func (a *application) signal(s syscall.Signal) { a.cmd.Process.Signal(s) }

// reap waits until the process is gone.
func (a *application) reap() {
	<-a.ended
	a.stdin.Close()
}
