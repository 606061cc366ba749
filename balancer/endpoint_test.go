package balancer_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/url"
	"runtime"
	"strings"
	"testing"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stretchr/testify/require"
)

// newCertificate returns a client certificate of its own key.
func newCertificate(t testing.TB) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// only returns the single member of p.
func only(t testing.TB, p *balancer.Pool) *balancer.Member {
	t.Helper()
	require.Len(t, p.Members(), 1)
	return p.Members()[0]
}

func TestTarget_W16_Endpoint(t *testing.T) {
	long := "/" + strings.Repeat("s", 102)
	tests := map[string]struct {
		url, addr        string
		network, address string
	}{
		"the URL's":        {"http://a", "", "tcp", "a:80"},
		"the URL's, TLS":   {"wss://a", "", "tcp", "a:443"},
		"the URL's port":   {"h2c://[::1]:81", "", "tcp", "[::1]:81"},
		"the URL's name":   {"https://Bücher.example", "", "tcp", "xn--bcher-kva.example:443"},
		"the URL's zone":   {"http://[fe80::1%25Eth0]", "", "tcp", "[fe80::1%Eth0]:80"},
		"host and port":    {"https://a", "10.0.0.1:8443", "tcp", "10.0.0.1:8443"},
		"name":             {"https://a", "Pod-1.A:08443", "tcp", "pod-1.a:8443"},
		"IPv6":             {"https://a", "[0:0::01]:1", "tcp", "[::1]:1"},
		"IPv4 in IPv6":     {"https://a", "[::ffff:10.0.0.1]:1", "tcp", "10.0.0.1:1"},
		"with a zone":      {"https://a", "[FE80::1%eth0]:1", "tcp", "[fe80::1%eth0]:1"},
		"international":    {"https://a", "BÜCHER.example:1", "tcp", "xn--bcher-kva.example:1"},
		"Unix socket":      {"https://a", "unix:/run/app.sock", "unix", "/run/app.sock"},
		"Unix, slashes":    {"http://a", "UNIX:///run//./app.sock", "unix", "/run/app.sock"},
		"Unix, parent":     {"http://a", "unix:/run/x/../app.sock", "unix", "/run/x/../app.sock"},
		"Unix, colons":     {"tcp://a:1", "unix:/run/a:1", "unix", "/run/a:1"},
		"Unix, long":       {"http://a", "unix:" + long, "unix", long},
		"Unix, capitals":   {"http://a", "unix:/Run/App", "unix", "/Run/App"},
		"same as the URL":  {"https://a", "A:443", "tcp", "a:443"},
		"port of the same": {"https://a", "a:8443", "tcp", "a:8443"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			given := balancer.Target{ID: "x", URL: parse(t, tt.url), Addr: tt.addr}
			m := only(t, newPool(t, balancer.Config{Targets: []balancer.Target{given}}))
			network, address := m.Endpoint()
			require.Equal(t, tt.network, network)
			require.Equal(t, tt.address, address)
			kept := m.Target()
			network, address = kept.Endpoint()
			require.Equal(t, tt.network, network)
			require.Equal(t, tt.address, address)
		})
	}
}

func TestTarget_W16_AbstractSocket(t *testing.T) {
	given := balancer.Target{URL: parse(t, "http://a"), Addr: "unix:@app//1"}
	p, err := balancer.New(balancer.Config{Targets: []balancer.Target{given}})
	if runtime.GOOS != "linux" {
		require.ErrorContains(t, err, "only Linux has abstract sockets")
		return
	}
	require.NoError(t, err)
	network, address := only(t, p).Endpoint()
	require.Equal(t, "unix", network)
	require.Equal(t, "@app//1", address)
}

func TestNew_W16_EndpointsRefused(t *testing.T) {
	certificate := newCertificate(t)
	tests := map[string]struct {
		target balancer.Target
		say    string
	}{
		"no port":               {balancer.Target{Addr: "10.0.0.1"}, `Addr "10.0.0.1" is neither host:port nor unix:/path`},
		"empty port":            {balancer.Target{Addr: "10.0.0.1:"}, `Addr "10.0.0.1:" has no port`},
		"port 0":                {balancer.Target{Addr: "a:0"}, `port "0" is not within 1 to 65535`},
		"port too large":        {balancer.Target{Addr: "a:65536"}, `port "65536"`},
		"port by name":          {balancer.Target{Addr: "a:https"}, `port "https"`},
		"port with a sign":      {balancer.Target{Addr: "a:+1"}, `port "+1"`},
		"no host":               {balancer.Target{Addr: ":80"}, "the host is empty"},
		"IPv6 without brackets": {balancer.Target{Addr: "::1:80"}, "neither"},
		"URL":                   {balancer.Target{Addr: "http://b:80"}, "neither"},
		"user":                  {balancer.Target{Addr: "user:secret@b:80"}, "user information"},
		"path":                  {balancer.Target{Addr: "b/x:80"}, "neither"},
		"space":                 {balancer.Target{Addr: "b b:80"}, "characters"},
		"bad name":              {balancer.Target{Addr: "ü\u200b_:80"}, "no internationalised domain name"},
		"no path":               {balancer.Target{Addr: "unix:"}, "needs the path of a socket"},
		"relative":              {balancer.Target{Addr: "unix:app.sock"}, "not absolute"},
		"relative with dot":     {balancer.Target{Addr: "unix:./app.sock"}, "not absolute"},
		"root":                  {balancer.Target{Addr: "unix:/"}, "names no socket"},
		"directory":             {balancer.Target{Addr: "unix:/run/"}, "names no socket"},
		"parent":                {balancer.Target{Addr: "unix:/run/.."}, "names no socket"},
		"too long":              {balancer.Target{Addr: "unix:/" + strings.Repeat("s", 107)}, "has 108 octets"},
		"zero octet":            {balancer.Target{Addr: "unix:/run/\x00"}, "zero octet"},
		"abstract, no name":     {balancer.Target{Addr: "unix:@"}, "abstract socket"},
		"opaque":                {balancer.Target{URL: &url.URL{Scheme: "https", Host: "a", Opaque: "b"}}, "opaque"},
		"unbracketed URL":       {balancer.Target{URL: &url.URL{Scheme: "https", Host: "::1"}}, "brackets"},
		"URL's port by name":    {balancer.Target{URL: &url.URL{Scheme: "https", Host: "a:http"}}, "brackets"},
		"URL's host":            {balancer.Target{URL: &url.URL{Scheme: "https", Host: "a b"}}, "characters"},
		"URL's brackets":        {balancer.Target{URL: &url.URL{Scheme: "https", Host: "[::1]x"}}, "host"},
		"name with port":        {balancer.Target{ServerName: "b:443"}, `ServerName "b:443"`},
		"name with zone":        {balancer.Target{ServerName: "fe80::1%eth0"}, "no zone"},
		"name of dots":          {balancer.Target{ServerName: ".."}, "ServerName"},
		"name of a dot":         {balancer.Target{ServerName: "."}, "ServerName"},
		"name, http":            {balancer.Target{URL: parse(t, "ws://a"), ServerName: "b"}, "a ServerName needs TLS, which the scheme http has not"},
		"name, h2c":             {balancer.Target{URL: parse(t, "h2c://a"), ServerName: "b"}, "a ServerName needs TLS"},
		"certificate, http":     {balancer.Target{URL: parse(t, "http://a"), Certificate: certificate}, "a Certificate needs TLS"},
		"certificate, h2c":      {balancer.Target{URL: parse(t, "h2c://a"), Certificate: certificate}, "a Certificate needs TLS"},
		"empty certificate":     {balancer.Target{Certificate: &tls.Certificate{}}, "lacks its chain or its key"},
		"no key":                {balancer.Target{Certificate: &tls.Certificate{Certificate: certificate.Certificate}}, "lacks"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.target.URL == nil {
				tt.target.URL = parse(t, "https://a")
			}
			tt.target.ID = "x"
			_, err := balancer.New(balancer.Config{Targets: []balancer.Target{tt.target}})
			require.ErrorContains(t, err, `balancer: target 0 ("x"): `)
			require.ErrorContains(t, err, tt.say)
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

// Targets of one URL have one default ID. The error says what they need.
func TestNew_W16_AddrsOfOneURLNeedIDs(t *testing.T) {
	u := parse(t, "https://app")
	_, err := balancer.New(balancer.Config{Targets: []balancer.Target{{URL: u, Addr: "10.0.0.1:443"}, {URL: u, Addr: "10.0.0.2:443"}}})
	require.ErrorContains(t, err, `target 1 ("app:443")`)
	require.ErrorContains(t, err, "several Addrs need IDs")
}

func TestPool_W16_AnotherEndpointIsAnotherMember(t *testing.T) {
	base := balancer.Target{ID: "x", URL: parse(t, "https://a"), Addr: "10.0.0.1:443", ServerName: "b"}
	tests := map[string]func(*balancer.Target){
		"another Addr":       func(t *balancer.Target) { t.Addr = "10.0.0.2:443" },
		"another port":       func(t *balancer.Target) { t.Addr = "10.0.0.1:444" },
		"a socket":           func(t *balancer.Target) { t.Addr = "unix:/run/app.sock" },
		"no Addr":            func(t *balancer.Target) { t.Addr = "" },
		"another ServerName": func(t *balancer.Target) { t.ServerName = "c" },
		"no ServerName":      func(t *balancer.Target) { t.ServerName = "" },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, balancer.Config{Targets: []balancer.Target{base}})
			was := only(t, p)
			next := base
			change(&next)
			require.NoError(t, p.Update(next))
			require.NotSame(t, was, only(t, p))
			require.True(t, was.Removed())
		})
	}
}

func TestPool_W16_AnotherCertificateIsTheSameMember(t *testing.T) {
	first, second := newCertificate(t), newCertificate(t)
	base := balancer.Target{ID: "x", URL: parse(t, "https://a")}
	p := newPool(t, balancer.Config{Targets: []balancer.Target{base}})
	m := only(t, p)
	for _, c := range []*tls.Certificate{first, second, nil, second} {
		next := base
		next.Certificate = c
		require.NoError(t, p.Update(next))
		require.Same(t, m, only(t, p))
		got := m.Target()
		require.Equal(t, c, got.Certificate)
		offered := got.TLSConfig(nil).Certificates
		if c == nil {
			require.Empty(t, offered)
		} else {
			require.Equal(t, []tls.Certificate{*c}, offered)
		}
	}
}

func TestTarget_W16_TLSConfig(t *testing.T) {
	own, other := newCertificate(t), newCertificate(t)
	choose := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return other, nil }
	base := &tls.Config{
		ServerName: "base", Certificates: []tls.Certificate{*other}, GetClientCertificate: choose,
		ClientSessionCache: tls.NewLRUClientSessionCache(1), NextProtos: []string{"x"},
	}
	plain := balancer.Target{URL: parse(t, "https://[FE80::1%25eth0]:8443")}
	require.Equal(t, "fe80::1", plain.TLSConfig(nil).ServerName, "no certificate has a zone")
	require.Equal(t, "fe80::1", plain.TLSConfig(&tls.Config{}).ServerName)

	conf := plain.TLSConfig(base)
	require.NotSame(t, base, conf)
	require.Equal(t, "base", conf.ServerName)
	require.Len(t, conf.Certificates, 1)
	require.NotNil(t, conf.GetClientCertificate)
	require.NotNil(t, conf.ClientSessionCache)

	named := balancer.Target{URL: plain.URL, ServerName: "Bücher.example", Certificate: own}
	conf = named.TLSConfig(base)
	require.Equal(t, "xn--bcher-kva.example", conf.ServerName)
	require.Equal(t, []tls.Certificate{*own}, conf.Certificates)
	require.Nil(t, conf.GetClientCertificate)
	require.Nil(t, conf.ClientSessionCache, "a session would go on with the other certificate")
	require.Equal(t, []string{"x"}, conf.NextProtos)
	require.Equal(t, "base", base.ServerName, "the caller's stays as it is")
}

// Member.Target returns a copy.
func TestMember_B3_TargetIsACopy(t *testing.T) {
	certificate := newCertificate(t)
	given := balancer.Target{URL: parse(t, "https://a/x"), Certificate: certificate}
	m := only(t, newPool(t, balancer.Config{Targets: []balancer.Target{given}}))
	got := m.Target()
	got.URL.Host, got.URL.Path = "b", "/y"
	got.Certificate.Certificate[0], got.Certificate.PrivateKey = nil, nil
	u := m.URL()
	require.Equal(t, "https://a/x", u.String())
	require.Equal(t, "https://a/x", m.Target().URL.String())
	require.NotNil(t, m.Target().Certificate.Certificate[0])
	require.NotNil(t, m.Target().Certificate.PrivateKey)
	require.NotNil(t, certificate.Certificate[0], "the caller's stays as it is")
}

func TestMember_URLAndEndpointDoNotAllocate(t *testing.T) {
	m := only(t, newPool(t, balancer.Config{Targets: []balancer.Target{{URL: parse(t, "https://a/x"), Addr: "unix:/s"}}}))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		u := m.URL()
		network, address := m.Endpoint()
		if len(u.Host)+len(network)+len(address) == 0 {
			t.Error("nothing")
		}
	}))
}

// A member's TLSRevision changes with what TLSConfig returns, and with nothing else.
func TestMember_W16_TLSRevision(t *testing.T) {
	u, err := url.Parse("https://app.internal")
	require.NoError(t, err)
	first, second := newCertificate(t), newCertificate(t)
	target := balancer.Target{ID: "a", URL: u, Certificate: first}
	pool, err := balancer.New(balancer.Config{Targets: []balancer.Target{target}})
	require.NoError(t, err)
	m, _ := pool.Member("a")
	steps := []struct {
		change  func()
		changes bool
	}{
		{func() {}, false},
		{func() { target.Weight = 3 }, false},
		{func() { target.Certificate = new(*first) }, false},
		{func() { target.Certificate = second }, true},
		{func() { target.ServerName = "app.internal" }, true}, // it now replaces the name of the tls.Config
		{func() { target.Certificate = nil }, true},
	}
	for i, step := range steps {
		before := m.TLSRevision()
		step.change()
		require.NoError(t, pool.Update(target))
		require.Equal(t, step.changes, m.TLSRevision() != before, i)
	}
	now, _ := pool.Member("a")
	require.Same(t, m, now)
}
