package health_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// A protocolServer is a server of net/http that speaks the protocols named, and nothing else.
func protocolServer(t testing.TB, h http.HandlerFunc, protocols ...string) (balancer.Target, *tls.Config) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	scheme := "http"
	for _, p := range protocols {
		switch p {
		case "h2c":
			s.Config.Protocols.SetUnencryptedHTTP2(true)
			scheme = "h2c"
		case "h2":
			s.Config.Protocols.SetHTTP2(true)
			s.EnableHTTP2 = true
			scheme = "https"
		case "http/1.1 over TLS":
			s.Config.Protocols.SetHTTP1(true)
			scheme = "https"
		default:
			s.Config.Protocols.SetHTTP1(true)
		}
	}
	if scheme == "https" {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	target := serverTarget(t, s)
	target.URL.Scheme = scheme
	config := &tls.Config{}
	if scheme == "https" {
		config.RootCAs = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	}
	return target, config
}

// Checks use the protocol that requests to the target use, so a server that speaks only HTTP/2 is
// healthy too.
func TestHTTP_B5_SpeaksWhatRequestsSpeak(t *testing.T) {
	for name, tt := range map[string]struct {
		protocols []string
		offer     []string
		want      string
	}{
		"HTTP/1.1":                      {[]string{"http/1.1"}, nil, "HTTP/1.1"},
		"h2c alone":                     {[]string{"h2c"}, nil, "HTTP/2.0"},
		"h2c and HTTP/1.1":              {[]string{"http/1.1", "h2c"}, nil, "HTTP/2.0"},
		"TLS, HTTP/2 alone":             {[]string{"h2"}, nil, "HTTP/2.0"},
		"TLS, both":                     {[]string{"h2", "http/1.1 over TLS"}, nil, "HTTP/2.0"},
		"TLS, HTTP/1.1 alone":           {[]string{"http/1.1 over TLS"}, nil, "HTTP/1.1"},
		"TLS, both, HTTP/1.1 asked for": {[]string{"h2", "http/1.1 over TLS"}, []string{"http/1.1"}, "HTTP/1.1"},
	} {
		t.Run(name, func(t *testing.T) {
			var got atomic.Pointer[http.Request]
			target, config := protocolServer(t, func(w http.ResponseWriter, r *http.Request) {
				got.Store(r)
				io.WriteString(w, "fine")
			}, tt.protocols...)
			config.NextProtos = tt.offer
			check := health.HTTP{Path: "/healthz?deep=1", Contains: "fine", TLS: config, Header: http.Header{
				"X-Check": {"yes", "and yes"}, "Te": {"gzip"}, "Keep-Alive": {"timeout=5"}, "Proxy-Connection": {"close"},
			}}
			require.NoError(t, probe(t, check, target, patience))
			r := got.Load()
			require.Equal(t, tt.want, r.Proto)
			require.Equal(t, "GET", r.Method)
			require.Equal(t, "/healthz?deep=1", r.RequestURI)
			require.Equal(t, target.URL.Host, r.Host)
			require.Equal(t, []string{"yes", "and yes"}, r.Header["X-Check"])
			require.Equal(t, "stickylb-health", r.UserAgent())
			if r.ProtoMajor == 2 {
				require.Len(t, r.Header, 2, "%v", r.Header)
			}
			require.Equal(t, tt.offer, config.NextProtos, "the caller's configuration stays as it is")
		})
	}
}

func TestHTTP_B5_AsksForWhatItIsToldOverHTTP2(t *testing.T) {
	var got *http.Request
	plain, _ := protocolServer(t, func(_ http.ResponseWriter, r *http.Request) { got = r }, "h2c")
	below := plain
	u := *plain.URL
	u.Path = "/app/"
	below.URL = &u
	long := strings.Repeat("x", 40<<10) // more than one frame
	tests := []struct {
		name                      string
		check                     health.HTTP
		target                    balancer.Target
		method, uri, host, header string
	}{
		{"zero", health.HTTP{}, plain, "GET", "/", plain.URL.Host, ""},
		{"escapes stay", health.HTTP{Path: "/a%2Fb/%20?q=%zz"}, plain, "GET", "/a%2Fb/%20?q=%zz", plain.URL.Host, ""},
		{"below the target's path", health.HTTP{Path: "/healthz"}, below, "GET", "/app/healthz", plain.URL.Host, ""},
		{"method and host", health.HTTP{Method: "HEAD", Host: "app.example:81"}, plain, "HEAD", "/", "app.example:81", ""},
		{"an international host", health.HTTP{Host: "bücher.example"}, plain, "GET", "/", "xn--bcher-kva.example", ""},
		{"POST", health.HTTP{Method: "POST"}, plain, "POST", "/", plain.URL.Host, ""},
		{"a long header", health.HTTP{Header: http.Header{"x-long": {" " + long + " "}}}, plain, "GET", "/", plain.URL.Host, long},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.NoError(t, probe(t, tt.check, tt.target, patience))
			require.Equal(t, []any{tt.method, tt.uri, tt.host, "HTTP/2.0"}, []any{got.Method, got.RequestURI, got.Host, got.Proto})
			require.Equal(t, tt.header, got.Header.Get("X-Long"))
			require.Zero(t, got.ContentLength)
		})
	}
}

// The flow-control window is large enough for all that a check reads. A longer answer is no
// problem.
func TestHTTP_B5_ReadsItsLimitOverHTTP2(t *testing.T) {
	target, _ := protocolServer(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat("x", 64<<10-3))
		io.WriteString(w, "end"+r.URL.RawQuery+"beyond")
		for r.URL.RawQuery == "endless" {
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	}, "h2c")
	require.NoError(t, probe(t, health.HTTP{Contains: "end"}, target, patience))
	require.NoError(t, probe(t, health.HTTP{Path: "/?endless", Contains: "end"}, target, patience))
	require.EqualError(t, probe(t, health.HTTP{Contains: "beyond"}, target, patience), `health: the answer does not contain "beyond"`)
}

// readHTTP2 reads what a client of HTTP/2 sends up to the end of its request. It returns the
// header and the body.
func readHTTP2(conn net.Conn) (header []hpack.HeaderField, body []byte) {
	io.ReadFull(conn, make([]byte, len(http2.ClientPreface)))
	r := http2.NewFramer(nil, conn)
	r.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := r.ReadFrame()
		if err != nil {
			return header, body
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			header = f.Fields
			if f.StreamEnded() {
				return header, body
			}
		case *http2.DataFrame:
			body = append(body, f.Data()...)
			if f.StreamEnded() {
				return header, body
			}
		}
	}
}

// A frames writes the frames of an answer.
type frames struct {
	*http2.Framer
	out   io.Writer
	enc   *hpack.Encoder
	block bytes.Buffer
}

func newFrames(w io.Writer) *frames {
	f := &frames{Framer: http2.NewFramer(w, nil), out: w}
	f.AllowIllegalWrites = true
	f.enc = hpack.NewEncoder(&f.block)
	return f
}

func (f *frames) encode(fields ...string) []byte {
	f.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		f.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return f.block.Bytes()
}

// header writes a header, or a trailer, of pairs of name and value.
func (f *frames) header(end bool, fields ...string) {
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.encode(fields...), EndHeaders: true, EndStream: end})
}

// framed answers a request with frames, closes its side, and reads what the client still sends. The
// answer begins with SETTINGS.
func framed(answer func(*frames)) func(net.Conn) {
	return rawFramed(func(f *frames) {
		f.WriteSettings()
		answer(f)
	})
}

func rawFramed(answer func(*frames)) func(net.Conn) {
	return func(conn net.Conn) {
		readHTTP2(conn)
		var heard sync.WaitGroup
		defer heard.Wait()
		heard.Go(func() { io.Copy(io.Discard, conn) })
		var out bytes.Buffer
		answer(newFrames(&out))
		conn.Write(out.Bytes())
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	}
}

func TestHTTP_B5_JudgesTheAnswerOverHTTP2(t *testing.T) {
	long := strings.Repeat("x", 16<<10)
	tests := []struct {
		name   string
		check  health.HTTP
		answer func(*frames)
		want   string
	}{
		{"204", health.HTTP{}, func(f *frames) { f.header(true, ":status", "204") }, ""},
		{"a redirect is not followed", health.HTTP{}, func(f *frames) { f.header(true, ":status", "302", "location", "http://nowhere.invalid/") }, ""},
		{"sick", health.HTTP{}, func(f *frames) { f.header(true, ":status", "503") }, "status 503, expected 2xx or 3xx"},
		{"only 200", health.HTTP{Statuses: []int{200}}, func(f *frames) { f.header(true, ":status", "204") }, "status 204, expected 200"},
		{"a body in pieces", health.HTTP{Contains: "fine"}, func(f *frames) {
			f.header(false, ":status", "200", "content-length", "4")
			f.WriteData(1, false, []byte("fi"))
			f.WriteData(1, false, nil)
			f.WriteDataPadded(1, true, []byte("ne"), make([]byte, 200))
		}, ""},
		{"another body", health.HTTP{Contains: "fine"}, func(f *frames) {
			f.header(false, ":status", "200")
			f.WriteData(1, true, []byte("sick"))
		}, `the answer does not contain "fine"`},
		{"a trailer", health.HTTP{Contains: "fine"}, func(f *frames) {
			f.header(false, ":status", "200")
			f.WriteData(1, false, []byte("fine"))
			f.header(true, "x-sum", "1")
		}, ""},
		{"after early hints", health.HTTP{}, func(f *frames) {
			f.header(false, ":status", "103", "link", "x")
			f.header(false, ":status", "103", "link", "x")
			f.header(true, ":status", "200")
		}, ""},
		{"only 1xx", health.HTTP{}, func(f *frames) {
			for range 100 {
				f.header(false, ":status", "103")
			}
		}, "too many 1xx answers"},
		{"HEAD", health.HTTP{Method: "HEAD"}, func(f *frames) { f.header(true, ":status", "200", "content-length", "99") }, ""},
		{"304", health.HTTP{}, func(f *frames) { f.header(true, ":status", "304", "content-length", "99") }, ""},
		{"frames that do not matter", health.HTTP{}, func(f *frames) {
			f.WritePing(false, [8]byte{1})
			f.WriteWindowUpdate(0, 99)
			f.WritePriority(1, http2.PriorityParam{Weight: 3})
			f.WriteRawFrame(0xfa, 0, 0, []byte("grease"))
			f.WriteSettingsAck()
			f.WriteSettings(http2.Setting{ID: 0xfafa, Val: 1})
			f.header(true, ":status", "200")
		}, ""},
		{"it says goodbye, and answers", health.HTTP{}, func(f *frames) {
			f.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil)
			f.WriteGoAway(1, http2.ErrCodeNo, nil)
			f.header(true, ":status", "200")
		}, ""},

		{"no status", health.HTTP{}, func(f *frames) { f.header(true, "x", "y") }, `the answer is not HTTP/2 as it should be: status ""`},
		{"an odd status", health.HTTP{}, func(f *frames) { f.header(true, ":status", "2x0") }, `the answer is not HTTP/2 as it should be: status "2x0"`},
		{"101", health.HTTP{}, func(f *frames) { f.header(false, ":status", "101") }, "the answer is not HTTP/2 as it should be: status 101 in the place of an answer"},
		{"100 and the end", health.HTTP{}, func(f *frames) { f.header(true, ":status", "100") }, "the answer is not HTTP/2 as it should be: status 100 in the place of an answer"},
		{"a name in upper case", health.HTTP{}, func(f *frames) { f.header(true, ":status", "200", "Server", "x") }, `the answer is not HTTP/2 as it should be: invalid header field name "Server"`},
		{"two statuses", health.HTTP{}, func(f *frames) { f.header(true, ":status", "200", ":status", "200") }, `the answer is not HTTP/2 as it should be: duplicate pseudo-header ":status"`},
		{"a second header", health.HTTP{}, func(f *frames) {
			f.header(false, ":status", "200")
			f.header(false, ":status", "200")
		}, "the answer is not HTTP/2 as it should be: a second header"},
		{"a body without a header", health.HTTP{}, func(f *frames) { f.WriteData(1, true, []byte("x")) }, "the answer is not HTTP/2 as it should be: a body without a header"},
		{"a body for HEAD", health.HTTP{Method: "HEAD"}, func(f *frames) {
			f.header(false, ":status", "200")
			f.WriteData(1, true, []byte("x"))
		}, "the answer is not HTTP/2 as it should be: a body where there must be none"},
		{"less than promised", health.HTTP{}, func(f *frames) {
			f.header(false, ":status", "200", "content-length", "9")
			f.WriteData(1, true, []byte("half"))
		}, "the answer ended after 4 octets of its body"},
		{"nothing of what was promised", health.HTTP{}, func(f *frames) { f.header(true, ":status", "200", "content-length", "9") }, "the answer ended after 0 octets of its body"},
		{"more than promised", health.HTTP{}, func(f *frames) {
			f.header(false, ":status", "200", "content-length", "3")
			f.WriteData(1, true, []byte("more"))
		}, "the answer is not HTTP/2 as it should be: a body larger than its Content-Length"},
		{"half a body", health.HTTP{}, func(f *frames) {
			f.header(false, ":status", "200")
			f.WriteData(1, false, []byte("half"))
		}, "the answer ended after 4 octets of its body"},
		{"half a frame", health.HTTP{}, func(f *frames) {
			f.header(false, ":status", "200")
			f.WriteData(1, false, []byte("half"))
			f.out.Write([]byte{0, 0, 9, 0, 0, 0, 0, 0, 1, 'h', 'a', 'l', 'f'})
		}, "the answer ended after 4 octets of its body"},
		{"reset within the body", health.HTTP{}, func(f *frames) {
			f.header(false, ":status", "200")
			f.WriteData(1, false, []byte("half"))
			f.WriteRSTStream(1, http2.ErrCodeInternal)
		}, "the target reset the request: INTERNAL_ERROR"},
		{"refused", health.HTTP{}, func(f *frames) { f.WriteRSTStream(1, http2.ErrCodeRefusedStream) }, "the target reset the request: REFUSED_STREAM"},
		{"sent away", health.HTTP{}, func(f *frames) { f.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, []byte("too_many\npings")) },
			`the target ended the connection: GOAWAY with ENHANCE_YOUR_CALM, "too_many\npings"`},
		{"sent away with many words", health.HTTP{}, func(f *frames) { f.WriteGoAway(1, http2.ErrCodeProtocol, []byte(long[:1000])) },
			`the target ended the connection: GOAWAY with PROTOCOL_ERROR, "` + long[:128] + `"...`},
		{"shutting down", health.HTTP{}, func(f *frames) { f.WriteGoAway(0, http2.ErrCodeNo, nil) }, "the target ended the connection: GOAWAY with NO_ERROR"},
		{"a push", health.HTTP{}, func(f *frames) {
			f.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: f.encode(":method", "GET"), EndHeaders: true})
		}, "the answer is not HTTP/2 as it should be: a push that was forbidden"},
		{"an answer to somebody else", health.HTTP{}, func(f *frames) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: f.encode(":status", "200"), EndHeaders: true, EndStream: true})
		}, "the answer is not HTTP/2 as it should be: an answer to a request that was not made"},
		{"a frame between two of a header", health.HTTP{}, func(f *frames) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.encode(":status", "200")})
			f.WritePing(false, [8]byte{})
		}, "the answer is not HTTP/2 as it should be: got PING for stream 0; expected CONTINUATION following HEADERS for stream 1"},
		{"broken compression", health.HTTP{}, func(f *frames) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff}, EndHeaders: true, EndStream: true})
		}, "the answer is not HTTP/2 as it should be: connection error: COMPRESSION_ERROR"},
		{"SETTINGS of an odd size", health.HTTP{}, func(f *frames) { f.WriteRawFrame(http2.FrameSettings, 0, 0, []byte("five!")) },
			"the answer is not HTTP/2 as it should be: connection error: FRAME_SIZE_ERROR"},
		{"a large frame", health.HTTP{}, func(f *frames) {
			f.header(false, ":status", "200")
			f.WriteRawFrame(http2.FrameData, 0, 1, []byte(long+"x"))
		}, "the answer is not HTTP/2 as it should be: a frame larger than 16 KiB"},
		{"a large header", health.HTTP{}, func(f *frames) { f.header(true, ":status", "200", "x", strings.Repeat("~", 16<<10), "y", long[:100]) }, "the answer is not HTTP/2 as it should be: a frame larger than 16 KiB"},
		{"a large header in pieces", health.HTTP{}, func(f *frames) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.encode(":status", "200", "x", long[:10000])})
			for range 20 {
				f.WriteContinuation(1, false, f.encode("x", long[:10000]))
			}
		}, "the answer's header is larger than 64 KiB"},
		{"a small header that becomes large", health.HTTP{}, func(f *frames) {
			fields := []string{":status", "200"}
			for range 100 {
				fields = append(fields, "x", long[:4000]) // in the table, after the first
			}
			f.header(true, fields...)
		}, "the answer's header is larger than 64 KiB"},
		{"a large trailer", health.HTTP{}, func(f *frames) {
			f.header(false, ":status", "200")
			fields := []string{}
			for range 100 {
				fields = append(fields, "x", long[:4000])
			}
			f.header(true, fields...)
		}, "the answer's header is larger than 64 KiB"},
		{"a flood of SETTINGS", health.HTTP{}, func(f *frames) {
			for range 30000 {
				f.WriteSettings()
			}
		}, "256 KiB of HTTP/2 without an answer"},
		{"a flood of PING", health.HTTP{}, func(f *frames) {
			for range 20000 {
				f.WritePing(false, [8]byte{})
			}
		}, "256 KiB of HTTP/2 without an answer"},
		{"a flood of nothing", health.HTTP{}, func(f *frames) {
			f.header(false, ":status", "200")
			for range 120000 {
				f.WriteData(1, false, nil)
			}
		}, "answer too large"},
		{"nothing more", health.HTTP{}, func(f *frames) {}, "connection closed without an answer"},
		{"half a header", health.HTTP{}, func(f *frames) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.encode(":status", "200")})
		}, "connection closed without an answer"},
	}
	cert := certificate(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for scheme, serve := range map[string]func(net.Conn){"h2c": framed(tt.answer), "https": withALPN(cert, framed(tt.answer), "h2")} {
				tt.check.TLS = trusting(cert)
				err := probe(t, tt.check, backend(t, scheme, serve), patience)
				if tt.want == "" {
					require.NoError(t, err)
				} else {
					require.EqualError(t, err, "health: "+tt.want, scheme)
				}
			}
		})
	}
}

// withALPN is withTLS for a server that chooses a protocol.
func withALPN(cert tls.Certificate, serve func(net.Conn), protocols ...string) func(net.Conn) {
	return func(conn net.Conn) {
		secured := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: protocols, SessionTicketsDisabled: true})
		defer secured.Close()
		if secured.Handshake() == nil {
			serve(secured)
		}
	}
}

// The reason for a target that speaks another protocol is not that of one that does not answer.
func TestHTTP_B5_AnotherProtocolThanExpected(t *testing.T) {
	onlyH2C, _ := protocolServer(t, func(http.ResponseWriter, *http.Request) {}, "h2c")
	asHTTP1 := onlyH2C
	u := *onlyH2C.URL
	u.Scheme = "http"
	asHTTP1.URL = &u
	tests := []struct {
		name   string
		target balancer.Target
		want   string
	}{
		{"HTTP/1.1 on h2c", backend(t, "h2c", says("HTTP/1.1 400 Bad Request\r\n\r\n")), "the target answers with HTTP/1 to HTTP/2"},
		{"HTTP/1.1 on h2c, from net/http", func() balancer.Target {
			target, _ := protocolServer(t, func(http.ResponseWriter, *http.Request) {}, "http/1.1")
			target.URL.Scheme = "h2c"
			return target
		}(), "the target answers with HTTP/1 to HTTP/2"},
		{"mail on h2c", backend(t, "h2c", rawFramed(func(f *frames) { f.WriteRawFrame(0x20, 0x6d, 0x61696c20, nil) })), "the answer is not HTTP/2 as it should be: it does not begin with SETTINGS"},
		{"mail that greets on h2c", backend(t, "h2c", hangs("220 mail.example ESMTP\r\n")), "the answer is not HTTP/2 as it should be: a frame larger than 16 KiB"},
		{"no SETTINGS", backend(t, "h2c", rawFramed(func(f *frames) { f.header(true, ":status", "200") })), "the answer is not HTTP/2 as it should be: it does not begin with SETTINGS"},
		{"closes at once on h2c", backend(t, "h2c", rawFramed(func(*frames) {})), "connection closed without an answer"},
		{"resets on h2c", backend(t, "h2c", resets("")), "connection reset by the target"},
		{"refuses on h2c", refusing(t, "h2c"), "connection refused"},
		{"HTTP/2 on http", backend(t, "http", func(conn net.Conn) {
			readRequest(conn)
			newFrames(conn).WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 100})
		}), "the target answers with HTTP/2 to HTTP/1.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.EqualError(t, probe(t, health.HTTP{}, tt.target, patience), "health: "+tt.want)
		})
	}
	require.Error(t, probe(t, health.HTTP{}, asHTTP1, patience))
}

// Over HTTP/2 too, the reason names what was late, and the check ends at its time limit.
func TestHTTP_B5_WordsForWhatIsLateOverHTTP2(t *testing.T) {
	tests := []struct {
		name  string
		serve func(net.Conn, *frames)
		want  string
	}{
		{"silent", func(net.Conn, *frames) {}, "no answer within 300ms"},
		{"hangs after SETTINGS", func(_ net.Conn, f *frames) { f.WriteSettings() }, "no answer within 300ms"},
		{"hangs within a frame", func(c net.Conn, _ *frames) { c.Write([]byte{0, 0, 6, 4, 0}) }, "no answer within 300ms"},
		{"hangs within the header", func(_ net.Conn, f *frames) {
			f.WriteSettings()
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.encode(":status", "200")})
		}, "no answer within 300ms"},
		{"hangs within the body", func(_ net.Conn, f *frames) {
			f.WriteSettings()
			f.header(false, ":status", "200")
			f.WriteData(1, false, []byte("half"))
		}, "answer not complete within 300ms"},
		{"pings for ever", func(_ net.Conn, f *frames) {
			f.WriteSettings()
			for f.WritePing(false, [8]byte{}) == nil {
				time.Sleep(10 * time.Millisecond)
			}
		}, "no answer within 300ms"},
		{"drips", func(_ net.Conn, f *frames) {
			f.WriteSettings()
			f.header(false, ":status", "200")
			for f.WriteData(1, false, []byte("x")) == nil {
				time.Sleep(10 * time.Millisecond)
			}
		}, "answer not complete within 300ms"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dial := piped(func(conn net.Conn) {
					readHTTP2(conn)
					go io.Copy(io.Discard, conn)
					tt.serve(conn, newFrames(conn))
					time.Sleep(time.Second)
				})
				target := balancer.Target{URL: &url.URL{Scheme: "h2c", Host: "127.0.0.1:1"}}
				began := time.Now()
				err := probe(t, health.HTTP{Dial: dial}, target, 300*time.Millisecond)
				require.EqualError(t, err, "health: "+tt.want)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Equal(t, 300*time.Millisecond, time.Since(began))
				time.Sleep(2 * time.Second)
			})
		})
	}
}

// A target that reads nothing, or not everything, cannot delay a check beyond its time limit.
func TestHTTP_B5_EndsInTimeWithAPeerOfHTTP2ThatReadsNoMore(t *testing.T) {
	for name, octets := range map[string]int{"nothing": 0, "the preface": len(http2.ClientPreface)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dial := piped(func(conn net.Conn) {
					io.ReadFull(conn, make([]byte, octets))
					time.Sleep(time.Minute)
				})
				target := balancer.Target{URL: &url.URL{Scheme: "h2c", Host: "127.0.0.1:1"}}
				began := time.Now()
				err := probe(t, health.HTTP{Dial: dial}, target, 3*time.Second)
				require.EqualError(t, err, "health: request not taken within 3s")
				require.Equal(t, 3*time.Second, time.Since(began))
				time.Sleep(time.Minute)
			})
		})
	}
}

// A target is told that the client leaves, and the connection is closed.
func TestHTTP_B5_SaysGoodbyeOverHTTP2(t *testing.T) {
	last := make(chan http2.Frame, 1)
	target := backend(t, "h2c", func(conn net.Conn) {
		readHTTP2(conn)
		f := newFrames(conn)
		f.WriteSettings()
		f.WritePing(false, [8]byte{7})
		f.header(true, ":status", "200")
		r := http2.NewFramer(nil, conn)
		var latest http2.Frame
		var seen []http2.FrameType
		for {
			frame, err := r.ReadFrame()
			if err != nil {
				break
			}
			seen, latest = append(seen, frame.Header().Type), frame
		}
		if len(seen) == 3 && seen[0] == http2.FrameSettings && seen[1] == http2.FramePing {
			last <- latest
		}
		close(last)
	})
	require.NoError(t, probe(t, health.HTTP{}, target, patience))
	goodbye, ok := (<-last).(*http2.GoAwayFrame)
	require.True(t, ok, "the acknowledgements, a GOAWAY, and the end of the connection")
	require.Equal(t, http2.ErrCodeNo, goodbye.ErrCode)
}

// A WebSocket is opened over HTTP/1.1. A target that speaks only HTTP/2 fails, and the reason says
// so.
func TestWebSocket_B5_TargetsOfHTTP2Alone(t *testing.T) {
	const why = "; a WebSocket is opened over HTTP/1.1, which the target may not speak"
	cert := certificate(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	nothing := func(http.ResponseWriter, *http.Request) {}
	h2c, _ := protocolServer(t, nothing, "h2c")
	h2, config := protocolServer(t, nothing, "h2")
	settings := func(conn net.Conn) {
		readRequest(conn)
		newFrames(conn).WriteSettings()
	}
	eager := trusting(cert)
	eager.NextProtos = []string{"h2", "http/1.1"}
	tests := []struct {
		name   string
		target balancer.Target
		config *tls.Config
		want   string
	}{
		{"h2c, net/http", h2c, nil, why},
		{"h2c, frames", backend(t, "h2c", settings), nil, "the target answers with HTTP/2 to HTTP/1.1" + why},
		{"h2c and HTTP/1.1", backend(t, "h2c", func(c net.Conn) { accept(c) }), nil, ""},
		{"h2c and HTTP/1.1, no WebSocket", backend(t, "h2c", says(ok)), nil, "status 200, expected 101"},
		{"TLS, net/http", h2, config, why},
		{"TLS, an alert", backend(t, "https", withALPN(cert, settings, "h2", "x")), trusting(cert), why},
		{"TLS, frames", backend(t, "https", withTLS(cert, settings)), trusting(cert), "the target answers with HTTP/2 to HTTP/1.1" + why},
		{"TLS, HTTP/2 was offered", backend(t, "https", withALPN(cert, settings, "h2")), eager, "the target has chosen HTTP/2, and a WebSocket is opened over HTTP/1.1"},
		{"TLS, HTTP/1.1 chosen", backend(t, "https", withALPN(cert, says(""), "http/1.1")), trusting(cert), "connection closed without an answer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := probe(t, health.WebSocket{TLS: tt.config}, tt.target, patience)
			switch tt.want {
			case "":
				require.NoError(t, err)
			case why:
				require.ErrorContains(t, err, why)
			default:
				require.EqualError(t, err, "health: "+tt.want)
			}
		})
	}
}

// For any answer over HTTP/2, a check ends with a result, and its error is in the package's own
// words.
func FuzzHTTP2Answer(f *testing.F) {
	for _, answer := range []func(*frames){
		func(f *frames) { f.header(true, ":status", "200") },
		func(f *frames) {
			f.header(false, ":status", "103")
			f.header(false, ":status", "200", "content-length", "4")
			f.WriteDataPadded(1, true, []byte("fine"), []byte{0})
		},
		func(f *frames) { f.header(false, ":status", "200"); f.header(true, "x", "y") },
		func(f *frames) { f.WriteGoAway(0, http2.ErrCodeNo, []byte("x")) },
		func(f *frames) { f.WriteRSTStream(1, http2.ErrCodeNo) },
		func(f *frames) { f.WritePing(false, [8]byte{}) },
		func(f *frames) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.encode(":status", "200"), EndStream: true})
			f.WriteContinuation(1, true, f.encode("x", "y"))
		},
	} {
		var out bytes.Buffer
		w := newFrames(&out)
		w.WriteSettings()
		answer(w)
		f.Add(out.Bytes())
	}
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		check := health.HTTP{Dial: piped(func(conn net.Conn) {
			readHTTP2(conn)
			go io.Copy(io.Discard, conn)
			conn.Write(answer)
		})}
		err := probe(t, check, balancer.Target{URL: &url.URL{Scheme: "h2c", Host: "127.0.0.1:1"}}, 10*time.Second)
		if err != nil {
			require.Regexp(t, "^health: [a-z0-9]", err.Error())
			require.NotErrorIs(t, err, context.DeadlineExceeded)
			return
		}
		require.GreaterOrEqual(t, len(answer), 2*9, "SETTINGS and HEADERS")
	})
}
