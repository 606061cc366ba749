package main

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/stickylb/stickylb/examples/elb/internal/classic"
	"github.com/stickylb/stickylb/examples/internal/selfsigned"
)

// certificates are the certificates that ARNs name. Without a directory, each ARN has a self-signed
// one that lasts as long as the process.
type certificates struct {
	dir string

	mu   sync.Mutex
	made map[string]tls.Certificate // self-signed ones, by ARN
}

var certificateName = regexp.MustCompile(`^arn:[a-z-]+:[a-z-]+:[a-z0-9-]*:[0-9]*:(?:server-certificate|certificate)/(?:.*/)?([A-Za-z0-9+=,@_-][A-Za-z0-9+=,.@_-]*)$`)

// load returns the certificate that an ARN names.
func (c *certificates) load(arn string) (tls.Certificate, error) {
	name := certificateName.FindStringSubmatch(arn)
	if name == nil {
		return tls.Certificate{}, errors.New("no ARN of a certificate")
	}
	if c.dir != "" {
		file := filepath.Join(c.dir, name[1]+".pem")
		return tls.LoadX509KeyPair(file, file)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if made, ok := c.made[arn]; ok {
		return made, nil
	}
	made, err := selfsigned.New("*.elb.localhost")
	if err == nil {
		if c.made == nil {
			c.made = make(map[string]tls.Certificate)
		}
		c.made[arn] = made
	}
	return made, err
}

// frontTLS returns how a listener negotiates TLS with clients: with the certificate that its ARN
// names and the versions and ciphers of its policy. Go orders the ciphers itself.
func (c *certificates) frontTLS(l classic.Listener, policies []*classic.Policy) (*tls.Config, error) {
	certificate, err := c.load(*l.SSLCertificateId)
	if err != nil {
		return nil, fmt.Errorf("certificate %q: %w", *l.SSLCertificateId, err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{certificate}}
	for _, p := range policies {
		if p.Type != classic.SSLNegotiationPolicyType {
			continue
		}
		conf.MinVersion, conf.MaxVersion = tls.VersionTLS13, 0
		for _, a := range p.Attributes {
			if a.AttributeValue != "true" {
				continue
			}
			if version, ok := classic.Versions[a.AttributeName]; ok {
				conf.MinVersion, conf.MaxVersion = min(conf.MinVersion, version), max(conf.MaxVersion, version)
			}
			if cipher, ok := classic.Ciphers[a.AttributeName]; ok {
				conf.CipherSuites = append(conf.CipherSuites, cipher)
			}
		}
	}
	if l.HTTP() {
		conf.NextProtos = []string{"http/1.1"}
		if allowsHTTP2(conf) {
			conf.NextProtos = []string{"h2", "http/1.1"}
		}
	}
	return conf, nil
}

// allowsHTTP2 reports whether HTTP/2 can be offered. It needs TLS 1.2 and a cipher that is not
// among those of RFC 9113 appendix A. A client that chose HTTP/2 without them would be refused.
func allowsHTTP2(conf *tls.Config) bool {
	if conf.MaxVersion != 0 && conf.MaxVersion < tls.VersionTLS12 {
		return false
	}
	return conf.CipherSuites == nil || slices.ContainsFunc(conf.CipherSuites, func(cipher uint16) bool {
		switch cipher {
		case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:
			return true
		}
		return false
	})
}

// backendTLS returns how a listener connects to instances that speak TLS. Any certificate passes
// unless a policy names public keys, as in the service.
func backendTLS(b *classic.LoadBalancer, policies []*classic.Policy) (conf *tls.Config, keys string, err error) {
	conf = &tls.Config{InsecureSkipVerify: true} // VerifyConnection checks the key
	var allowed []string
	restricted := false
	for _, p := range policies {
		if p.Type != classic.BackendAuthenticationPolicyType {
			continue
		}
		restricted = true
		for _, name := range p.Values("PublicKeyPolicyName") {
			der, err := classic.ParsePublicKey(b.Policy(name).Value("PublicKey"))
			if err != nil {
				return nil, "", err
			}
			sum := sha256.Sum256(der)
			allowed = append(allowed, hex.EncodeToString(sum[:]))
		}
	}
	if !restricted {
		return conf, "", nil
	}
	slices.Sort(allowed)
	conf.VerifyConnection = func(s tls.ConnectionState) error {
		der, err := x509.MarshalPKIXPublicKey(s.PeerCertificates[0].PublicKey)
		if err != nil {
			return err
		}
		if sum := sha256.Sum256(der); !slices.Contains(allowed, hex.EncodeToString(sum[:])) {
			return errors.New("the instance has none of the public keys that the policies name")
		}
		return nil
	}
	return conf, strings.Join(allowed, " "), nil
}
