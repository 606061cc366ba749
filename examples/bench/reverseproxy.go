package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// bufferPool lends ReverseProxy its copy buffers.
type bufferPool struct{ sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.Pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}

func (p *bufferPool) Put(b []byte) { p.Pool.Put(&b) }

// runReverseProxy runs the proxy that a Go program can have without this library:
// net/http/httputil's ReverseProxy with a BufferPool, and a transport that keeps enough idle
// connections. The proxy has one backend, so it needs neither stickiness nor checks. Its server has
// the same time limits as the demo's.
func runReverseProxy(backend, certFile, keyFile string, out io.Writer) error {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: backend})
			r.SetXForwarded()
		},
		Transport:  &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true},
		BufferPool: &bufferPool{},
	}
	plain, plainErr := net.Listen("tcp", "127.0.0.1:0")
	secure, secureErr := net.Listen("tcp", "127.0.0.1:0")
	if err := errors.Join(plainErr, secureErr); err != nil {
		return err
	}
	server := &http.Server{Handler: proxy, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	failed := make(chan error)
	go func() { failed <- server.Serve(plain) }()
	go func() { failed <- server.ServeTLS(secure, certFile, keyFile) }()
	fmt.Fprintf(out, "%s http://%s\n%s https://%s\n", announced, plain.Addr(), announced, secure.Addr())
	return <-failed
}
