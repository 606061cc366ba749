package upstream_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sent is what a transport puts on the wire for a request: all until the answer, which comes when the backend has seen
// the end of the message.
func sent(t *testing.T, rt transport, change func(*http.Request)) (wire string, err error) {
	got := make(chan string, 1)
	b := newBackend(t, func(p *peer) {
		var raw strings.Builder
		p.r.Reset(io.TeeReader(p.Conn, &raw))
		if p.request() == nil {
			return
		}
		got <- raw.String()
		p.say(empty)
	})
	req := newRequest(t, http.MethodGet, b.url+"/", nil)
	req.Host = "app.example"
	change(req)
	res, err := rt.RoundTrip(req)
	if err != nil {
		return "", err
	}
	res.Body.Close()
	return wait(t, got, "request"), nil
}

var wires = map[string]func(r *http.Request){
	"plain":           func(*http.Request) {},
	"no method":       func(r *http.Request) { r.Method = "" },
	"other method":    func(r *http.Request) { r.Method = "PROPFIND" },
	"HEAD":            func(r *http.Request) { r.Method = "HEAD" },
	"POST of nothing": func(r *http.Request) { r.Method = "POST" },
	"PUT of NoBody":   func(r *http.Request) { r.Method, r.Body = "PUT", http.NoBody },
	"PATCH":           func(r *http.Request) { r.Method, r.Body, r.ContentLength = "PATCH", bodyOf("four"), 4 },
	"POST":            func(r *http.Request) { r.Method, r.Body, r.ContentLength = "POST", bodyOf("four"), 4 },
	"GET with a body": func(r *http.Request) { r.Body, r.ContentLength = bodyOf("four"), 4 },
	"long": func(r *http.Request) {
		s := long(100_001)
		r.Method, r.Body, r.ContentLength = "POST", bodyOf(s), int64(len(s))
	},
	"chunked":   func(r *http.Request) { r.Method, r.Body, r.ContentLength = "POST", bodyOf("four"), -1 },
	"chunked 0": func(r *http.Request) { r.Method, r.Body = "POST", bodyOf("") },
	"chunked as told": func(r *http.Request) {
		r.TransferEncoding = []string{"chunked"}
		r.Body, r.ContentLength = bodyOf("four"), 4
	},
	"two chunks": func(r *http.Request) {
		r.Method, r.ContentLength = "POST", -1
		r.Body = opaque{io.MultiReader(strings.NewReader("hello, "), strings.NewReader("world"))}
	},
	"GET that may have a body": func(r *http.Request) { r.Body, r.ContentLength = bodyOf(""), -1 },
	"GET that has one":         func(r *http.Request) { r.Body, r.ContentLength = bodyOf("four"), -1 },
	"GET that has one byte":    func(r *http.Request) { r.Body, r.ContentLength = bodyOf("4"), -1 },
	"DELETE as told": func(r *http.Request) {
		r.Method, r.TransferEncoding = "DELETE", []string{"chunked"}
		r.Body, r.ContentLength = bodyOf(""), -1
	},
	"coding without a body": func(r *http.Request) { r.TransferEncoding = []string{"chunked"} },
	"trailers": func(r *http.Request) {
		r.Method, r.ContentLength = "POST", -1
		r.Trailer = http.Header{"B": nil, "A": {"later"}, "C": {"1", "2"}}
		r.Body = opaque{io.MultiReader(strings.NewReader("four"), reader(func([]byte) (int, error) {
			r.Trailer["B"] = []string{" now "}
			return 0, io.EOF
		}))}
	},
	"trailers without chunks": func(r *http.Request) {
		r.Method, r.Body, r.ContentLength = "POST", bodyOf("four"), 4
		r.Trailer = http.Header{"A": {"a"}}
	},
	"close":             func(r *http.Request) { r.Close = true },
	"close twice":       func(r *http.Request) { r.Close = true; r.Header.Set("Connection", "Close") },
	"keep-alive, close": func(r *http.Request) { r.Header.Set("Connection", "keep-alive, close") },
	"path":              func(r *http.Request) { r.URL.Path, r.URL.RawPath = "/a/b c", "/a%2Fb%20c" },
	"path of bytes":     func(r *http.Request) { r.URL.Path = "/ä\x01%" },
	"no path":           func(r *http.Request) { r.URL.Path = "" },
	"star":              func(r *http.Request) { r.Method, r.URL.Path = "OPTIONS", "*" },
	"two slashes":       func(r *http.Request) { r.URL.Path = "//a" },
	"opaque":            func(r *http.Request) { r.URL.Opaque, r.URL.RawQuery = "/a[b]|c", "q" },
	"query":             func(r *http.Request) { r.URL.RawQuery = "a=%zz&b;c" },
	"empty query":       func(r *http.Request) { r.URL.ForceQuery = true },
	"fragment":          func(r *http.Request) { r.URL.Fragment = "f" },
	"user":              func(r *http.Request) { r.URL.User = url.UserPassword("u", "p") },
	"no Host":           func(r *http.Request) { r.Host = ""; r.Header.Set("X", r.URL.Host); r.URL.Path = "/h" },
	"Host in the map":   func(r *http.Request) { r.Header.Set("Host", "other.example") },
	"Host with a port":  func(r *http.Request) { r.Host = "app.example:80" },
	"Host IPv6":         func(r *http.Request) { r.Host = "[fe80::1%en0]:80" },
	"Host IDN":          func(r *http.Request) { r.Host = "bücher.example:80" },
	"User-Agent blank":  func(r *http.Request) { r.Header.Set("User-Agent", "") },
	"User-Agents":       func(r *http.Request) { r.Header["User-Agent"] = []string{" a ", "b"} },
	"framing in the map": func(r *http.Request) {
		r.Header["Content-Length"], r.Header["Transfer-Encoding"] = []string{"7"}, []string{"chunked"}
		r.Header["Trailer"] = []string{"X"}
	},
	"headers": func(r *http.Request) {
		r.Header["Zulu"], r.Header["Alpha"] = []string{" z\t", "", "\tz "}, []string{"a", "b"}
		r.Header["none"], r.Header["lower-case"] = nil, []string{"ä\xff"}
	},
}

type reader func([]byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

func long(n int) string { return strings.Repeat("0123456789abcdef", n/16+1)[:n] }

// What is sent is the same, byte for byte, which is possible because http.Transport sorts the fields, too.
func TestTransport_WritesWhatHTTPTransportWrites(t *testing.T) {
	for name, change := range wires {
		frozen(t, name, func(t *testing.T) {
			var wire [2]string
			for i, tr := range transports {
				rt := tr.make(usual)
				t.Cleanup(rt.CloseIdleConnections)
				var err error
				wire[i], err = sent(t, rt, change)
				require.NoError(t, err, tr.name)
			}
			for i := range wire { // the one name of a host that differs
				if name == "no Host" {
					_, wire[i], _ = strings.Cut(wire[i], "User-Agent")
					wire[i], _, _ = strings.Cut(wire[i], "X: ")
				}
			}
			require.Equal(t, wire[0], wire[1])
		})
	}
}

// What both refuse is not sent, and the body is closed.
func TestTransport_RefusesWhatHTTPTransportRefuses(t *testing.T) {
	tests := map[string]func(r *http.Request){
		"no URL":              func(r *http.Request) { r.URL = nil },
		"no header map":       func(r *http.Request) { r.Header = nil },
		"no host":             func(r *http.Request) { r.URL.Host = "" },
		"scheme":              func(r *http.Request) { r.URL.Scheme = "ftp" },
		"method":              func(r *http.Request) { r.Method = "G ET" },
		"method of two lines": func(r *http.Request) { r.Method = "GET\r\nX:" },
		"header name":         func(r *http.Request) { r.Header["A b"] = []string{"c"} },
		"no header name":      func(r *http.Request) { r.Header[""] = []string{"c"} },
		"header of two lines": func(r *http.Request) { r.Header["A"] = []string{"b\r\nC: d"} },
		"header with a NUL":   func(r *http.Request) { r.Header["A"] = []string{"b\x00"} },
		"User-Agent":          func(r *http.Request) { r.Header["User-Agent"] = []string{"b\nc"} },
		"trailer name":        func(r *http.Request) { r.Trailer = http.Header{"A:": {"b"}} },
		"trailer value":       func(r *http.Request) { r.Trailer = http.Header{"A": {"b\r\n"}} },
		"trailer of framing":  func(r *http.Request) { r.Trailer = http.Header{"Content-Length": {"1"}} },
		"trailer of coding":   func(r *http.Request) { r.Trailer = http.Header{"transfer-encoding": {"1"}} },
		"target of two lines": func(r *http.Request) { r.URL.Opaque = "/a\r\nB: c" },
		"query of two lines":  func(r *http.Request) { r.URL.RawQuery = "a\nb" },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			alike(t, usual, func(t *testing.T, rt transport) {
				b := newBackend(t, func(p *peer) {
					if h := p.header(); strings.HasSuffix(h, "\r\n\r\n") {
						t.Errorf("was sent: %q", h)
					}
				})
				body := newClosing(strings.NewReader("four"))
				req := newRequest(t, http.MethodPost, b.url, body)
				change(req)
				_, err := rt.RoundTrip(req)
				require.Error(t, err)
				wait(t, body.closed, "close")
			})
		})
	}
}

// What only ours refuses: http.Transport lets it pass in a form that others may read otherwise.
func TestTransport_RefusesWhatIsAmbiguous(t *testing.T) {
	tests := map[string]func(r *http.Request){
		"CONNECT":           func(r *http.Request) { r.Method = http.MethodConnect },
		"https":             func(r *http.Request) { r.URL.Scheme = "https" },
		"space in a target": func(r *http.Request) { r.URL.Opaque = "/a b" },
		"space in a query":  func(r *http.Request) { r.URL.RawQuery = "a b" },
		"DEL in a query":    func(r *http.Request) { r.URL.RawQuery = "a\x7f" },
		"host":              func(r *http.Request) { r.Host = "a/b" },
		"host with a space": func(r *http.Request) { r.Host = "a b" },
		"identity":          func(r *http.Request) { r.TransferEncoding = []string{"identity"} },
		"gzip, chunked":     func(r *http.Request) { r.TransferEncoding = []string{"gzip", "chunked"} },
		"length, no body":   func(r *http.Request) { r.Body, r.ContentLength = nil, 3 },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := sent(t, transports[1].make(usual), func(r *http.Request) {
				r.Method, r.Body, r.ContentLength = http.MethodPost, bodyOf("four"), 4
				change(r)
			})
			require.Error(t, err)
			require.NotContains(t, err.Error(), "write")
		})
	}
}

// The framing is the transport's, in whatever letters the map has it.
func TestTransport_WritesItsOwnFraming(t *testing.T) {
	wire, err := sent(t, transports[1].make(usual), func(r *http.Request) {
		r.Method, r.Body, r.ContentLength = http.MethodPost, bodyOf("four"), 4
		for _, name := range []string{"content-length", "TRANSFER-ENCODING", "host", "trailer", "user-agent"} {
			r.Header[name] = []string{"chunked"}
		}
	})
	require.NoError(t, err)
	require.Equal(t, "POST / HTTP/1.1\r\nHost: app.example\r\nUser-Agent: test\r\nContent-Length: 4\r\n\r\nfour", wire)
}

func TestTransport_SendsNoUserAgentOfItsOwn(t *testing.T) {
	wire, err := sent(t, transports[1].make(usual), func(r *http.Request) { r.Header.Del("User-Agent") })
	require.NoError(t, err)
	require.Equal(t, "GET / HTTP/1.1\r\nHost: app.example\r\n\r\n", wire)
}

// A header that does not fit the sockets is sent while the response is already waited for.
func TestTransport_LongHeaders(t *testing.T) {
	for _, size := range []int{16 << 10, 8 << 20} {
		value := long(size)
		alike(t, usual, func(t *testing.T, rt transport) {
			b := newBackend(t, func(p *peer) {
				if h := p.header(); strings.Contains(h, "\r\nLong: "+value+"\r\n") && p.say(ok) == nil {
					p.gone()
				}
			})
			req := newRequest(t, http.MethodGet, b.url, nil)
			req.Header.Set("Long", value)
			_, body := ask(t, rt, req)
			require.Equal(t, "ok", body)

			early := newBackend(t, func(p *peer) {
				p.r.ReadByte()
				p.say("HTTP/1.1 431 Too long\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
				p.gone()
			})
			req.URL.Host = strings.TrimPrefix(early.url, "http://")
			res, body := ask(t, rt, req)
			require.Equal(t, 431, res.StatusCode)
			require.Equal(t, "no", body)
		})
	}
}
