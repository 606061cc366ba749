package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
)

// dial returns a client of the balancer. Without roots it speaks plain text.
func dial(addr net.Addr, roots *x509.CertPool) (*grpc.ClientConn, error) {
	transport := insecure.NewCredentials()
	if roots != nil {
		transport = credentials.NewTLS(&tls.Config{RootCAs: roots})
	}
	return grpc.NewClient("passthrough:///"+addr.String(), grpc.WithTransportCredentials(transport))
}

// A session makes calls, and sends the ID that the first answer has with all later ones.
type session struct{ id string }

// call makes a unary call over a connection of its own, and returns what the server says.
func (s *session) call(ctx context.Context, addr net.Addr, roots *x509.CertPool) (string, error) {
	conn, err := dial(addr, roots)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return s.unary(ctx, conn)
}

func (s *session) unary(ctx context.Context, conn *grpc.ClientConn) (string, error) {
	var header metadata.MD
	res, err := grpc_testing.NewTestServiceClient(conn).UnaryCall(s.context(ctx), &grpc_testing.SimpleRequest{}, grpc.Header(&header))
	s.learn(header)
	return string(res.GetPayload().GetBody()), err
}

// context returns ctx with the session's ID as metadata.
func (s *session) context(ctx context.Context) context.Context {
	if s.id == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, sessionID, s.id)
}

// learn keeps the session's ID from an answer.
func (s *session) learn(header metadata.MD) {
	if ids := header.Get(sessionID); len(ids) > 0 {
		s.id = ids[0]
	}
}

// visit makes three sessions of three calls, alternately in plain text and over TLS.
func visit(ctx context.Context, plain, secure net.Addr, roots *x509.CertPool) error {
	for i := range 3 {
		s := &session{}
		for j := range 3 {
			addr, trusted, over := plain, (*x509.CertPool)(nil), "h2c"
			if (i+j)%2 == 1 {
				addr, trusted, over = secure, roots, "TLS"
			}
			said, err := s.call(ctx, addr, trusted)
			if err != nil {
				return err
			}
			fmt.Printf("session %d over %s: %s\n", i+1, over, said)
		}
	}
	return nil
}
