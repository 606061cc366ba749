package main

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"
)

var errBroken = errors.New("the certificate in Redis cannot be used")

// Certificates are those of the hosts that clients name by SNI. Redis has them as strings under
// certificate:<name>, of PEM blocks: the chain, leaf first, and the private key. A name is a host,
// a wildcard or "*", as for frontends; the first one that has a string decides. "*" also serves
// clients that name no host.
type certificates struct {
	*options
	store *store
	hosts *cache[*tls.Certificate] // by SNI

	mu    sync.Mutex
	pairs map[string]pair // by name in Redis; bounded
}

// A pair is what Redis has under a name. All hosts of a wildcard share it.
type pair struct {
	pem  string
	cert *tls.Certificate // nil: it cannot be used
}

func newCertificates(o *options, s *store) *certificates {
	c := &certificates{options: o, store: s, pairs: map[string]pair{}}
	c.hosts = newCache(o, c.find)
	return c
}

// get implements the GetCertificate of a [tls.Config].
func (c *certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := normalize(hello.ServerName)
	if name == "" && hello.ServerName != "" {
		return nil, errUnknown
	}
	return c.hosts.get(hello.Context(), name)
}

// find reads the certificate of a host. Its error and its log contain no part of the key.
func (c *certificates) find(ctx context.Context, host string) (*tls.Certificate, error) {
	name, pem, err := c.store.certificate(ctx, candidates(host)...)
	if err != nil {
		return nil, err
	}
	if pem == "" {
		return nil, errUnknown
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.pairs[name]
	if !ok || p.pem != pem {
		p = pair{pem: pem}
		if cert, err := tls.X509KeyPair([]byte(pem), []byte(pem)); err == nil {
			p.cert = &cert
		} else {
			c.log.Warn("vhosts: "+errBroken.Error(), "name", name)
		}
		if len(c.pairs) >= c.hosts.max { // most were deleted in Redis
			clear(c.pairs)
		}
		c.pairs[name] = p
	}
	if p.cert == nil {
		return nil, errBroken
	}
	return p.cert, nil
}
