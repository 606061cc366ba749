package main

import (
	"context"
	"crypto/tls"
	"errors"
)

var errBroken = errors.New("the certificate in Redis cannot be used")

// Certificates are those of the hosts that clients name by SNI. Redis has them as strings under
// certificate:<name>, of PEM blocks: the chain, leaf first, and the private key. A name is a host,
// a wildcard or "*", as for frontends; the first one that has a string decides. "*" also serves
// clients that name no host.
type certificates struct {
	*options
	store *store
	names *cache[*tls.Certificate]
}

func newCertificates(o *options, s *store) *certificates {
	c := &certificates{options: o, store: s}
	c.names = newCache(o, c.find)
	return c
}

// get implements the GetCertificate of a [tls.Config].
func (c *certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := normalize(hello.ServerName)
	if name == "" && hello.ServerName != "" {
		return nil, errUnknown
	}
	return c.names.get(hello.Context(), name)
}

// find reads the certificate of a host. Neither its error nor its log has anything of the key.
func (c *certificates) find(ctx context.Context, host string) (*tls.Certificate, error) {
	pem, err := c.store.certificate(ctx, candidates(host)...)
	if err != nil {
		return nil, err
	}
	if pem == "" {
		return nil, errUnknown
	}
	pair, err := tls.X509KeyPair([]byte(pem), []byte(pem))
	if err != nil {
		c.log.Warn("vhosts: "+errBroken.Error(), "host", host)
		return nil, errBroken
	}
	return &pair, nil
}
