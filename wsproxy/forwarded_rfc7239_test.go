package wsproxy_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
)

var tenNet = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}

// from is a request of the trusted peer 10.0.0.1 with these header lines.
func from(header string, lines ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://app.example/", nil)
	r.RemoteAddr = "10.0.0.1:80"
	if lines != nil {
		r.Header[header] = lines
	}
	return r
}

func TestProxy_W7_ForwardedIsRead(t *testing.T) {
	tests := map[string]struct {
		lines []string
		want  string
	}{
		"nearest untrusted, not the leftmost": {[]string{"for=1.1.1.1, for=203.0.113.9, for=10.0.0.2"}, "203.0.113.9"},
		"over several lines":                  {[]string{"for=1.1.1.1, for=203.0.113.9", "for=10.0.0.2"}, "203.0.113.9"},
		"all trusted":                         {[]string{"for=10.0.0.3, for=10.0.0.2"}, "10.0.0.3"},
		"all parameters":                      {[]string{`For=203.0.113.9;PROTO=https;host="a, b;c";By="[::1]:80";ext="\"x\\"`}, "203.0.113.9"},
		"space around delimiters":             {[]string{"\tfor=203.0.113.9 ; proto=http , for=10.0.0.2 "}, "203.0.113.9"},
		"empty parameters":                    {[]string{";for=203.0.113.9;;proto=http;"}, "203.0.113.9"},
		"quoted IPv4":                         {[]string{`for="203.0.113.9"`}, "203.0.113.9"},
		"escaped":                             {[]string{`for="2\03.0.113.9"`}, "203.0.113.9"},
		"IPv4 with a port":                    {[]string{`for="203.0.113.9:4711"`}, "203.0.113.9"},
		"IPv4 with an obfuscated port":        {[]string{`for="203.0.113.9:_po.rt-"`}, "203.0.113.9"},
		"IPv6":                                {[]string{`for="[2001:db8::9]"`}, "2001:db8::9"},
		"IPv6 with a port":                    {[]string{`for="[2001:db8::9]:4711"`}, "2001:db8::9"},
		"mapped":                              {[]string{`for="[::ffff:203.0.113.9]"`}, "203.0.113.9"},

		"unknown ends the walk":                {[]string{"for=203.0.113.9, for=unknown, for=10.0.0.2"}, "10.0.0.2"},
		"obfuscated ends the walk":             {[]string{"for=203.0.113.9, for=_hidden, for=10.0.0.2"}, "10.0.0.2"},
		"nobody ends the walk":                 {[]string{"for=203.0.113.9, proto=https, for=10.0.0.2"}, "10.0.0.2"},
		"an empty element at the end":          {[]string{"for=203.0.113.9,"}, "203.0.113.9"},
		"empty elements everywhere":            {[]string{",for=203.0.113.9, ,;", ","}, "203.0.113.9"},
		"a line that is wrong ends the walk":   {[]string{"for=203.0.113.9", `for=203.0.113.8;x="`, "for=10.0.0.2"}, "10.0.0.2"},
		"an empty line":                        {[]string{""}, "10.0.0.1"},
		"a quote that swallows":                {[]string{`for=6.6.6.6;x=", for="[2001:db8::1]"`}, "10.0.0.1"},
		"a quote that swallows another":        {[]string{`for=6.6.6.6;x=", for=203.0.113.9;host="a";by="b"`}, "10.0.0.1"},
		"backslash at the end":                 {[]string{`for="203.0.113.9\`}, "10.0.0.1"},
		"control character":                    {[]string{"for=\"203.0.113.9\";x=\"\x01\""}, "10.0.0.1"},
		"twice for":                            {[]string{"for=203.0.113.9;for=203.0.113.8"}, "10.0.0.1"},
		"twice another":                        {[]string{"for=203.0.113.9;ext=1;Ext=2"}, "10.0.0.1"},
		"no value":                             {[]string{"for=203.0.113.9;proto="}, "10.0.0.1"},
		"no name":                              {[]string{"for=203.0.113.9;=http"}, "10.0.0.1"},
		"no equals sign":                       {[]string{"203.0.113.9"}, "10.0.0.1"},
		"space around the equals sign":         {[]string{"for =203.0.113.9"}, "10.0.0.1"},
		"space within":                         {[]string{"for=203.0.113.9 proto=http"}, "10.0.0.1"},
		"something after a quote":              {[]string{`for="203.0.113.9"x`}, "10.0.0.1"},
		"IPv6 without quotes":                  {[]string{"for=[2001:db8::9]"}, "10.0.0.1"},
		"IPv6 without brackets":                {[]string{`for="2001:db8::9"`}, "10.0.0.1"},
		"IPv4 in brackets":                     {[]string{`for="[203.0.113.9]"`}, "10.0.0.1"},
		"bracket left open":                    {[]string{`for="[2001:db8::9"`}, "10.0.0.1"},
		"zone":                                 {[]string{`for="[fe80::1%eth0]"`}, "10.0.0.1"},
		"port that is none":                    {[]string{`for="203.0.113.9:"`}, "10.0.0.1"},
		"port out of range":                    {[]string{`for="203.0.113.9:65536"`}, "10.0.0.1"},
		"port of six digits":                   {[]string{`for="203.0.113.9:000080"`}, "10.0.0.1"},
		"port with a sign":                     {[]string{`for="203.0.113.9:+80"`}, "10.0.0.1"},
		"obfuscated port that is none":         {[]string{`for="203.0.113.9:_"`}, "10.0.0.1"},
		"obfuscated port with what is no part": {[]string{`for="203.0.113.9:_a b"`}, "10.0.0.1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := from("Forwarded", tt.lines...)
			p := &wsproxy.Proxy{Trusted: tenNet, RFC7239: true}
			require.Equal(t, tt.want, p.ClientAddr(r).String())
			_, client := forward(t, p, r)
			require.Equal(t, tt.want, client.String())
		})
	}
}

// Both headers, one of which the peer may have let through from its client.
func TestProxy_W7_HeadersThatDisagree(t *testing.T) {
	tests := map[string]struct{ forwarded, list, want string }{
		"agree":                       {"for=203.0.113.9", "203.0.113.9", "203.0.113.9"},
		"agree beyond what is forged": {"for=1.1.1.1, for=203.0.113.9", "2.2.2.2, 203.0.113.9", "203.0.113.9"},
		"agree but for the port":      {`for="203.0.113.9:1"`, "203.0.113.9:2", "203.0.113.9"},
		"disagree":                    {"for=203.0.113.9", "203.0.113.8", "10.0.0.1"},
		"one goes further":            {"for=203.0.113.9, for=10.0.0.2", "10.0.0.2", "10.0.0.1"},
		"one is hidden":               {"for=_hidden", "203.0.113.9", "10.0.0.1"},
		"one cannot be read":          {`for="`, "203.0.113.9", "10.0.0.1"},
		"the other cannot be read":    {"for=203.0.113.9", "somebody", "10.0.0.1"},
		"one is empty":                {"", "203.0.113.9", "10.0.0.1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := from("Forwarded", tt.forwarded)
			r.Header.Set("X-Forwarded-For", tt.list)
			_, client := forward(t, &wsproxy.Proxy{Trusted: tenNet, RFC7239: true}, r)
			require.Equal(t, tt.want, client.String())
			_, client = forward(t, &wsproxy.Proxy{Trusted: tenNet}, r)
			alone, _ := forward(t, &wsproxy.Proxy{Trusted: tenNet}, from("X-Forwarded-For", tt.list))
			require.Equal(t, alone.Get("X-Forwarded-For"), tt.list+", 10.0.0.1")
			require.Equal(t, (&wsproxy.Proxy{Trusted: tenNet}).ClientAddr(from("X-Forwarded-For", tt.list)), client,
				"Forwarded is not asked for")
		})
	}
}

// bindings notes whether policies are told that the client's connection is TLS.
type bindings struct{ tls bool }

func (b *bindings) Lookup(_ *http.Request, found []stickiness.Candidate) []stickiness.Candidate {
	return found
}
func (b *bindings) Bind(binding *stickiness.Binding) { b.tls = binding.TLS }

func TestProxy_W7_WhetherTheClientHasTLS(t *testing.T) {
	tests := map[string]struct {
		remote           string
		tls              bool
		proto, forwarded string
		want             bool
	}{
		"no":                             {"10.0.0.1:1", false, "", "", false},
		"here":                           {"203.0.113.9:1", true, "", "", true},
		"here, whatever a stranger says": {"203.0.113.9:1", true, "http", "for=1.1.1.1;proto=http", true},
		"a stranger says so":             {"203.0.113.9:1", false, "https", "for=1.1.1.1;proto=https", false},
		"the peer says so":               {"10.0.0.1:1", false, "https", "", true},
		"the peer says so in a list":     {"10.0.0.1:1", false, "WSS, http", "", true},
		"the peer says no":               {"10.0.0.1:1", true, "http", "", false},
		"Forwarded says so":              {"10.0.0.1:1", false, "", "for=1.1.1.1;proto=HTTPS", true},
		"Forwarded says no":              {"10.0.0.1:1", true, "", "for=1.1.1.1;proto=http", false},
		"Forwarded says nothing":         {"10.0.0.1:1", true, "", "for=1.1.1.1", true},
		"where the client was met":       {"10.0.0.1:1", false, "", "for=9.9.9.9;proto=http, for=1.1.1.1;proto=https, for=10.0.0.2;proto=http", true},
		"both say so":                    {"10.0.0.1:1", false, "https", "for=1.1.1.1;proto=https", true},
		"they disagree":                  {"10.0.0.1:1", true, "http", "for=1.1.1.1;proto=https", false},
		"they disagree otherwise":        {"10.0.0.1:1", true, "https", "for=1.1.1.1;proto=http", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "http://app.example/", nil)
			r.RemoteAddr = tt.remote
			if tt.tls {
				r.TLS = &tls.ConnectionState{}
			}
			for name, value := range map[string]string{"X-Forwarded-Proto": tt.proto, "Forwarded": tt.forwarded} {
				if value != "" {
					r.Header.Set(name, value)
				}
			}
			var policy bindings
			forward(t, &wsproxy.Proxy{Trusted: tenNet, RFC7239: true, Policy: &policy}, r)
			require.Equal(t, tt.want, policy.tls)
		})
	}
}

// A line that cannot be read does not swallow ours.
func TestProxy_W7_ForwardedBehindWhatIsWrong(t *testing.T) {
	seen, _ := forward(t, &wsproxy.Proxy{Trusted: tenNet, RFC7239: true}, from("Forwarded", `for="`))
	require.Equal(t, []string{`for="`, "for=10.0.0.1;proto=http;host=app.example"}, seen["Forwarded"])
	seen, _ = forward(t, &wsproxy.Proxy{Trusted: tenNet, RFC7239: true}, from("Forwarded", "for=1.1.1.1", "for=2.2.2.2"))
	require.Equal(t, []string{"for=1.1.1.1, for=2.2.2.2, for=10.0.0.1;proto=http;host=app.example"}, seen["Forwarded"])
}

func TestProxy_W7_PortOfAnotherListener(t *testing.T) {
	tests := map[string]struct {
		proto, host, port, want string
	}{
		"nothing told":                  {"", "", "", "80"},
		"told":                          {"https", "front.example", "8443", "8443"},
		"https":                         {"https", "", "", "443"},
		"http":                          {"http", "", "", "80"},
		"wss":                           {"wss", "front.example", "", "443"},
		"another scheme":                {"gopher", "front.example", "", ""},
		"host with a port":              {"https", "front.example:8443", "", "8443"},
		"host without one":              {"", "front.example", "", "80"},
		"lists, the first of which was": {"https, http", "front.example:8443, back.example:1", "", "8443"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := from("X-Forwarded-For", "203.0.113.9")
			for name, value := range map[string]string{"Proto": tt.proto, "Host": tt.host, "Port": tt.port} {
				if value != "" {
					r.Header.Set("X-Forwarded-"+name, value)
				}
			}
			seen, _ := forward(t, &wsproxy.Proxy{Trusted: tenNet}, r)
			require.Equal(t, tt.want, seen.Get("X-Forwarded-Port"))
		})
	}
}

func ExampleProxy_ClientAddr() {
	lb := &wsproxy.Proxy{Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	limited := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("the client is", lb.ClientAddr(r)) // a limit for each client would go here, then lb.ServeHTTP(w, r)
	})
	r := httptest.NewRequest(http.MethodGet, "http://app.example/", nil)
	r.Header.Set("X-Forwarded-For", "6.6.6.6, 203.0.113.9")
	r.RemoteAddr = "10.0.0.1:4711"
	limited.ServeHTTP(httptest.NewRecorder(), r)
	r.RemoteAddr = "198.51.100.7:4711"
	limited.ServeHTTP(httptest.NewRecorder(), r)
	// Output:
	// the client is 203.0.113.9
	// the client is 198.51.100.7
}

// FuzzForwarded sends Forwarded through two proxies of ours. However it looks, what each of them adds to it is read by
// the next as it was meant, and nobody is believed whom no trusted peer has named.
func FuzzForwarded(f *testing.F) {
	for _, seed := range []string{
		"for=203.0.113.9", `for="[2001:db8::9]:80";proto=https;host="a\"b"`, `for=1.1.1.1;x=", for="[::1]"`, "for=_a, for=unknown",
		`for="`, `;,;`, "for=10.0.0.2,for=203.0.113.9", "", `for="\`, "for=10.0.0.3;proto=https\r\n",
	} {
		f.Add(seed, "app.example")
	}
	f.Add("for=1.1.1.1", `a"b\c`)
	pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{target("b1", "http://b1.test")}})
	require.NoError(f, err)
	var sent http.Header
	p := &wsproxy.Proxy{Pool: pool, Trusted: tenNet, RFC7239: true, Logger: noLog,
		Transport: roundTripper(func(out *http.Request) (*http.Response, error) {
			sent = out.Header
			return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Header: http.Header{}, Request: out}, nil
		})}
	f.Fuzz(func(t *testing.T, line, host string) {
		r := from("Forwarded", line)
		r.Host = host
		client := p.ClientAddr(r)
		require.True(t, client.IsValid())
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		if w.Code != http.StatusOK { // the host is none
			return
		}
		next := from("Forwarded", sent["Forwarded"]...)
		next.RemoteAddr = "10.0.0.9:80" // which is the proxy above
		require.Equal(t, client, p.ClientAddr(next), "%q", sent["Forwarded"])
		next.Header["X-Forwarded-For"] = sent["X-Forwarded-For"]
		require.Equal(t, client, p.ClientAddr(next), "%q and %q", sent["Forwarded"], sent["X-Forwarded-For"])
		next.RemoteAddr = "192.0.2.1:80"
		require.Equal(t, "192.0.2.1", p.ClientAddr(next).String())

		strict := wsproxy.Proxy{Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}, RFC7239: true}
		if strict.ClientAddr(r) != netip.MustParseAddr("10.0.0.1") {
			require.Contains(t, strings.ToLower(line), "for=")
		}
	})
}
