package main

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"

	"golang.org/x/net/websocket"

	"github.com/stickylb/stickylb/balancer"
)

//go:embed page.html
var page []byte

// newBackend returns a backend. It has the page, says its name, and says it over a WebSocket before
// each message that it sends back.
func newBackend(name string) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { w.Write(page) })
	mux.HandleFunc("GET /name", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) })
	mux.Handle("/ws", websocket.Handler(func(ws *websocket.Conn) {
		for heard := ""; websocket.Message.Receive(ws, &heard) == nil; {
			if websocket.Message.Send(ws, name+": "+heard) != nil {
				return
			}
		}
	}))
	return mux
}

// startBackends starts backends on loopback ports, for the life of the program.
func startBackends(names ...string) (targets []balancer.Target) {
	for _, name := range names {
		t, err := balancer.ParseTargets(name + "=" + httptest.NewServer(newBackend(name)).URL)
		if err != nil {
			panic(err) // the text is ours
		}
		targets = append(targets, t...)
	}
	return targets
}

// fingerprint returns the hash of a certificate's key, as Chromium's flag wants it.
func fingerprint(certificate tls.Certificate) string {
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// describe prints where to look, and with what.
func describe(addr net.Addr, certificate tls.Certificate) {
	fmt.Printf("serving https://%v over HTTP/1.1, HTTP/2 and HTTP/3\n", addr)
	fmt.Printf("chromium --user-data-dir=$(mktemp -d) --origin-to-force-quic-on=%v --ignore-certificate-errors-spki-list=%s https://%v\n",
		addr, fingerprint(certificate), addr)
}
