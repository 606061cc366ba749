package proxyproto

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"

	codec "github.com/pires/go-proxyproto"
)

// TLS describes the TLS connection of a proxy's client (section 2.2.6). Empty fields are unknown,
// and are not written.
type TLS struct {
	// Version is the version of TLS, such as "TLSv1.3".
	Version string

	// CertOnConn says that the client presented a certificate on this connection. CertInSession
	// says that it did so at least once in its TLS session.
	CertOnConn, CertInSession bool

	// Verify is zero if that certificate was verified. It means nothing without a certificate: see
	// Verified.
	Verify uint32

	CommonName string // the common name of the client's certificate
	Cipher     string // the cipher, such as "ECDHE-RSA-AES128-GCM-SHA256"
	SigAlg     string // the algorithm that signed the proxy's certificate, such as "SHA256"
	KeyAlg     string // the algorithm of the key of the proxy's certificate, such as "RSA2048"
	Group      string // the group of the key exchange, such as "secp256r1"
	SigScheme  string // the signature scheme of the handshake, such as "rsa_pss_rsae_sha256"

	// Certificate is the client's certificate, in DER.
	Certificate []byte
}

// Verified reports whether the client presented a certificate that was verified. HAProxy also
// writes a Verify of zero if there was no certificate.
func (t *TLS) Verified() bool { return t.Verify == 0 && (t.CertOnConn || t.CertInSession) }

const (
	clientTLS        = 1
	clientCertConn   = 2
	clientCertInSess = 4

	clientAndVerify = 5 // bytes before the fields
)

// parseTLS reads the value of the TLS field. It returns nil for a client without TLS.
func parseTLS(b []byte) (*TLS, error) {
	if len(b) < clientAndVerify {
		return nil, fmt.Errorf("%w: a TLS field of %d bytes", ErrMalformed, len(b))
	}
	t := &TLS{
		CertOnConn:    b[0]&clientCertConn != 0,
		CertInSession: b[0]&clientCertInSess != 0,
		Verify:        binary.BigEndian.Uint32(b[1:]),
	}
	var seen [256]bool
	for f, err := range fieldsOf(b, clientAndVerify) {
		if err != nil {
			return nil, err
		}
		text := t.text(f.kind)
		if text == nil && f.kind != codec.PP2_SUBTYPE_SSL_CLIENT_CERT {
			continue
		}
		if seen[f.kind] {
			return nil, fmt.Errorf("%w: two fields of type %#x", ErrMalformed, byte(f.kind))
		}
		seen[f.kind] = true
		if text != nil {
			*text = string(f.value)
		} else {
			t.Certificate = nonEmpty(f.value)
		}
	}
	if b[0]&clientTLS == 0 {
		return nil, nil
	}
	return t, nil
}

// text returns where the text of a field of that type is stored, or nil if the type is not one of a
// text.
func (t *TLS) text(kind codec.PP2Type) *string {
	switch kind {
	case codec.PP2_SUBTYPE_SSL_VERSION:
		return &t.Version
	case codec.PP2_SUBTYPE_SSL_CN:
		return &t.CommonName
	case codec.PP2_SUBTYPE_SSL_CIPHER:
		return &t.Cipher
	case codec.PP2_SUBTYPE_SSL_SIG_ALG:
		return &t.SigAlg
	case codec.PP2_SUBTYPE_SSL_KEY_ALG:
		return &t.KeyAlg
	case codec.PP2_SUBTYPE_SSL_GROUP:
		return &t.Group
	case codec.PP2_SUBTYPE_SSL_SIG_SCHEME:
		return &t.SigScheme
	}
	return nil
}

// append adds the value of the TLS field to b.
func (t *TLS) append(b []byte) ([]byte, error) {
	client := byte(clientTLS)
	if t.CertOnConn {
		client |= clientCertConn
	}
	if t.CertInSession {
		client |= clientCertInSess
	}
	b = binary.BigEndian.AppendUint32(append(b, client), t.Verify)
	var all []codec.TLV
	for kind := codec.PP2_SUBTYPE_SSL_VERSION; kind < codec.PP2_SUBTYPE_SSL_CLIENT_CERT; kind++ {
		if value := *t.text(kind); value != "" {
			all = append(all, codec.TLV{Type: kind, Value: []byte(value)})
		}
	}
	if len(t.Certificate) > 0 {
		all = append(all, codec.TLV{Type: codec.PP2_SUBTYPE_SSL_CLIENT_CERT, Value: t.Certificate})
	}
	fields, err := codec.JoinTLVs(all)
	if err != nil {
		return nil, fmt.Errorf("proxyproto: write a PROXY header: %w", err)
	}
	return append(b, fields...), nil
}

// unverified is the Verify if there is no verified certificate: section 2.2.6 requires a value
// other than zero.
const unverified = 1

// DescribeTLS returns what the server's side of a TLS connection knows about its client: the
// version, and whether the client presented a certificate, its common name and whether it was
// verified. It leaves out fields that few receivers use, because some, nginx 1.22 for example,
// refuse a header of more than 107 bytes. For nil it returns nil.
func DescribeTLS(s *tls.ConnectionState) *TLS {
	if s == nil {
		return nil
	}
	t := &TLS{Version: versions[s.Version], Verify: unverified}
	if len(s.PeerCertificates) > 0 {
		t.CertOnConn, t.CertInSession = !s.DidResume, true
		t.CommonName = s.PeerCertificates[0].Subject.CommonName
		if len(s.VerifiedChains) > 0 {
			t.Verify = 0
		}
	}
	return t
}

// versions has the names of OpenSSL, which HAProxy writes.
var versions = map[uint16]string{
	tls.VersionTLS10: "TLSv1",
	tls.VersionTLS11: "TLSv1.1",
	tls.VersionTLS12: "TLSv1.2",
	tls.VersionTLS13: "TLSv1.3",
}
