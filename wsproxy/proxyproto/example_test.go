package proxyproto_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"

	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// A server behind a proxy that speaks the protocol, and the proxy.
func Example() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	server := &http.Server{
		ConnContext: proxyproto.ConnContext,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			h := proxyproto.FromContext(r.Context())
			fmt.Fprintf(w, "%s over %s", host, h.TLS.Version)
		}),
	}
	defer server.Close()
	go server.Serve(&proxyproto.Listener{
		Listener: l,
		Trusted:  []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
	})

	front := proxyproto.Dialer{Header: func(context.Context, net.Conn) (*proxyproto.Header, error) {
		return &proxyproto.Header{
			Source:      &net.TCPAddr{IP: net.ParseIP("203.0.113.9"), Port: 4711},
			Destination: &net.TCPAddr{IP: net.ParseIP("198.51.100.1"), Port: 443},
			TLS:         &proxyproto.TLS{Version: "TLSv1.3"},
		}, nil
	}}
	c, err := front.DialContext(context.Background(), "tcp", l.Addr().String())
	if err != nil {
		panic(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.example\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		panic(err)
	}
	body, _ := io.ReadAll(res.Body)
	fmt.Println(string(body))
	// Output: 203.0.113.9 over TLSv1.3
}

func ExampleParse() {
	h, n, err := proxyproto.Parse([]byte("PROXY TCP4 203.0.113.9 198.51.100.1 4711 80\r\nGET / HTTP/1.1\r\n"))
	fmt.Println(h.Source, h.Destination, n, err)
	_, _, err = proxyproto.Parse([]byte("GET / HTTP/1.1\r\n"))
	fmt.Println(err)
	// Output:
	// 203.0.113.9:4711 198.51.100.1:80 45 <nil>
	// proxyproto: no PROXY header
}

func ExampleHeader_AppendBinary() {
	h := proxyproto.Header{
		Version:     1,
		Source:      &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 4711},
		Destination: &net.TCPAddr{IP: net.ParseIP("198.51.100.1"), Port: 80},
	}
	b, err := h.AppendBinary(nil)
	fmt.Printf("%q %v\n", b, err)
	// Output: "PROXY TCP6 2001:db8::1 ::ffff:198.51.100.1 4711 80\r\n" <nil>
}
