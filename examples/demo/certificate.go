package main

import (
	"crypto/tls"

	"github.com/stickylb/stickylb/examples/internal/selfsigned"
)

// certificate returns the one of these files, or without files a self-signed one for this machine
// and host, which lives in memory only.
func certificate(certFile, keyFile, host string) (tls.Certificate, error) {
	if certFile != "" {
		return tls.LoadX509KeyPair(certFile, keyFile)
	}
	return selfsigned.New(host)
}
