package stream_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"net/url"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// Two databases, and clients that stay with their database.
func Example() {
	var targets []balancer.Target
	for _, id := range []string{"db-1", "db-2"} {
		targets = append(targets, balancer.Target{ID: id, URL: &url.URL{Scheme: "tcp", Host: database(id)}})
	}
	pool, err := balancer.New(balancer.Config{Targets: targets, Picker: &balancer.Rendezvous{}})
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	ended := make(chan stream.Record, 1)
	lb := &stream.Server{Pool: pool, Trace: &stream.Trace{Done: func(rec stream.Record) { ended <- rec }}}
	go func() {
		if err := lb.Serve(l); !errors.Is(err, stream.ErrServerClosed) {
			log.Fatal(err)
		}
	}()

	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(c, "who are you?")
	c.(*net.TCPConn).CloseWrite()
	answer, err := io.ReadAll(c)
	if err != nil {
		log.Fatal(err)
	}
	c.Close()
	rec := <-ended
	fmt.Println(string(answer) == "I am "+rec.Target, rec.FromClient, rec.FromBackend, rec.EndedBy)

	if err := lb.Shutdown(context.Background()); err != nil {
		log.Fatal(err)
	}
	// Output: true 12 9 client closed
}

// database listens and sends its name.
func database(id string) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.Copy(io.Discard, c)
			fmt.Fprint(c, "I am "+id)
			c.Close()
		}
	}()
	return l.Addr().String()
}

// TLS passes through to one of several pools, by the server name. The balancer is behind another
// proxy and sends the clients' addresses to the targets.
func ExampleServer_route() {
	pools := make(map[string]*balancer.Pool) // by server name
	lb := &stream.Server{
		ReadHello: true,
		Route:     func(c stream.Client) *balancer.Pool { return pools[c.ServerName] },
		SendProxy: 2,
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go lb.Serve(&proxyproto.Listener{Listener: l, Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	defer lb.Close()

	_, err = tls.Dial("tcp", l.Addr().String(), &tls.Config{ServerName: "unknown.example"})
	fmt.Println(err != nil)
	// Output: true
}
