// Command http3 balances a site over HTTP/1.1, HTTP/2 and HTTP/3 on one port. The requests and
// WebSockets of a session reach the same backend over all three.
//
//	go -C examples/http3 run .
//
// Open https://127.0.0.1:8443. The program makes its own certificate, and browsers accept that for
// HTTP/1.1 and HTTP/2 when you confirm it, but not for HTTP/3. To see HTTP/3, start Chromium with
// the flags that the program prints. The page shows the protocol, and which backend answers a
// request and a WebSocket.
//
// HTTP/3 is quic-go's. The Proxy is the handler of its server, as it is of net/http's:
//
//   - A WebSocket comes in by an extended CONNECT (RFC 9220), which quic-go's server announces by
//     itself. Chromium opens WebSockets over HTTP/1.1 or HTTP/2, so the page uses two protocols.
//   - Early data (0-RTT) is off, because an attacker can replay it, and quic-go leaves it to the
//     client to send only harmless requests that way. With a nil QUICConfig it would be on.
//   - QUIC ends a connection after 30 s of silence. KeepAlivePeriod keeps idle WebSockets, and
//     IdleTimeout ends connections without requests.
//   - Middleware that copies the request, as Request.WithContext does, loses its trailers:
//     quic-go's server sets them only in the request that it has made itself.
//   - A wsproxy.Sticky does not reset the stream when its handler's response breaks off. An
//     httputil.ReverseProxy does so if ConnContext adds an http.ServerContextKey.
//
// For production:
//
//   - Replace startBackends by your targets, and the certificate by a real one.
//   - Open the port for UDP too. Alt-Svc tells browsers to use it, and they stay with HTTP/2 if
//     they cannot. If clients see another port, set Port of the http3.Server to it.
//   - Allow large socket buffers, as quic-go logs: sysctl net.core.rmem_max and wmem_max, 7.5 MB.
//   - QUIC connections end with the process. Clients connect again to the next one, and their
//     cookies lead them to the same backends if both processes have the same Keys.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/internal/selfsigned"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	certificate, err := selfsigned.New("")
	tcp, tcpErr := net.Listen("tcp", "127.0.0.1:8443")
	udp, udpErr := net.ListenPacket("udp", "127.0.0.1:8443")
	lb, lbErr := newBalancer(startBackends("app-1", "app-2"))
	if err := errors.Join(err, tcpErr, udpErr, lbErr); err != nil {
		log.Fatal(err)
	}
	describe(tcp.Addr(), certificate)
	if err := serve(ctx, lb, certificate, tcp, udp); err != nil {
		log.Fatal(err)
	}
}

func newBalancer(targets []balancer.Target) (*wsproxy.Proxy, error) {
	pool, poolErr := balancer.New(balancer.Config{Targets: targets})
	policy, policyErr := stickiness.NewLBCookie(stickiness.LBCookieOptions{Secure: true, HttpOnly: true, CORS: stickiness.CORSNever})
	if err := errors.Join(poolErr, policyErr); err != nil {
		return nil, err
	}
	lb := &wsproxy.Proxy{Pool: pool, Policy: policy}
	return lb, lb.Validate()
}

// newServers returns the servers of HTTP/1.1 and HTTP/2, and of HTTP/3.
func newServers(lb *wsproxy.Proxy, certificate tls.Certificate) (*http.Server, *overQUIC) {
	conf := &tls.Config{Certificates: []tls.Certificate{certificate}}
	quicServer := &overQUIC{Server: http3.Server{TLSConfig: conf.Clone(), IdleTimeout: 2 * time.Minute}}
	quicServer.Handler = quicServer.count(lb)
	quicServer.QUICConfig = &quic.Config{KeepAlivePeriod: 10 * time.Second} // no Allow0RTT
	tcpServer := &http.Server{TLSConfig: conf, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	tcpServer.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		quicServer.SetQUICHeaders(w.Header()) // Alt-Svc
		lb.ServeHTTP(w, r)
	})
	return tcpServer, quicServer
}

// serve serves HTTP/1.1 and HTTP/2 at tcp, and HTTP/3 at udp, until ctx ends. Requests in progress
// then have 30 s to end.
func serve(ctx context.Context, lb *wsproxy.Proxy, certificate tls.Certificate, tcp net.Listener, udp net.PacketConn) error {
	defer udp.Close() // the server leaves it open
	tcpServer, quicServer := newServers(lb, certificate)
	ended := make(chan error, 2)
	go func() { ended <- tcpServer.ServeTLS(tcp, "", "") }()
	go func() { ended <- quicServer.Serve(udp) }()
	select {
	case err := <-ended:
		return errors.Join(err, tcpServer.Close(), quicServer.Close())
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := lb.Shutdown(grace) // WebSockets first
	quicEnded := make(chan error, 1)
	go func() { quicEnded <- quicServer.Shutdown(grace) }() // both share the time that is left
	return errors.Join(err, tcpServer.Shutdown(grace), tcpServer.Close(), <-quicEnded)
}
