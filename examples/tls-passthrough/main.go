// Command tls-passthrough shares one port among TLS servers of any protocol. It chooses the server
// by the name in the client's ClientHello (SNI), and passes TLS on unchanged: certificates and keys
// stay with the servers. Targets with the label proxy=yes get a PROXY header with the client's
// address. Targets that speak PostgreSQL get the SSLRequest with which their TLS begins.
//
//	go -C examples/tls-passthrough run .
//	openssl s_client -quiet -connect 127.0.0.1:8443 -servername one.localhost
//
// Without flags it starts two small servers, one.localhost and two.localhost, which tell each
// client the address that they see. two.localhost accepts PROXY headers, so it sees the client's
// own address. To use your own servers, name them:
//
//	go -C examples/tls-passthrough run . \
//		-route 'redis.example tcp://10.0.0.1:6379 tcp://10.0.0.2:6379' \
//		-route 'db.example tcp://10.0.0.3:5432;label.speaks=postgres' \
//		-route 'www.example tcp://10.0.0.4:443;label.proxy=yes'
//	redis-cli --tls --sni redis.example -h 127.0.0.1 -p 8443
//	psql 'host=db.example hostaddr=127.0.0.1 port=8443 sslmode=verify-full sslrootcert=ca.pem'
//
// The client has to send the name, as it does if it connects to a name and not to an IP address.
// libpq does so from version 14 on. Connections without a name or a route are closed.
//
// # PostgreSQL
//
// A client of PostgreSQL asks for TLS in plain text (SSLRequest) before it begins TLS. This program
// answers the client itself, and sends the server an SSLRequest of its own. The server receives
// nothing from the client before its ClientHello. This works with every server version and with
// every client that uses TLS and sends the name. With sslnegotiation=direct, libpq 17 sends no
// SSLRequest; that needs a server of version 17, too. psql before 17 sends the cancel request of
// Ctrl-C without TLS. That connection is closed here, and the query goes on.
//
// # For production
//
// Choose a [health.Check] for each protocol: the one here connects, and asks PostgreSQL for TLS.
// Limit the clients, for example with [stream.Limits].MaxPerKey. The server name says where a
// client wants to go, not who it is: the servers have to authenticate clients.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/internal/commandline"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "tls-passthrough:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	pools := map[string]*balancer.Pool{} // by server name
	flags := flag.NewFlagSet("tls-passthrough", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	listen := flags.String("listen", "127.0.0.1:8443", "`address` for clients")
	flags.Func("route", "server `name and its targets`, repeatable; two small servers without", func(text string) error {
		return addRoute(pools, text)
	})
	if err := commandline.Parse(flags, args, stdout, "Usage of tls-passthrough:\n"); err != nil {
		return err
	}
	if len(pools) == 0 {
		if err := startEmbedded(ctx, &work, pools); err != nil {
			return err
		}
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	for _, pool := range pools {
		registry := &health.Registry{Pool: pool, Check: health.Func(check)}
		work.Go(func() { registry.Run(ctx) })
	}
	lb := &stream.Server{
		Route:       func(c stream.Client) *balancer.Pool { return pools[c.ServerName] },
		ReadHello:   true,
		Dial:        dial,
		SendProxy:   2,
		SendProxyTo: func(m *balancer.Member) bool { return m.Label("proxy") == "yes" },
	}
	fmt.Fprintf(stdout, "accepting on %s\n", listener.Addr())
	work.Go(func() {
		<-ctx.Done()
		limited, end := context.WithTimeout(context.Background(), 5*time.Second)
		defer end()
		lb.Shutdown(limited)
	})
	if err := lb.Serve(&sslListener{listener}); !errors.Is(err, stream.ErrServerClosed) {
		return err
	}
	return nil
}
