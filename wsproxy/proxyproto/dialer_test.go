package proxyproto_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

func TestDialer_W8_WritesTheHeaderFirst(t *testing.T) {
	h := worked["v2 CRC32C, TLS and a certificate"]
	tests := map[string]struct {
		header func(context.Context, net.Conn) (*proxyproto.Header, error)
		want   []byte
	}{
		"a header":  {func(context.Context, net.Conn) (*proxyproto.Header, error) { return &h.header, nil }, h.bytes},
		"nil":       {func(context.Context, net.Conn) (*proxyproto.Header, error) { return nil, nil }, worked["v2 LOCAL"].bytes},
		"no header": {nil, worked["v2 LOCAL"].bytes},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer l.Close()
			d := proxyproto.Dialer{Header: tt.header}
			c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
			require.NoError(t, err)
			_, err = io.WriteString(c, "data")
			require.NoError(t, err)
			require.NoError(t, c.Close())
			peer, err := l.Accept()
			require.NoError(t, err)
			defer peer.Close()
			require.NoError(t, peer.SetDeadline(time.Now().Add(patience)))
			got, err := io.ReadAll(peer)
			require.NoError(t, err)
			require.Equal(t, string(tt.want)+"data", string(got))
		})
	}
}

func TestDialer_W8_FailuresCloseTheConnection(t *testing.T) {
	cause := errors.New("no client")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	tests := map[string]struct {
		ctx    context.Context
		header func(context.Context, net.Conn) (*proxyproto.Header, error)
		want   string
	}{
		"no header can be made": {t.Context(), func(context.Context, net.Conn) (*proxyproto.Header, error) { return nil, cause }, "no client"},
		"cannot be written": {t.Context(), func(context.Context, net.Conn) (*proxyproto.Header, error) {
			return &proxyproto.Header{Version: 7}, nil
		}, "proxyproto: PROXY header of version 7"},
		"the context has ended": {gone, nil, "proxyproto: write a PROXY header: context canceled"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			peer, conn := net.Pipe()
			defer peer.Close()
			d := proxyproto.Dialer{Header: tt.header, Dial: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
			c, err := d.DialContext(tt.ctx, "tcp", "192.0.2.1:80")
			require.EqualError(t, err, tt.want)
			require.Nil(t, c)
			_, err = conn.Write([]byte("x"))
			require.ErrorIs(t, err, io.ErrClosedPipe)
		})
	}
	d := proxyproto.Dialer{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, cause }}
	_, err := d.DialContext(t.Context(), "tcp", "192.0.2.1:80")
	require.ErrorIs(t, err, cause)
}

func TestDialer_W8_ContextEndsTheWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, conn := net.Pipe() // nobody reads
		defer peer.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		d := proxyproto.Dialer{Dial: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
		_, err := d.DialContext(ctx, "tcp", "192.0.2.1:80")
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestDescribeTLS_W8(t *testing.T) {
	require.Nil(t, proxyproto.DescribeTLS(nil))
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: "client"}}
	chains := [][]*x509.Certificate{{cert}}
	tests := map[string]struct {
		state    tls.ConnectionState
		want     proxyproto.TLS
		verified bool
	}{
		"no certificate": {
			state: tls.ConnectionState{Version: tls.VersionTLS13},
			want:  proxyproto.TLS{Version: "TLSv1.3", Verify: 1},
		},
		"not verified": {
			state: tls.ConnectionState{Version: tls.VersionTLS12, PeerCertificates: []*x509.Certificate{cert}},
			want: proxyproto.TLS{Version: "TLSv1.2", CommonName: "client",
				CertOnConn: true, CertInSession: true, Verify: 1},
		},
		"verified": {
			state: tls.ConnectionState{Version: tls.VersionTLS13,
				PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: chains},
			want: proxyproto.TLS{Version: "TLSv1.3", CommonName: "client",
				CertOnConn: true, CertInSession: true},
			verified: true,
		},
		"in a session that goes on": {
			state: tls.ConnectionState{Version: tls.VersionTLS13, DidResume: true,
				PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: chains},
			want: proxyproto.TLS{Version: "TLSv1.3", CommonName: "client",
				CertInSession: true},
			verified: true,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := proxyproto.DescribeTLS(&tt.state)
			require.Equal(t, &tt.want, got)
			require.Equal(t, tt.verified, got.Verified())
			b, err := (&proxyproto.Header{TLS: got}).AppendBinary(nil)
			require.NoError(t, err)
			h, _, err := proxyproto.Parse(b)
			require.NoError(t, err)
			require.Equal(t, got, h.TLS)
		})
	}
}

// Every field with a name is written and read.
func TestHeader_W8_EveryField(t *testing.T) {
	h := between(proxyproto.Header{
		Version: 2, ALPN: "http/1.1", Authority: "app.example", UniqueID: []byte(strings.Repeat("u", 128)), NetNS: "ns", Checksum: true,
		TLS: &proxyproto.TLS{Version: "TLSv1.2", Verify: 42, CertInSession: true, CommonName: "cn", Cipher: "cipher", SigAlg: "SHA256",
			KeyAlg: "RSA2048", Group: "secp256r1", SigScheme: "rsa_pss_rsae_sha256", Certificate: []byte{1, 2, 3}},
		Other: []proxyproto.TLV{{Type: 0xea, Value: []byte{1}}, {Type: 0xea, Value: []byte{2}}},
	})
	b, err := h.AppendBinary(nil)
	require.NoError(t, err)
	got, n, err := proxyproto.Parse(b)
	require.NoError(t, err)
	require.Equal(t, len(b), n)
	require.Equal(t, &h, got)
}
