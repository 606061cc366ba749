package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/examples/internal/selfsigned"
)

const sessionID = "session-id"

// A server keeps its sessions in its memory, and knows no other.
type server struct {
	grpc_testing.UnimplementedTestServiceServer
	name   string
	url    string
	grpc   *grpc.Server
	health *grpchealth.Server

	mu    sync.Mutex
	calls map[string]int // of each session
}

// startServers starts two servers. The certificate is that of the second one.
func startServers() (targets []balancer.Target, certificate tls.Certificate, roots *x509.CertPool, err error) {
	if certificate, err = selfsigned.New(""); err != nil {
		return nil, certificate, nil, err
	}
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		return nil, certificate, nil, err
	}
	roots = x509.NewCertPool()
	roots.AddCert(leaf)
	for name, secure := range map[string]*tls.Certificate{"app-1": nil, "app-2": &certificate} {
		s, err := startServer(name, secure)
		if err != nil {
			return nil, certificate, nil, err
		}
		target, err := balancer.ParseTargets(name + "=" + s.url)
		if err != nil {
			return nil, certificate, nil, err
		}
		targets = append(targets, target...)
	}
	return targets, certificate, roots, nil
}

// startServer starts a server on a loopback port. Without a certificate it speaks plain text.
func startServer(name string, certificate *tls.Certificate, options ...grpc.ServerOption) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	scheme := "h2c"
	if certificate != nil {
		scheme, options = "https", append(options, grpc.Creds(credentials.NewServerTLSFromCert(certificate)))
	}
	s := &server{name: name, url: scheme + "://" + listener.Addr().String(), health: grpchealth.NewServer(), calls: make(map[string]int)}
	s.grpc = grpc.NewServer(options...)
	grpc_testing.RegisterTestServiceServer(s.grpc, s)
	grpc_health_v1.RegisterHealthServer(s.grpc, s.health)
	go s.grpc.Serve(listener)
	return s, nil
}

// count counts a call for its session, and returns what to answer. A call without a session begins
// one.
func (s *server) count(ctx context.Context, setHeader func(metadata.MD) error) (*grpc_testing.Payload, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := metadata.ValueFromIncomingContext(ctx, sessionID)
	if len(ids) == 0 {
		ids = []string{rand.Text()}
		if err := setHeader(metadata.Pairs(sessionID, ids[0])); err != nil {
			return nil, err
		}
	} else if s.calls[ids[0]] == 0 {
		return nil, status.Errorf(codes.NotFound, "%s does not know the session", s.name)
	}
	s.calls[ids[0]]++
	return &grpc_testing.Payload{Body: fmt.Appendf(nil, "%s, call %d", s.name, s.calls[ids[0]])}, nil
}

// UnaryCall answers with the server's name and the number of the call in its session, or with the
// status and the size that the client asks for.
func (s *server) UnaryCall(ctx context.Context, in *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	payload, err := s.count(ctx, func(md metadata.MD) error { return grpc.SetHeader(ctx, md) })
	if err != nil || in.ResponseStatus != nil {
		return nil, failure(err, in.ResponseStatus)
	}
	if in.ResponseSize > 0 {
		payload.Body = make([]byte, in.ResponseSize)
	}
	return &grpc_testing.SimpleResponse{Payload: payload, ServerId: s.name}, nil
}

// StreamingOutputCall answers with as many messages as the client asks for.
func (s *server) StreamingOutputCall(in *grpc_testing.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[grpc_testing.StreamingOutputCallResponse]) error {
	payload, err := s.count(stream.Context(), stream.SetHeader)
	if err != nil {
		return err
	}
	for range in.ResponseParameters {
		if err := stream.Send(&grpc_testing.StreamingOutputCallResponse{Payload: payload}); err != nil {
			return err
		}
	}
	return failure(nil, in.ResponseStatus)
}

// StreamingInputCall answers with the size of all messages.
func (s *server) StreamingInputCall(stream grpc.ClientStreamingServer[grpc_testing.StreamingInputCallRequest, grpc_testing.StreamingInputCallResponse]) error {
	if _, err := s.count(stream.Context(), stream.SetHeader); err != nil {
		return err
	}
	size := 0
	for {
		in, err := stream.Recv()
		if err == io.EOF {
			return stream.SendAndClose(&grpc_testing.StreamingInputCallResponse{AggregatedPayloadSize: int32(size)})
		} else if err != nil {
			return err
		}
		size += len(in.GetPayload().GetBody())
	}
}

// FullDuplexCall answers each message at once, until the client has sent all.
func (s *server) FullDuplexCall(stream grpc.BidiStreamingServer[grpc_testing.StreamingOutputCallRequest, grpc_testing.StreamingOutputCallResponse]) error {
	payload, err := s.count(stream.Context(), stream.SetHeader)
	if err != nil {
		return err
	}
	for {
		if _, err := stream.Recv(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.Send(&grpc_testing.StreamingOutputCallResponse{Payload: payload}); err != nil {
			return err
		}
	}
}

// failure returns err if there is one, and otherwise the status that the client asks for.
func failure(err error, asked *grpc_testing.EchoStatus) error {
	if err == nil && asked != nil {
		return status.Error(codes.Code(asked.Code), asked.Message)
	}
	return err
}
