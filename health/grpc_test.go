package health_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

const servingMessage = "\x08\x01" // field 1, a number: SERVING

// message frames a message of gRPC.
func message(content string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(content))), content...)
}

// says200 answers a call with messages and a status.
func says200(body []byte, trailer ...string) func(*frames) {
	return func(f *frames) {
		f.header(false, ":status", "200", "content-type", "application/grpc")
		for part := range slices.Chunk(body, 16<<10) {
			f.WriteData(1, false, part)
		}
		f.header(true, trailer...)
	}
}

// saysStatus answers a call with only a status.
func saysStatus(fields ...string) func(*frames) {
	return func(f *frames) {
		f.header(true, append([]string{":status", "200", "content-type", "application/grpc"}, fields...)...)
	}
}

// nested returns a message of groups in groups, up to that depth.
func nested(depth int) string {
	return strings.Repeat("\x13", depth) + strings.Repeat("\x14", depth)
}

func TestGRPC_B5_JudgesTheAnswer(t *testing.T) {
	const done = "grpc-status"
	says := func(content string) func(*frames) { return says200(message(content), done, "0") }
	tests := []struct {
		name   string
		answer func(*frames)
		want   string
	}{
		{"SERVING", says(servingMessage), ""},
		{"UNKNOWN", says("\x08\x00"), "the health service says UNKNOWN"},
		{"UNKNOWN, as it is usually written", says(""), "the health service says UNKNOWN"},
		{"NOT_SERVING", says("\x08\x02"), "the health service says NOT_SERVING"},
		{"SERVICE_UNKNOWN", says("\x08\x03"), "the health service says SERVICE_UNKNOWN"},
		{"a status of the future", says("\x08\x2a"), "the health service says status 42"},
		{"a negative status", says("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "the health service says status -1"},
		{"a number in too many octets", says("\x08\x81\x80\x80\x00"), ""},
		{"the last one counts", says("\x08\x02" + servingMessage), ""},
		{"the last one counts, turned", says(servingMessage + "\x08\x02"), "the health service says NOT_SERVING"},
		{"unknown fields around it", says("\x10\x96\x01" + "\x1a\x03abc" + "\x21abcdefgh" + "\x2dabcd" + "\x33\x08\x02\x34" + servingMessage + "\x42\x00" + nested(1000)), ""},
		{"an unknown field that ends in it", says("\x12\x02" + servingMessage), "the health service says UNKNOWN"},
		{"field 1 of another kind", says("\x0a\x01\x01"), "the health service says UNKNOWN"},
		{"a status in a group", says("\x13" + servingMessage + "\x14"), "the health service says UNKNOWN"},

		{"cut off in a number", says("\x08\x81"), "the answer's message is not a HealthCheckResponse: it is cut off"},
		{"cut off after a tag", says("\x08"), "the answer's message is not a HealthCheckResponse: it is cut off"},
		{"cut off in octets", says("\x1a\x04abc"), "the answer's message is not a HealthCheckResponse: it is cut off"},
		{"octets without end", says("\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "the answer's message is not a HealthCheckResponse: it is cut off"},
		{"cut off in 8 octets", says("\x21abcdefg"), "the answer's message is not a HealthCheckResponse: it is cut off"},
		{"cut off in 4 octets", says("\x2dabc"), "the answer's message is not a HealthCheckResponse: it is cut off"},
		{"cut off in a group", says("\x33\x08\x02"), "the answer's message is not a HealthCheckResponse: it is cut off"},
		{"another group's end", says("\x33\x3c"), "the answer's message is not a HealthCheckResponse: a field is broken"},
		{"the end of no group", says("\x34"), "the answer's message is not a HealthCheckResponse: a field is broken"},
		{"a kind that there is not", says("\x0f"), "the answer's message is not a HealthCheckResponse: a field is broken"},
		{"field 0", says("\x00\x01"), "the answer's message is not a HealthCheckResponse: a field is broken"},
		{"a number too large", says("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"), "the answer's message is not a HealthCheckResponse: a field is broken"},

		{"no message", says200(nil, done, "0"), "the answer has no message"},
		{"no message, status alone", saysStatus(done, "0"), "the answer has no message"},
		{"two messages", says200(append(message(servingMessage), message(servingMessage)...), done, "0"), "the answer has more than one message"},
		{"a message and a half", says200(append(message(servingMessage), 0), done, "0"), "the answer has more than one message"},
		{"half a prefix", says200([]byte{0, 0, 0}, done, "0"), "the answer ended within its message"},
		{"half a message", says200(message(servingMessage)[:6], done, "0"), "the answer ended within its message"},
		{"a message of 4 GiB", says200([]byte("\x00\xff\xff\xff\xff\x08\x01"), done, "0"), "the answer ended within its message"},
		{"a message of 64 KiB", says(strings.Repeat(servingMessage, 32<<10)), "the answer is too large, 64 KiB or more"},
		{"a message just below", says(strings.Repeat(servingMessage, 32<<10-3)), ""},
		{"compressed", says200([]byte("\x01\x00\x00\x00\x02\x08\x01"), done, "0"), "the answer is compressed, which was not asked for"},

		{"no health service", saysStatus(done, "12"), "the target answers with gRPC status 12 (UNIMPLEMENTED): it has no health service (grpc.health.v1.Health)"},
		{"no health service, after the header", says200(nil, done, "12", "grpc-message", "unknown service grpc.health.v1.Health"),
			`the target answers with gRPC status 12 (UNIMPLEMENTED): it has no health service (grpc.health.v1.Health), "unknown service grpc.health.v1.Health"`},
		{"an unknown service", saysStatus(done, "5", "grpc-message", "unknown service"), `the target answers with gRPC status 5 (NOT_FOUND): its health service does not know the service, "unknown service"`},
		{"a failure after a message", says200(message(servingMessage), done, "14"), "the target answers with gRPC status 14 (UNAVAILABLE)"},
		{"a status of the future", saysStatus(done, "99"), "the target answers with gRPC status 99 (unknown)"},
		{"a message with escapes", saysStatus(done, "13", "grpc-message", "100%25 %E2%98%83%0A<b> %zz %+1 %4"), `the target answers with gRPC status 13 (INTERNAL), "100% ☃\n<b> %zz %+1 %4"`},
		{"a long message", saysStatus(done, "13", "grpc-message", strings.Repeat("%41", 5000)), `the target answers with gRPC status 13 (INTERNAL), "` + strings.Repeat("A", 128) + `"...`},
		{"no status", says200(message(servingMessage)), "the answer has no gRPC status"},
		{"no status, no message", saysStatus(), "the answer has no gRPC status"},
		{"a status in the header, and a message", func(f *frames) {
			f.header(false, ":status", "200", "content-type", "application/grpc", done, "0")
			f.WriteData(1, true, message(servingMessage))
		}, "the answer has no gRPC status"},
		{"an odd status", saysStatus(done, "-1"), `the answer's gRPC status is "-1"`},
		{"an empty status", saysStatus(done, ""), `the answer's gRPC status is ""`},
		{"two statuses", saysStatus(done, "0", done, "12"), `the answer's gRPC status is "0, 12"`},

		{"a codec named", func(f *frames) {
			f.header(false, ":status", "200", "content-type", "application/grpc+proto")
			f.WriteData(1, false, message(servingMessage))
			f.header(true, done, "0")
		}, ""},
		{"a page", func(f *frames) { f.header(true, ":status", "200", "content-type", "text/html") }, `the answer is not gRPC, its Content-Type is "text/html"`},
		{"gRPC-Web", func(f *frames) { f.header(true, ":status", "200", "content-type", "application/grpc-web") }, `the answer is not gRPC, its Content-Type is "application/grpc-web"`},
		{"nothing said of the content", func(f *frames) { f.header(true, ":status", "200") }, `the answer is not gRPC, its Content-Type is ""`},
		{"not found", func(f *frames) { f.header(true, ":status", "404") }, "status 404, expected 200"},
		{"cut off", func(f *frames) {
			f.header(false, ":status", "200", "content-type", "application/grpc")
			f.WriteData(1, false, message(servingMessage))
		}, "the answer ended after 7 octets of its body"},
		{"reset", func(f *frames) {
			f.header(false, ":status", "200", "content-type", "application/grpc")
			f.WriteRSTStream(1, http2.ErrCodeCancel)
		}, "the target reset the request: CANCEL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := probe(t, health.GRPC{}, backend(t, "h2c", framed(tt.answer)), patience)
			if tt.want == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, "health: "+tt.want)
			}
		})
	}
}

// The call has the configured service, authority and metadata, for every scheme.
func TestGRPC_B5_AsksForWhatItIsTold(t *testing.T) {
	type call struct {
		*http.Request
		body []byte
	}
	var got atomic.Pointer[call]
	serve := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got.Store(&call{r, body})
		w.Header().Set("Content-Type", "application/grpc")
		w.Write(message(servingMessage))
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	}
	plain, _ := protocolServer(t, serve, "h2c")
	secure, config := protocolServer(t, serve, "h2")
	as := func(scheme string) balancer.Target {
		u := *plain.URL
		u.Scheme = scheme
		return balancer.Target{URL: &u}
	}
	below := as("h2c")
	below.URL.Path = "/app"
	const path = "/grpc.health.v1.Health/Check"
	long := strings.Repeat("s", 4<<10)
	tests := []struct {
		name             string
		check            health.GRPC
		target           balancer.Target
		path, host, body string
	}{
		{"zero", health.GRPC{}, plain, path, plain.URL.Host, ""},
		{"http", health.GRPC{}, as("http"), path, plain.URL.Host, ""},
		{"tcp", health.GRPC{}, as("tcp"), path, plain.URL.Host, ""},
		{"https", health.GRPC{TLS: config}, secure, path, secure.URL.Host, ""},
		{"a service", health.GRPC{Service: "shop.Orders"}, plain, path, plain.URL.Host, "\x0a\x0bshop.Orders"},
		{"a long service", health.GRPC{Service: long}, plain, path, plain.URL.Host, "\x0a\x80\x20" + long},
		{"an authority", health.GRPC{Host: "shop.example:443"}, plain, path, "shop.example:443", ""},
		{"below a path", health.GRPC{}, below, "/app" + path, plain.URL.Host, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			given := http.Header{"authorization": {"Bearer x"}, "Trace-Bin": {"AAE="}, "Grpc-Timeout": {"1n"}, "Te": {"gzip"}, "Content-Type": {"text/plain"}, "Connection": {"x"}}
			tt.check.Header = given.Clone()
			require.NoError(t, probe(t, tt.check, tt.target, patience))
			r := got.Load()
			require.Equal(t, "POST HTTP/2.0", r.Method+" "+r.Proto)
			require.Equal(t, tt.path, r.RequestURI)
			require.Equal(t, tt.host, r.Host)
			require.Equal(t, string(message(tt.body)), string(r.body))
			require.Equal(t, http.Header{
				"Authorization": {"Bearer x"}, "Trace-Bin": {"AAE="}, "Te": {"trailers"}, "Content-Type": {"application/grpc"}, "User-Agent": {"stickylb-health"},
			}, withoutLength(r.Header))
			require.Equal(t, given, tt.check.Header)
		})
	}
}

func withoutLength(h http.Header) http.Header {
	h = h.Clone()
	h.Del("Content-Length")
	return h
}

func TestGRPC_B5_AnotherProtocolThanExpected(t *testing.T) {
	cert := certificate(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	old, config := protocolServer(t, func(http.ResponseWriter, *http.Request) {}, "http/1.1 over TLS")
	plain, _ := protocolServer(t, func(http.ResponseWriter, *http.Request) {}, "http/1.1")
	for name, tt := range map[string]struct {
		target balancer.Target
		check  health.GRPC
		want   string
	}{
		"HTTP/1.1 in plain text":       {plain, health.GRPC{}, "the target answers with HTTP/1 to HTTP/2"},
		"HTTP/1.1 over TLS":            {old, health.GRPC{TLS: config}, "the target broke off TLS: no application protocol"},
		"TLS without ALPN":             {backend(t, "https", withTLS(cert, hangs(""))), health.GRPC{TLS: trusting(cert)}, "the target did not choose HTTP/2, which gRPC needs, in the TLS handshake (ALPN)"},
		"an unknown authority":         {backend(t, "https", withALPN(cert, hangs(""), "h2")), health.GRPC{}, "the certificate is signed by an authority that is not trusted"},
		"refuses":                      {refusing(t, "h2c"), health.GRPC{}, "connection refused"},
		"closes":                       {backend(t, "h2c", rawFramed(func(*frames) {})), health.GRPC{}, "connection closed without an answer"},
		"resets":                       {backend(t, "h2c", resets("")), health.GRPC{}, "connection reset by the target"},
		"a service that is no text":    {plain, health.GRPC{Service: "\xff"}, `gRPC check: service "\xff" cannot be asked for`},
		"a service that is too long":   {plain, health.GRPC{Service: strings.Repeat("s", 4097)}, `gRPC check: service "` + strings.Repeat("s", 64) + `" cannot be asked for`},
		"an authority that is none":    {plain, health.GRPC{Host: "a b"}, `gRPC check: host "a b" cannot be sent`},
		"metadata that cannot be sent": {plain, health.GRPC{Header: http.Header{"A": {"\n"}}}, `gRPC check: header field "A" cannot be sent`},
	} {
		t.Run(name, func(t *testing.T) {
			require.EqualError(t, probe(t, tt.check, tt.target, patience), "health: "+tt.want)
		})
	}
	r := &health.Registry{Pool: newPool(t, target("a")), Check: health.GRPC{Service: "\xff"}}
	require.ErrorContains(t, r.Run(t.Context()), "cannot be asked for", "before it has to")
}

func TestGRPC_B5_WordsForWhatIsLate(t *testing.T) {
	for want, serve := range map[string]func(*frames){
		"no answer within 300ms": func(f *frames) {},
		"answer not complete within 300ms": func(f *frames) {
			f.header(false, ":status", "200", "content-type", "application/grpc")
			f.WriteData(1, false, message(servingMessage)) // and no status
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			dial := piped(func(conn net.Conn) {
				readHTTP2(conn)
				go io.Copy(io.Discard, conn)
				f := newFrames(conn)
				f.WriteSettings()
				serve(f)
				time.Sleep(time.Second)
			})
			err := probe(t, health.GRPC{Dial: dial}, balancer.Target{URL: &url.URL{Scheme: "h2c", Host: "127.0.0.1:1"}}, 300*time.Millisecond)
			require.EqualError(t, err, "health: "+want)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			time.Sleep(2 * time.Second)
		})
	}
}

// For any body and status, a target is healthy only with status 0 and exactly one complete message
// whose last field 1 has the value 1.
func FuzzGRPCAnswer(f *testing.F) {
	f.Add(message(servingMessage), "0", "")
	f.Add(message("\x12\x01x\x33\x34"+servingMessage), "0", "ok")
	f.Add([]byte{}, "12", "unknown %41 %")
	f.Add([]byte("\x00\xff\xff\xff\xff\x08\x01"), "0", "")
	f.Add([]byte("\x01\x00\x00\x00\x02\x08\x01"), "0", "")
	f.Fuzz(func(t *testing.T, body []byte, status, text string) {
		var answer bytes.Buffer
		w := newFrames(&answer)
		w.WriteSettings()
		says200(body, "grpc-status", status, "grpc-message", text)(w)
		check := health.GRPC{Dial: piped(func(conn net.Conn) {
			readHTTP2(conn)
			go io.Copy(io.Discard, conn)
			conn.Write(answer.Bytes())
		})}
		err := probe(t, check, balancer.Target{URL: &url.URL{Scheme: "h2c", Host: "127.0.0.1:1"}}, 10*time.Second)
		if err != nil {
			require.Regexp(t, "^health: [a-z0-9]", err.Error())
			require.Less(t, len(err.Error()), 1000)
			require.NotErrorIs(t, err, context.DeadlineExceeded)
			return
		}
		require.Regexp(t, `^0+$`, status)
		require.Equal(t, fmt.Sprintf("%08x", len(body)-5), fmt.Sprintf("%x", body[1:5]))
		require.Zero(t, body[0])
		require.Contains(t, string(body[5:]), "\x08")
	})
}
