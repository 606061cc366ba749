package main

import (
	"crypto/tls"

	"github.com/stickylb/stickylb/examples/internal/selfsigned"
)

// certificate returns the certificate in the files. Without files it returns a self-signed one for
// this machine and host, which is never written to a file.
func certificate(certFile, keyFile, host string) (tls.Certificate, error) {
	if certFile != "" {
		return tls.LoadX509KeyPair(certFile, keyFile)
	}
	return selfsigned.New(host)
}
