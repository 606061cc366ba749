package clienttest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
)

// octets are messages as they are.
type octets struct{}

func (octets) Name() string { return "octets" }

func (octets) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(bytes.Clone(*v.(*[]byte)))}, nil
}

func (octets) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// A callee is a server of grpc-go.
type callee struct {
	id       string
	url      string
	roots    *x509.CertPool
	server   *grpc.Server
	contexts chan context.Context // of the calls to Wait and Linger
}

// newCallee serves over TLS if the scheme is https, and in plain text if it is h2c.
func newCallee(t *testing.T, id, scheme string) *callee {
	t.Helper()
	c := &callee{id: id, contexts: make(chan context.Context, 1)}
	options := []grpc.ServerOption{grpc.ForceServerCodecV2(octets{}), grpc.MaxRecvMsgSize(8 << 20)}
	if scheme == "https" {
		named := httptest.NewTLSServer(nil) // for its certificate
		t.Cleanup(named.Close)
		c.roots = roots(named)
		options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(&named.TLS.Certificates[0])))
	}
	c.server = grpc.NewServer(options...)
	c.server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Callee",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			{MethodName: "Echo", Handler: unary(c.echo)}, {MethodName: "Fail", Handler: unary(c.fail)}, {MethodName: "Wait", Handler: unary(c.wait)},
		},
		Streams: []grpc.StreamDesc{
			{StreamName: "Count", Handler: c.count, ServerStreams: true},
			{StreamName: "Sum", Handler: c.sum, ClientStreams: true},
			{StreamName: "Chat", Handler: c.chat, ServerStreams: true, ClientStreams: true},
			{StreamName: "Linger", Handler: c.linger, ServerStreams: true, ClientStreams: true},
		},
	}, c)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c.url = scheme + "://" + l.Addr().String()
	go c.server.Serve(l)
	t.Cleanup(c.server.Stop)
	return c
}

func unary(f func(context.Context, []byte) ([]byte, error)) grpc.MethodHandler {
	return func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var in []byte
		if err := decode(&in); err != nil {
			return nil, err
		}
		out, err := f(ctx, in)
		return &out, err
	}
}

func (c *callee) echo(ctx context.Context, in []byte) ([]byte, error) {
	got, _ := metadata.FromIncomingContext(ctx)
	grpc.SetHeader(ctx, metadata.Pairs("callee", c.id, "got-bin", strings.Join(got["sent-bin"], ",")))
	grpc.SetTrailer(ctx, metadata.Pairs("size", strconv.Itoa(len(in)), "end-bin", "\x00\xff"))
	return in, nil
}

func (c *callee) fail(ctx context.Context, in []byte) ([]byte, error) {
	grpc.SetTrailer(ctx, metadata.Pairs("why", "asked"))
	return nil, status.Error(codes.FailedPrecondition, string(in))
}

func (c *callee) wait(ctx context.Context, _ []byte) ([]byte, error) {
	c.contexts <- ctx
	<-ctx.Done()
	return nil, ctx.Err()
}

func (c *callee) count(_ any, s grpc.ServerStream) error {
	var in []byte
	if err := s.RecvMsg(&in); err != nil {
		return err
	}
	n, _ := strconv.Atoi(string(in))
	for i := range n {
		if err := s.SendMsg(new(noise(i))); err != nil {
			return err
		}
	}
	s.SetTrailer(metadata.Pairs("count", string(in)))
	if n%2 == 1 {
		return status.Error(codes.Aborted, "odd: 100 % \u2603")
	}
	return nil
}

func (c *callee) sum(_ any, s grpc.ServerStream) error {
	sum := 0
	for {
		var in []byte
		if err := s.RecvMsg(&in); err == io.EOF {
			return s.SendMsg(new(strconv.AppendInt(nil, int64(sum), 10)))
		} else if err != nil {
			return err
		}
		sum += len(in)
	}
}

func (c *callee) chat(_ any, s grpc.ServerStream) error {
	for {
		var in []byte
		if err := s.RecvMsg(&in); err == io.EOF {
			s.SetTrailer(metadata.Pairs("bye", c.id))
			return nil
		} else if err != nil {
			return err
		}
		if err := s.SendMsg(&in); err != nil {
			return err
		}
	}
}

func (c *callee) linger(_ any, s grpc.ServerStream) error {
	if err := s.SendMsg(new([]byte("here"))); err != nil {
		return err
	}
	c.contexts <- s.Context()
	<-s.Context().Done()
	return s.Context().Err()
}

// caller returns a client of grpc-go that knows the site alone.
func caller(t *testing.T, s *site) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("passthrough:///"+s.Listener.Addr().String(),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots(s.Server)})),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(octets{}), grpc.MaxCallRecvMsgSize(8<<20)))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func call(ctx context.Context, c *grpc.ClientConn, method string, in []byte, o ...grpc.CallOption) ([]byte, error) {
	var out []byte
	err := c.Invoke(ctx, "/test.Callee/"+method, &in, &out, o...)
	return out, err
}

// stream begins a call that streams both ways, as far as the client's side is concerned.
func stream(t *testing.T, ctx context.Context, c *grpc.ClientConn, method string) grpc.ClientStream {
	t.Helper()
	s, err := c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Callee/"+method)
	require.NoError(t, err)
	return s
}

func receive(t *testing.T, s grpc.ClientStream) []byte {
	t.Helper()
	var out []byte
	require.NoError(t, s.RecvMsg(&out))
	return out
}

// scenes are calls of all kinds.
var scenes = map[string]func(ctx context.Context, t *testing.T, b *callee, c *grpc.ClientConn){
	"unary": func(ctx context.Context, t *testing.T, _ *callee, c *grpc.ClientConn) {
		for _, size := range append(sizes, 4<<20) {
			var header, trailer metadata.MD
			out, err := call(metadata.AppendToOutgoingContext(ctx, "sent-bin", "\x01\x02"), c, "Echo", noise(size),
				grpc.Header(&header), grpc.Trailer(&trailer))
			require.NoError(t, err)
			require.True(t, bytes.Equal(noise(size), out), "%d bytes instead of %d", len(out), size)
			require.Equal(t, []string{"a"}, header["callee"])
			require.Equal(t, []string{"\x01\x02"}, header["got-bin"])
			require.Equal(t, []string{strconv.Itoa(size)}, trailer["size"])
			require.Equal(t, []string{"\x00\xff"}, trailer["end-bin"])
		}
	},
	"failure": func(ctx context.Context, t *testing.T, _ *callee, c *grpc.ClientConn) {
		var trailer metadata.MD
		_, err := call(ctx, c, "Fail", []byte("100 %\n\u2603"), grpc.Trailer(&trailer))
		require.Equal(t, codes.FailedPrecondition, status.Code(err), "%v", err)
		require.Equal(t, "100 %\n\u2603", status.Convert(err).Message())
		require.Equal(t, []string{"asked"}, trailer["why"])
		_, err = call(ctx, c, "None", nil)
		require.Equal(t, codes.Unimplemented, status.Code(err), "%v", err)
	},
	"server streams": func(ctx context.Context, t *testing.T, _ *callee, c *grpc.ClientConn) {
		for _, n := range []int{0, 1, 200, 201} {
			s := stream(t, ctx, c, "Count")
			require.NoError(t, s.SendMsg(new(strconv.AppendInt(nil, int64(n), 10))))
			require.NoError(t, s.CloseSend())
			for i := range n {
				require.True(t, bytes.Equal(noise(i), receive(t, s)))
			}
			want := codes.OK
			if n%2 == 1 {
				want = codes.Aborted
			}
			err := s.RecvMsg(new([]byte))
			if want == codes.OK {
				require.Equal(t, io.EOF, err)
			} else {
				require.Equal(t, want, status.Code(err), "%v", err)
				require.Equal(t, "odd: 100 % \u2603", status.Convert(err).Message())
			}
			require.Equal(t, []string{strconv.Itoa(n)}, s.Trailer()["count"])
		}
	},
	"client streams": func(ctx context.Context, t *testing.T, _ *callee, c *grpc.ClientConn) {
		s := stream(t, ctx, c, "Sum")
		for i := range 200 {
			require.NoError(t, s.SendMsg(new(noise(i*100))))
		}
		require.NoError(t, s.CloseSend())
		require.Equal(t, strconv.Itoa(100*199*200/2), string(receive(t, s)))
		require.Equal(t, io.EOF, s.RecvMsg(new([]byte)))
	},
	"both stream": func(ctx context.Context, t *testing.T, _ *callee, c *grpc.ClientConn) {
		s := stream(t, ctx, c, "Chat")
		for i := range 50 { // each answer is awaited: nothing may be held back
			require.NoError(t, s.SendMsg(new(noise(i*i))))
			require.True(t, bytes.Equal(noise(i*i), receive(t, s)))
		}
		sent := make(chan error, 1)
		go func() {
			var err error
			for i := 0; i < 100 && err == nil; i++ {
				err = s.SendMsg(new(noise(i * 500)))
			}
			sent <- errors.Join(err, s.CloseSend())
		}()
		for i := range 100 {
			require.True(t, bytes.Equal(noise(i*500), receive(t, s)))
		}
		require.NoError(t, wait(t, sent, "all is sent"))
		require.Equal(t, io.EOF, s.RecvMsg(new([]byte)))
		require.Equal(t, []string{"a"}, s.Trailer()["bye"])
	},
	"deadline": func(ctx context.Context, t *testing.T, b *callee, c *grpc.ClientConn) {
		limited, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		_, err := call(limited, c, "Wait", nil)
		if status.Code(err) == codes.Unavailable { // the backend knows the deadline too, and has been quicker to give up
			deadline, _ := limited.Deadline()
			require.False(t, time.Now().Before(deadline), "%v", err)
		} else {
			require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
		}
		select {
		case there := <-b.contexts:
			_, has := there.Deadline()
			require.True(t, has, "the backend knows the deadline")
			wait(t, there.Done(), "the end at the backend")
		default: // on a busy machine the time is up before the call is there
		}
	},
	"cancelled call": func(ctx context.Context, t *testing.T, b *callee, c *grpc.ClientConn) {
		limited, cancel := context.WithCancel(ctx)
		defer cancel()
		failed := make(chan error, 1)
		go func() {
			_, err := call(limited, c, "Wait", nil)
			failed <- err
		}()
		there := wait(t, b.contexts, "the call at the backend")
		require.NoError(t, there.Err())
		cancel()
		require.Equal(t, codes.Canceled, status.Code(wait(t, failed, "the end of the call")))
		wait(t, there.Done(), "the end at the backend")
	},
	"cancelled stream": func(ctx context.Context, t *testing.T, b *callee, c *grpc.ClientConn) {
		limited, cancel := context.WithCancel(ctx)
		defer cancel()
		s := stream(t, limited, c, "Linger")
		require.Equal(t, "here", string(receive(t, s)))
		there := wait(t, b.contexts, "the call at the backend")
		require.NoError(t, there.Err())
		cancel()
		require.Equal(t, codes.Canceled, status.Code(s.RecvMsg(new([]byte))))
		wait(t, there.Done(), "the end at the backend")
	},
	"backend dies": func(ctx context.Context, t *testing.T, b *callee, c *grpc.ClientConn) {
		s := stream(t, ctx, c, "Linger")
		require.Equal(t, "here", string(receive(t, s)))
		b.server.Stop()
		err := s.RecvMsg(new([]byte))
		require.Error(t, err)
		require.NotEqual(t, io.EOF, err, "a stream that broke off must not look complete")
		_, err = call(ctx, c, "Echo", nil) // the proxy has nobody to ask
		require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
	},
}

// TestGRPC_W11_Calls has grpc-go on both ends: the front speaks HTTP/2 over TLS, the backend over TLS or in plain text.
func TestGRPC_W11_Calls(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"https", "h2c"} {
		for name, play := range scenes {
			t.Run(name+" over "+scheme, func(t *testing.T) {
				b := newCallee(t, "a", scheme)
				s := siteOf(t, "https", b.roots, nil, target(t, "a", b.url))
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				play(ctx, t, b, caller(t, s))
				s.idle(t)
			})
		}
	}
}

// TestGRPC_S3_Sticky has calls carry the cookie of the first one's header as metadata.
func TestGRPC_S3_Sticky(t *testing.T) {
	t.Parallel()
	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{CORS: stickiness.CORSNever})
	require.NoError(t, err)
	var targets []balancer.Target
	for _, id := range []string{"a", "b", "c"} {
		targets = append(targets, target(t, id, newCallee(t, id, "h2c").url))
	}
	c := caller(t, siteOf(t, "https", nil, policy, targets...))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ask := func(ctx context.Context) metadata.MD {
		var header metadata.MD
		_, err := call(ctx, c, "Echo", nil, grpc.Header(&header))
		require.NoError(t, err)
		return header
	}
	met := make(map[string]bool)
	for range len(targets) {
		first := ask(ctx)
		require.Len(t, first["set-cookie"], 1)
		cookie, _, _ := strings.Cut(first["set-cookie"][0], ";")
		for range 2 * len(targets) {
			next := ask(metadata.AppendToOutgoingContext(ctx, "cookie", cookie))
			require.Equal(t, first["callee"], next["callee"])
			require.Empty(t, next["set-cookie"])
		}
		met[fmt.Sprint(first["callee"])] = true
	}
	require.Len(t, met, len(targets), "sessions on every backend")
}
