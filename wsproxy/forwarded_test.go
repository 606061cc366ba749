package wsproxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// addrPicker notes the client's address that a picker is told.
type addrPicker struct{ client netip.Addr }

func (p *addrPicker) Pick(q *balancer.Request, s *balancer.Snapshot) *balancer.Member {
	p.client = q.Client
	return s.Members()[0]
}

// forward sends one request through a proxy without a network, and gives what the backend and the
// picker saw.
func forward(t *testing.T, p *wsproxy.Proxy, r *http.Request) (http.Header, netip.Addr) {
	t.Helper()
	picker := &addrPicker{}
	pool, err := balancer.New(balancer.Config{Picker: picker, Targets: []balancer.Target{target("b1", "http://b1.test")}})
	require.NoError(t, err)
	var seen http.Header
	p.Pool = pool
	p.Transport = roundTripper(func(out *http.Request) (*http.Response, error) {
		seen = out.Header
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Header: http.Header{}, Request: out}, nil
	})
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	require.Equal(t, http.StatusOK, w.Code)
	return seen, picker.client
}

func TestProxy_W7_ForwardedModes(t *testing.T) {
	const peer = "192.0.2.7:4711"
	trusted := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	sent := http.Header{
		"X-Forwarded-For":   {"203.0.113.9"},
		"X-Forwarded-Proto": {"https"},
		"X-Forwarded-Host":  {"front.example"},
		"X-Real-Ip":         {"203.0.113.9"},
	}
	own := map[string]string{
		"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "app.example", "X-Forwarded-Port": "80",
	}
	tests := map[string]struct {
		proxy  *wsproxy.Proxy
		remote string
		sent   http.Header
		want   map[string]string // forwarding headers that the backend sees, all of them
		client string
	}{
		"append, untrusted":    {&wsproxy.Proxy{}, peer, sent, own, "192.0.2.7"},
		"append, nothing sent": {&wsproxy.Proxy{Trusted: trusted}, peer, nil, own, "192.0.2.7"},
		"append, trusted": {&wsproxy.Proxy{Trusted: trusted}, peer, sent, map[string]string{
			"X-Forwarded-For": "203.0.113.9, 192.0.2.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "front.example",
			"X-Real-Ip": "203.0.113.9", "X-Forwarded-Port": "443", // ours is not the one that the client used
		}, "203.0.113.9"},
		"append, trusted, two lines become one": {&wsproxy.Proxy{Trusted: trusted}, peer,
			http.Header{"X-Forwarded-For": {"203.0.113.9", "192.0.2.8"}},
			map[string]string{"X-Forwarded-For": "203.0.113.9, 192.0.2.8, 192.0.2.7", "X-Forwarded-Proto": "http",
				"X-Forwarded-Host": "app.example", "X-Forwarded-Port": "80"}, "203.0.113.9"},
		"preserve, untrusted": {&wsproxy.Proxy{Forwarded: wsproxy.ForwardedPreserve}, peer, sent, map[string]string{}, "192.0.2.7"},
		"preserve, trusted": {&wsproxy.Proxy{Forwarded: wsproxy.ForwardedPreserve, Trusted: trusted}, peer, sent,
			map[string]string{"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https",
				"X-Forwarded-Host": "front.example", "X-Real-Ip": "203.0.113.9"}, "203.0.113.9"},
		"remove, trusted": {&wsproxy.Proxy{Forwarded: wsproxy.ForwardedRemove, Trusted: trusted}, peer, sent,
			map[string]string{}, "203.0.113.9"},
		"append, IPv6": {&wsproxy.Proxy{RFC7239: true}, "[2001:db8::17%eth0]:4711", nil, map[string]string{
			"X-Forwarded-For": "2001:db8::17", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "app.example",
			"X-Forwarded-Port": "80", "Forwarded": `for="[2001:db8::17]";proto=http;host=app.example`,
		}, "2001:db8::17%eth0"},
		"append, IPv4 in IPv6": {&wsproxy.Proxy{}, "[::ffff:192.0.2.7]:4711", nil, own, "192.0.2.7"},
		"append, RFC 7239, trusted": {&wsproxy.Proxy{RFC7239: true, Trusted: trusted}, peer,
			http.Header{"Forwarded": {"for=203.0.113.9;proto=https"}}, map[string]string{
				"X-Forwarded-For": "203.0.113.9, 192.0.2.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "app.example",
				"X-Forwarded-Port": "443",
				"Forwarded":        "for=203.0.113.9;proto=https, for=192.0.2.7;proto=http;host=app.example",
			}, "203.0.113.9"},
		"append, RFC 7239, trusted peer that does not know it": {&wsproxy.Proxy{RFC7239: true, Trusted: trusted}, peer,
			http.Header{"X-Forwarded-For": {"2001:4860::9"}, "X-Forwarded-Proto": {"https"}}, map[string]string{
				"X-Forwarded-For": "2001:4860::9, 192.0.2.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "app.example",
				"X-Forwarded-Port": "443",
				"Forwarded":        `for="[2001:4860::9]";proto=https, for=192.0.2.7;proto=http;host=app.example`,
			}, "2001:4860::9"},
		"append, RFC 7239, with the host": {&wsproxy.Proxy{RFC7239: true, Trusted: trusted}, peer,
			http.Header{"Forwarded": {`for="203.0.113.9:99";host="front.example:8443"`}}, map[string]string{
				"X-Forwarded-For": "203.0.113.9, 192.0.2.7", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "front.example:8443",
				"X-Forwarded-Port": "8443",
				"Forwarded":        `for="203.0.113.9:99";host="front.example:8443", for=192.0.2.7;proto=http;host=app.example`,
			}, "203.0.113.9"},
		"append, RFC 7239 not asked for": {&wsproxy.Proxy{Trusted: trusted}, peer,
			http.Header{"Forwarded": {"for=203.0.113.9;proto=https"}}, map[string]string{
				"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "app.example",
				"X-Forwarded-Port": "80", "Forwarded": "for=203.0.113.9;proto=https",
			}, "192.0.2.7"},
		"preserve, RFC 7239, trusted": {&wsproxy.Proxy{RFC7239: true, Trusted: trusted, Forwarded: wsproxy.ForwardedPreserve}, peer,
			http.Header{"Forwarded": {"for=203.0.113.9"}}, map[string]string{"Forwarded": "for=203.0.113.9"}, "203.0.113.9"},
		"remove, RFC 7239, trusted": {&wsproxy.Proxy{RFC7239: true, Trusted: trusted, Forwarded: wsproxy.ForwardedRemove}, peer,
			http.Header{"Forwarded": {"for=203.0.113.9"}}, map[string]string{}, "203.0.113.9"},
		"append, Unix socket": {&wsproxy.Proxy{RFC7239: true}, "@", sent, map[string]string{
			"X-Forwarded-Proto": "http", "X-Forwarded-Host": "app.example", "X-Forwarded-Port": "80",
			"Forwarded": "for=unknown;proto=http;host=app.example",
		}, "invalid IP"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "http://app.example/", nil)
			r.RemoteAddr = tt.remote
			maps.Copy(r.Header, tt.sent)
			before := r.Header.Clone()
			seen, client := forward(t, tt.proxy, r)
			got := map[string]string{}
			for name, values := range seen {
				if name == "Forwarded" || strings.HasPrefix(name, "X-") {
					require.Len(t, values, 1, name)
					got[name] = values[0]
				}
			}
			require.Equal(t, tt.want, got)
			require.Equal(t, tt.client, client.String())
			require.Equal(t, before, r.Header, "the inbound request is never edited")
		})
	}
}

func TestProxy_W7_UntrustedForwardingHeadersAreDropped(t *testing.T) {
	names := []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port",
		"X-Forwarded-Prefix", "X-Forwarded-Server", "X-Forwarded-Client-Cert", "X-Real-Ip", "X-Client-Ip",
		"X-Cluster-Client-Ip", "X-Envoy-External-Address", "X-Original-Forwarded-For", "X-Original-Host",
		"X-Original-Proto", "X-Proxyuser-Ip", "X-Scheme", "X-Url-Scheme", "True-Client-Ip", "Cf-Connecting-Ip",
		"Fastly-Client-Ip", "Front-End-Https", "X_forwarded_for", "X_real_ip", "X-Forwarded_for", "X.forwarded.for",
		"Forwarded-For", "Fly-Client-Ip", "X-Azure-Clientip", "X-Azure-Socketip", "X-Appengine-User-Ip", "Proxy",
		"X_azure_clientip", "Fly_client_ip", "X!forwarded~for"}
	for _, mode := range []wsproxy.ForwardedMode{wsproxy.ForwardedAppend, wsproxy.ForwardedPreserve, wsproxy.ForwardedRemove} {
		for _, name := range names {
			r := httptest.NewRequest(http.MethodGet, "http://app.example/", nil)
			r.Header[name] = []string{"forged"}
			r.Header["X-Request-Id"] = []string{"kept"}
			seen, client := forward(t, &wsproxy.Proxy{Forwarded: mode, RFC7239: true}, r)
			for _, values := range seen {
				require.NotContains(t, strings.Join(values, " "), "forged", name)
			}
			require.Equal(t, "kept", seen.Get("X-Request-Id"))
			require.Equal(t, "192.0.2.1", client.String(), "httptest's address")
		}
	}
}

func TestProxy_W7_ClientAddressBehindTrustedPeers(t *testing.T) {
	tests := map[string]struct {
		lines []string
		want  string
	}{
		"nearest untrusted, not the leftmost": {[]string{"1.1.1.1, 203.0.113.9, 10.0.0.2"}, "203.0.113.9"},
		"over several lines":                  {[]string{"1.1.1.1, 203.0.113.9", "10.0.0.2"}, "203.0.113.9"},
		"all trusted":                         {[]string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		"none":                                {nil, "10.0.0.1"},
		"unreadable ends the walk":            {[]string{"203.0.113.9, unknown, 10.0.0.2"}, "10.0.0.2"},
		"empty element at the end":            {[]string{"203.0.113.9,"}, "203.0.113.9"},
		"empty elements everywhere":           {[]string{" ,, 203.0.113.9 ,\t, 10.0.0.2", "", ","}, "203.0.113.9"},
		"nothing but empty elements":          {[]string{" , ,", ""}, "10.0.0.1"},
		"with a port":                         {[]string{"203.0.113.9:1234"}, "203.0.113.9"},
		"IPv6":                                {[]string{"2001:db8::9"}, "2001:db8::9"},
		"IPv6 with a port":                    {[]string{"[2001:db8::9]:1234"}, "2001:db8::9"},
		"IPv6 in brackets":                    {[]string{"[2001:db8::9]"}, "2001:db8::9"},
		"bracket left open":                   {[]string{"[2001:db8::9"}, "10.0.0.1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "http://app.example/", nil)
			r.RemoteAddr = "10.0.0.1:80"
			if tt.lines != nil {
				r.Header["X-Forwarded-For"] = tt.lines
			}
			_, client := forward(t, &wsproxy.Proxy{Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, r)
			require.Equal(t, tt.want, client.String())
		})
	}
}

// What a backend behind CGI reads as a header that matters passes from nobody; other names with
// underscores do.
func TestProxy_W7_DisguisedNamesAreDropped(t *testing.T) {
	disguised := []string{"Transfer_encoding", "Content_length", "Content.length", "Content_type", "Keep_alive", "Proxy_connection",
		"User_agent", "Sec_websocket_key", "Sec-Fetch_site", "Proxy_authorization", "Http2_settings", "X_forwarded_proto"}
	for _, trusted := range [][]netip.Prefix{nil, {netip.MustParsePrefix("192.0.2.0/24")}} {
		for _, name := range disguised {
			r := httptest.NewRequest(http.MethodGet, "http://app.example/", nil)
			r.Header = http.Header{name: {"forged"}, "X_user_id": {"kept"}, "X-Api.key": {"kept"}, "Sec_": {"gone"}}
			seen, _ := forward(t, &wsproxy.Proxy{Trusted: trusted}, r)
			require.NotContains(t, seen, name)
			require.NotContains(t, seen, "Sec_")
			require.Equal(t, []string{"kept"}, seen["X_user_id"])
			require.Equal(t, []string{"kept"}, seen["X-Api.key"])
		}
	}
}

// What a peer on a Unix socket says is believed if TrustUnix says so, over HTTP and in a PROXY
// header.
func TestProxy_W7_TrustUnix(t *testing.T) {
	for name, tt := range map[string]struct {
		http, proxy bool // trusted
		proto       string
		want        string
		forwarded   string
	}{
		"nobody":             {want: "invalid IP"},
		"HTTP":               {http: true, want: "203.0.113.9", forwarded: "203.0.113.9"},
		"PROXY":              {proxy: true, proto: "PROXY TCP4 203.0.113.7 10.0.0.9 4711 80\r\n", want: "203.0.113.7", forwarded: "203.0.113.7"},
		"PROXY of the peer":  {http: true, proxy: true, proto: "PROXY UNKNOWN\r\n", want: "203.0.113.9", forwarded: "203.0.113.9"},
		"PROXY of a client":  {http: true, proxy: true, proto: "PROXY TCP4 203.0.113.7 10.0.0.9 4711 80\r\n", want: "203.0.113.7", forwarded: "203.0.113.7"},
		"PROXY, not trusted": {proxy: true, proto: "PROXY UNKNOWN\r\n", want: "invalid IP"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, "a", nil)
			picker := &addrPicker{}
			pool, err := balancer.New(balancer.Config{Picker: picker, Targets: []balancer.Target{b.target()}})
			require.NoError(t, err)
			under, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
			require.NoError(t, err)
			srv := &http.Server{Handler: &wsproxy.Proxy{Pool: pool, Logger: noLog, TrustUnix: tt.http}, ErrorLog: discardLog}
			t.Cleanup(func() { srv.Close() })
			go srv.Serve(&proxyproto.Listener{Listener: under, TrustUnix: tt.proxy, Logger: noLog})
			conn, err := net.Dial("unix", under.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			io.WriteString(conn, tt.proto+"GET / HTTP/1.1\r\nHost: app.example\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, res.StatusCode)
			require.Equal(t, tt.want, picker.client.String())
			require.Equal(t, tt.forwarded, b.header().Get("X-Forwarded-For"))
		})
	}
}

func TestProxy_W7_ConnectionNamesNoProtectedHeaderAway(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "http://app.example/", nil)
	r.Header = http.Header{
		"Connection":             {"close, Cookie, authorization", "X-Forwarded-For, origin, X-Hop, sec-websocket-protocol"},
		"Cookie":                 {"a=b"},
		"Authorization":          {"Basic Zm9v"},
		"Origin":                 {"http://app.example"},
		"Sec-Websocket-Protocol": {"chat"},
		"X-Hop":                  {"gone"},
	}
	seen, _ := forward(t, &wsproxy.Proxy{}, r)
	require.Equal(t, "a=b", seen.Get("Cookie"))
	require.Equal(t, "Basic Zm9v", seen.Get("Authorization"))
	require.Equal(t, "http://app.example", seen.Get("Origin"))
	require.Equal(t, "chat", seen.Get("Sec-Websocket-Protocol"))
	require.Equal(t, "192.0.2.1", seen.Get("X-Forwarded-For"))
	require.NotContains(t, seen, "X-Hop")
	require.NotContains(t, seen, "Connection")
}

// An empty element is none where the list goes on, nor does one reach the backend where lines meet.
func TestProxy_W7_EmptyElementsAreNotPassedOn(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "http://app.example/", nil)
	r.RemoteAddr = "10.0.0.1:80"
	r.Header["X-Forwarded-For"] = []string{"203.0.113.9,", ",", "10.0.0.2 ,"}
	r.Header["Forwarded"] = []string{"for=203.0.113.9,", "for=10.0.0.2 , ,"}
	seen, client := forward(t, &wsproxy.Proxy{Trusted: tenNet, RFC7239: true}, r)
	require.Equal(t, "203.0.113.9", client.String())
	require.Equal(t, []string{"203.0.113.9, 10.0.0.2, 10.0.0.1"}, seen["X-Forwarded-For"])
	require.Equal(t, []string{"for=203.0.113.9, for=10.0.0.2, for=10.0.0.1;proto=http;host=app.example"}, seen["Forwarded"])
}

// A trusted prefix may be written as IPv4-mapped IPv6.
func TestProxy_W7_MappedPrefixes(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "http://app.example/", nil)
	r.RemoteAddr = "[::ffff:10.0.0.1]:80"
	r.Header.Set("X-Forwarded-For", "203.0.113.9, 10.255.0.1")
	_, client := forward(t, &wsproxy.Proxy{Trusted: []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}}, r)
	require.Equal(t, "203.0.113.9", client.String())
}

func TestProxy_W7_ProtoAndPortOfTLS(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "https://app.example:8443/", nil)
	r.TLS = &tls.ConnectionState{}
	seen, _ := forward(t, &wsproxy.Proxy{RFC7239: true}, r)
	require.Equal(t, "https", seen.Get("X-Forwarded-Proto"))
	require.Equal(t, "8443", seen.Get("X-Forwarded-Port"))
	require.Equal(t, `for=192.0.2.1;proto=https;host="app.example:8443"`, seen.Get("Forwarded"))
}

// The port is the listener's, whatever Host ends with.
func TestProxy_W7_PortOfTheListener(t *testing.T) {
	tests := map[string]struct {
		port       int
		host, want string
	}{
		"the one in Host":         {8080, "app.example:8080", "8080"},
		"a longer one in Host":    {80, "app.example:8080", "80"},
		"a shorter one in Host":   {18080, "app.example:8080", "18080"},
		"another one in Host":     {8080, "app.example:81", "8080"},
		"none in Host":            {8080, "app.example", "8080"},
		"digits at the end":       {8080, "app8080", "8080"},
		"the default of https":    {443, "app.example", "443"},
		"no Host":                 {65535, "", "65535"},
		"an address that ends so": {9, "[2001:db8::9", "9"},
		"none":                    {0, "app.example", "0"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := from("")
			r.Host = tt.host
			local := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: tt.port}
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
			seen, _ := forward(t, &wsproxy.Proxy{}, r)
			require.Equal(t, []string{tt.want}, seen["X-Forwarded-Port"])
		})
	}
}

func TestProxy_W7_HostPreservedOrRewritten(t *testing.T) {
	b := newBackend(t, "a", nil)
	for _, rewritten := range []bool{false, true} {
		pool, _ := newPool(t, b.target())
		p := &wsproxy.Proxy{Pool: pool}
		want := "app.example:8080"
		if rewritten {
			want = b.addr
			p.Target = func(out *http.Request, m *balancer.Member) { out.Host = m.Target().URL.Host }
		}
		c := newClient(t, serve(t, p))
		require.Equal(t, http.StatusOK, c.get("/", "Host: app.example:8080").StatusCode)
		require.Equal(t, want, b.request().Host)
		require.Equal(t, "app.example:8080", b.header().Get("X-Forwarded-Host"), "what the client asked for")
	}
}

func TestIsForwardingHeader(t *testing.T) {
	for name, want := range map[string]bool{
		"Forwarded": true, "X-Forwarded-For": true, "x-forwarded-anything": true, "x-real-ip": true, "PROXY": true,
		"": false, "X": false, "Via": false, "X-Request-Id": false, "Client": false, "Cookie": false,
	} {
		require.Equal(t, want, wsproxy.IsForwardingHeader(name), name)
	}
}

// The doc of IsForwardingHeader, the table behind it and the function have the same names.
func TestIsForwardingHeader_W7_ListIsComplete(t *testing.T) {
	code, err := os.ReadFile("headernames.go")
	require.NoError(t, err)
	_, doc, _ := strings.Cut(string(code), "begin with X-Forwarded, and these:")
	doc, table, _ := strings.Cut(doc, "var forwardingHeaders")
	doc, _, _ = strings.Cut(doc, "func IsForwardingHeader")
	table, _, _ = strings.Cut(table, "\n}")
	doc = regexp.MustCompile(`\([^)]*\)`).ReplaceAllString(doc, "")

	documented := regexp.MustCompile(`[A-Z][A-Za-z0-9-]+`).FindAllString(doc, -1)
	var listed []string
	for _, match := range regexp.MustCompile(`"([^"]+)":`).FindAllStringSubmatch(table, -1) {
		listed = append(listed, match[1])
	}
	require.Greater(t, len(listed), 30)
	require.ElementsMatch(t, listed, documented)
	for _, name := range listed {
		require.True(t, wsproxy.IsForwardingHeader(name), name)
	}
}
