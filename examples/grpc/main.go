// Command grpc balances gRPC servers that keep sessions in their memory. A server sends the ID of a
// new session as the metadata "session-id" of its answer. The client sends this metadata with all
// later calls, and the balancer passes them to the same server, over any connection.
//
//	go -C examples/grpc run .
//
// The program starts two servers, one in plain text (h2c) and one with TLS. It serves h2c at
// 127.0.0.1:8080 and TLS at 127.0.0.1:8443. Then it plays three sessions, and prints which server
// answers each call. After that it serves until it is interrupted.
//
// For production:
//
//   - Replace startServers by your targets, the certificate by a real one, and BackendTLS by the
//     roots of your targets. The service here is grpc-go's own grpc.testing.TestService, but the
//     balancer passes every service and needs no protocol buffers.
//   - Several balancers share sessions through Redis if Store is a redisstore.Store. A MemoryStore
//     serves one balancer, and is empty after a restart.
//   - If clients cannot repeat metadata, choose the server by something that they send anyway,
//     with Proxy.Key and the picker balancer.Rendezvous.
//   - Sessions are learned from a call's header metadata, not from its trailers. A server has to
//     send it before its first message, with grpc.SetHeader.
//   - Before a server calls GracefulStop, it should answer NOT_SERVING for a few Intervals. Its
//     sessions then move to other servers. To keep them meanwhile, drain it with Registry.Drain.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	plain, err := net.Listen("tcp", "127.0.0.1:8080")
	secure, secureErr := net.Listen("tcp", "127.0.0.1:8443")
	targets, certificate, roots, startErr := startServers()
	if err := errors.Join(err, secureErr, startErr); err != nil {
		log.Fatal(err)
	}
	lb, registry, err := newBalancer(targets, roots)
	if err != nil {
		log.Fatal(err)
	}
	go registry.Run(ctx)
	go func() {
		if err := errors.Join(registry.Ready(ctx), visit(ctx, plain.Addr(), secure.Addr(), roots)); err != nil {
			fmt.Println(err)
		}
		fmt.Println("serving until it is interrupted")
	}()
	if err := serve(ctx, lb, certificate, plain, secure); err != nil {
		log.Fatal(err)
	}
}

// newBalancer returns the balancer, and the registry that asks the health service of each target.
func newBalancer(targets []balancer.Target, roots *x509.CertPool) (*wsproxy.Proxy, *health.Registry, error) {
	pool, poolErr := balancer.New(balancer.Config{Targets: targets})
	policy, policyErr := stickiness.NewLearn(stickiness.LearnOptions{Store: &stickiness.MemoryStore{}, Header: "Session-Id"})
	if err := errors.Join(poolErr, policyErr); err != nil {
		return nil, nil, err
	}
	lb := &wsproxy.Proxy{Pool: pool, Policy: policy, BackendTLS: &tls.Config{RootCAs: roots}}
	lb.Upstream.HeaderTimeout = -1 // the deadline of each call ends it
	registry := &health.Registry{Pool: pool, Check: health.GRPC{TLS: lb.BackendTLS}}
	return lb, registry, lb.Validate()
}

// serve serves h2c and TLS until ctx ends. Calls in progress then have 30 s to end.
func serve(ctx context.Context, lb *wsproxy.Proxy, certificate tls.Certificate, plain, secure net.Listener) error {
	server := &http.Server{Handler: endCalls(lb), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}}}
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	ended := make(chan error, 2)
	go func() { ended <- server.Serve(plain) }()
	go func() { ended <- server.ServeTLS(secure, "", "") }()
	select {
	case err := <-ended:
		return errors.Join(err, server.Close())
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return errors.Join(lb.Shutdown(grace), server.Shutdown(grace), server.Close())
}

// endCalls ends a call whose server broke off with the status UNAVAILABLE. Clients take a reset for
// INTERNAL. The answer's type tells that it is gRPC: other broken answers are still reset.
func endCalls(lb http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			kind, _, _ := strings.Cut(w.Header().Get("Content-Type"), "+")
			if v := recover(); v == http.ErrAbortHandler && kind == "application/grpc" && r.ProtoMajor == 2 {
				w.Header().Set(http.TrailerPrefix+"Grpc-Status", "14")
				w.Header().Set(http.TrailerPrefix+"Grpc-Message", "the server broke off")
			} else if v != nil {
				panic(v)
			}
		}()
		lb.ServeHTTP(w, r)
	})
}
