package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// activated returns the listeners that systemd passes to this process. first is their first
// descriptor, which is 3. It returns none when the process was started in another way.
func activated(first int) (listeners []net.Listener, err error) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil // the variables were meant for a parent
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil {
		return nil, err
	}
	for fd := first; fd < first+n; fd++ {
		file := os.NewFile(uintptr(fd), "LISTEN_FD_"+strconv.Itoa(fd))
		l, err := net.FileListener(file) // has a copy of the descriptor
		if err := errors.Join(err, file.Close()); err != nil {
			return nil, err
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// asSystemd does what systemd does: it passes a copy of a listening socket. It returns the copy's
// descriptor.
func asSystemd(socket *net.TCPListener) (fd int, err error) {
	file, err := socket.File()
	if err != nil {
		return 0, err
	}
	defer file.Close()
	os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	os.Setenv("LISTEN_FDS", "1")
	return syscall.Dup(int(file.Fd()))
}

// balancerOf returns a balancer before a backend that says "hello".
func balancerOf(backend *httptest.Server) *wsproxy.Proxy {
	targets, _ := balancer.ParseTargets("app-1=" + backend.URL)
	pool, _ := balancer.New(balancer.Config{Targets: targets})
	return &wsproxy.Proxy{Pool: pool}
}

// askHello asks for "hello". It returns an error for any other answer, too.
func askHello(client *http.Client, addr string) error {
	res, err := client.Get("http://" + addr)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && (res.StatusCode != http.StatusOK || string(body) != "hello") {
		err = fmt.Errorf("%s: %s", res.Status, body)
	}
	return err
}

// serveGently serves the listener, and returns a function that ends this without losing a request.
//
// http.Server.Shutdown closes a connection whose first request it reads after Shutdown has begun.
// So stop first accepts no more, then waits until every connection has had an answer or is closed,
// and calls Shutdown only then. ReadHeaderTimeout limits the wait for clients that send nothing.
func serveGently(listener net.Listener, lb *wsproxy.Proxy) (stop func() error) {
	var unanswered sync.WaitGroup
	var connections sync.Map // those that unanswered counts
	server := &http.Server{Handler: lb, ReadHeaderTimeout: 10 * time.Second}
	server.ConnState = func(c net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			connections.Store(c, nil)
			unanswered.Add(1)
		case http.StateIdle, http.StateHijacked, http.StateClosed:
			if _, first := connections.LoadAndDelete(c); first {
				unanswered.Done()
			}
		}
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	return func() error {
		listener.Close()
		<-served // no more connections are accepted
		unanswered.Wait()
		return errors.Join(lb.Shutdown(context.Background()), server.Shutdown(context.Background()))
	}
}

// A new process takes over the listening socket of the old one. The two share one queue of
// connections, so none is refused or reset while one replaces the other. 200 clients come
// meanwhile.
func ExampleProxy_restartWithSocketActivation() {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	defer backend.Close()
	socket, err := net.Listen("tcp", "127.0.0.1:0") // systemd's, for as long as the unit exists
	if err != nil {
		fmt.Println(err)
		return
	}
	defer socket.Close()
	defer os.Unsetenv("LISTEN_PID")
	start := func() (stop func() error) {
		fd, err := asSystemd(socket.(*net.TCPListener))
		listeners, activatedErr := activated(fd)
		if err := errors.Join(err, activatedErr); err != nil {
			panic(err)
		}
		return serveGently(listeners[0], balancerOf(backend))
	}
	stop := start() // the old process
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var clients sync.WaitGroup
	failed := make(chan error, 200)
	for range 4 {
		clients.Go(func() {
			for range 50 {
				if err := askHello(client, socket.Addr().String()); err != nil {
					failed <- err
				}
			}
		})
	}
	stopNew := start() // the new process
	fmt.Println(stop())
	clients.Wait()
	fmt.Println("failed:", len(failed))
	fmt.Println(stopNew())
	// Output:
	// <nil>
	// failed: 0
	// <nil>
}

// Two processes listen at one port with SO_REUSEPORT, each with a queue of its own. What waits in
// the old one's queue when it closes is reset, unless the sysctl net.ipv4.tcp_migrate_req is 1
// (Linux 5.14). So pass the socket instead, as the other example does, where you can. Here nobody
// connects in that moment.
func ExampleProxy_restartWithReusePort() {
	const reusePort = 0xf // SO_REUSEPORT of Linux on x86 and ARM; golang.org/x/sys/unix has it for all
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		controlErr := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, reusePort, 1) })
		return errors.Join(controlErr, err)
	}}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	defer backend.Close()
	addr := "127.0.0.1:0"
	start := func() (stop func() error) {
		l, err := config.Listen(context.Background(), "tcp", addr)
		if err != nil {
			panic(err)
		}
		addr = l.Addr().String()
		return serveGently(l, balancerOf(backend))
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	failed := 0
	come := func() {
		for range 50 {
			if askHello(client, addr) != nil {
				failed++
			}
		}
	}
	stop := start()
	come()
	stopNew := start()
	come() // to both
	fmt.Println(stop())
	come()
	fmt.Println("failed:", failed)
	fmt.Println(stopNew())
	// Output:
	// <nil>
	// failed: 0
	// <nil>
}
