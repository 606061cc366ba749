package balancer_test

import (
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stretchr/testify/require"
)

// spellings has URLs by the URL that the pool keeps for them. All URLs of an entry are the same
// endpoint.
var spellings = map[string][]*url.URL{
	"http://a": {
		parsed("http://a"), parsed("http://a/"), parsed("http://a:80"), parsed("http://a:80/"), parsed("http://a:"),
		parsed("http://a:080"), parsed("HTTP://A"), parsed("ws://a"), parsed("WS://A:80/"), parsed("http://a#"),
		{Scheme: "http", Host: "a"}, {Scheme: "http", Host: "a", Path: "/"}, {Scheme: "http", Host: "a", Path: "/", RawPath: "/"},
		{Scheme: "http", Host: "a", RawPath: "/ignored"}, {Scheme: "http", Host: "a", OmitHost: true},
		{Scheme: "http", Host: "a", RawFragment: "ignored"},
	},
	"https://a":      {parsed("https://a"), parsed("https://a:443"), parsed("https://A:443/"), parsed("wss://a"), parsed("wss://a:0443/")},
	"h2c://a":        {parsed("h2c://a"), parsed("h2c://a:80"), parsed("H2C://A/")},
	"tcp://a:80":     {parsed("tcp://a:80"), parsed("tcp://A:080"), parsed("tcp://a:80/"), parsed("tcp://a:80//")},
	"http://a:443":   {parsed("http://a:443"), parsed("http://a:0443/")},
	"http://a:8080":  {parsed("http://a:8080"), parsed("ws://a:8080/")},
	"http://a/app":   {parsed("http://a/app"), parsed("http://a/app/"), parsed("http://a/%61p%70"), {Scheme: "http", Host: "a", Path: "app"}},
	"http://a/app//": {parsed("http://a/app//")},
	"http://a//":     {parsed("http://a//")},
	"http://a//app":  {parsed("http://a//app"), parsed("http://a//app/")},
	"http://a/x%2Fy%C3%BC~": {
		parsed("http://a/x%2Fy%C3%BC~"), parsed("http://a/x%2fy%c3%bc~"), parsed("http://a/x%2fyü%7E"), parsed("http://a/%78%2F%79%c3%BC%7e/"),
		{Scheme: "http", Host: "a", Path: "/x/yü~", RawPath: "/x%2fy%C3%bc~"},
	},
	"http://a/x/y": {
		parsed("http://a/x/y"), {Scheme: "http", Host: "a", Path: "/x/y", RawPath: "/x%2"},
		{Scheme: "http", Host: "a", Path: "/x/y", RawPath: "/does/not/match"},
	},
	"http://a/x%2F":     {parsed("http://a/x%2F"), parsed("http://a/x%2f/")},
	"http://a/a%20b":    {parsed("http://a/a%20b"), {Scheme: "http", Host: "a", Path: "/a b"}, {Scheme: "http", Host: "a", Path: "/a b", RawPath: "/a b"}},
	"http://a/x%21":     {parsed("http://a/x%21"), {Scheme: "http", Host: "a", Path: "/x!"}},
	"http://a/x!":       {parsed("http://a/x!"), parsed("http://a/x!/")},
	"http://a/%2561":    {parsed("http://a/%2561")},
	"http://a/..":       {parsed("http://a/.."), parsed("http://a/%2e%2E/")},
	"http://a/*":        {{Scheme: "http", Host: "a", Path: "*"}, parsed("http://a/*")},
	"http://[::1]":      {parsed("http://[::1]"), parsed("http://[0:0:0:0:0:0:0:1]"), parsed("http://[0::0001]:80/")},
	"http://[::ab]":     {parsed("http://[::ab]"), parsed("http://[::AB]"), parsed("http://[::0.0.0.171]")},
	"http://[::1]:8080": {parsed("http://[::1]:8080"), parsed("http://[0::1]:8080")},
	"http://127.0.0.1":  {parsed("http://127.0.0.1"), parsed("http://[::ffff:127.0.0.1]"), parsed("http://[::FFFF:7f00:1]:80")},
	"http://[fe80::1%25eth0]": {
		parsed("http://[fe80::1%25eth0]"), parsed("http://[FE80::1%25eth0]:80"), parsed("http://[fe80:0::1%25%65th0]"),
		{Scheme: "http", Host: "[fe80::1%eth0]"},
	},
	"http://[fe80::1%25ETH0]": {parsed("http://[fe80::1%25ETH0]")},
	"http://xn--bcher-kva.example": {
		parsed("http://bücher.example"), parsed("http://BÜCHER.example:80/"), parsed("http://xn--bcher-kva.example"),
		parsed("http://XN--BCHER-KVA.example"), parsed("http://b%C3%BCcher.example"), parsed("http://bu\u0308cher。example"),
	},
	"http://a.":        {parsed("http://a."), parsed("http://A.:80/")},
	"http://a_b.c-d:1": {parsed("http://a_b.c-d:1"), parsed("http://A_B.C-D:1")},
}

func parsed(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

// told is an observer that counts changes.
type told struct{ n int }

func (*told) Released(*balancer.Member, balancer.Outcome) {}
func (o *told) Changed(*balancer.Member, balancer.State)  { o.n++ }

// An update that only changes the spelling of an endpoint changes nothing else. The target stays
// down, its load is still counted, and the octets of requests stay the same.
func TestPool_B3_AnotherSpellingIsTheSameMember(t *testing.T) {
	for kept, urls := range spellings {
		t.Run(kept, func(t *testing.T) {
			for _, id := range []string{"x", ""} {
				for _, first := range urls {
					for _, second := range urls {
						p := newPool(t, balancer.Config{Targets: []balancer.Target{{ID: id, URL: first}}})
						m := only(t, p)
						lease, err := p.Acquire(t.Context(), &balancer.Request{})
						require.NoError(t, err)
						m.SetHealth(balancer.Unhealthy)
						m.SetAdmin(balancer.Down)
						m.Eject(time.Now().Add(time.Hour))
						before := m.State()
						u := m.URL()
						require.Equal(t, kept, u.String(), first)
						changes := &told{}
						defer p.Observe(changes)()

						require.NoError(t, p.Update(balancer.Target{ID: id, URL: second}))
						require.Same(t, m, only(t, p), "%v, then %v", first, second)
						require.False(t, m.Removed())
						require.Equal(t, before, m.State())
						require.Equal(t, int64(1), m.Load())
						require.Equal(t, u, m.URL(), "%v, then %v", first, second)
						require.Zero(t, changes.n, "%v, then %v", first, second)
						lease.Release(balancer.Outcome{})
					}
				}
			}
		})
	}
}

// A URL that reaches another target, or that leads to another request, is another member.
func TestPool_B3_AnotherURLIsAnotherMember(t *testing.T) {
	for kept := range spellings {
		for other := range spellings {
			if kept == other {
				continue
			}
			p := newPool(t, balancer.Config{Targets: []balancer.Target{{ID: "x", URL: parsed(kept)}}})
			m := only(t, p)
			require.NoError(t, p.Update(balancer.Target{ID: "x", URL: parsed(other)}))
			require.NotSame(t, m, only(t, p), "%s, then %s", kept, other)
		}
	}
}

func TestPool_B3_AnotherSpellingOfTheAddrIsTheSameMember(t *testing.T) {
	tests := map[string]struct {
		addrs []string
		names []string
	}{
		"the URL's":     {addrs: []string{"", "app.example:443", "APP.example:0443"}},
		"name":          {addrs: []string{"pod.example:8443", "POD.example:08443"}},
		"international": {addrs: []string{"bücher.example:1", "xn--bcher-kva.example:1", "BÜCHER.EXAMPLE:01"}},
		"IPv6":          {addrs: []string{"[::1]:1", "[0:0:0:0:0:0:0:1]:1", "[::0001]:01"}},
		"IPv4 in IPv6":  {addrs: []string{"127.0.0.1:1", "[::ffff:127.0.0.1]:1", "[::FFFF:7F00:1]:1"}},
		"socket":        {addrs: []string{"unix:/run/app", "UNIX:/run/app", "unix:///run//app", "unix:/run/./app"}},
		"certificate's name": {
			addrs: []string{"10.0.0.1:443"},
			names: []string{"", "app.example", "APP.Example", "app.example."},
		},
		"another name":    {addrs: []string{""}, names: []string{"bücher.example", "xn--bcher-kva.example", "BÜCHER.example."}},
		"address as name": {addrs: []string{""}, names: []string{"::1", "[::1]", "0::1", "[0:0::1]"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.names == nil {
				tt.names = []string{""}
			}
			var all []balancer.Target
			for _, addr := range tt.addrs {
				for _, name := range tt.names {
					all = append(all, balancer.Target{ID: "x", URL: parsed("https://app.example"), Addr: addr, ServerName: name})
				}
			}
			for _, first := range all {
				for _, second := range all {
					p := newPool(t, balancer.Config{Targets: []balancer.Target{first}})
					m := only(t, p)
					m.SetAdmin(balancer.Down)
					network, address := m.Endpoint()
					require.NoError(t, p.Update(second))
					require.Same(t, m, only(t, p), "%+v, then %+v", first, second)
					require.Equal(t, balancer.Down, m.State().Admin)
					kept := m.Target()
					gotNetwork, gotAddress := kept.Endpoint()
					require.Equal(t, []string{network, address}, []string{gotNetwork, gotAddress})
				}
			}
		})
	}
}

// A ServerName that equals the host of the URL does not make another member.
func TestPool_B3_TheURLsHostAsServerName(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: []balancer.Target{{ID: "x", URL: parsed("https://a")}}})
	m := only(t, p)
	require.NoError(t, p.Update(balancer.Target{ID: "x", URL: parsed("https://a"), ServerName: "A"}))
	require.Same(t, m, only(t, p))
	require.Equal(t, "a", m.Target().ServerName)
}

// Two spellings of one host are one default ID, and so one target too many.
func TestNew_S15_SpellingsOfADefaultID(t *testing.T) {
	for _, hosts := range [][2]string{{"a", "A"}, {"[::1]", "[0::1]"}, {"bücher.example", "xn--bcher-kva.example"}, {"a:80", "a:080"}} {
		first, second := parsed("http://"+hosts[0]), parsed("http://"+hosts[1]+"/x")
		_, err := balancer.New(balancer.Config{Targets: []balancer.Target{{URL: first}, {URL: second}}})
		require.ErrorContains(t, err, "another target has this ID", hosts)
	}
}

func TestNew_B3_NoInternationalisedName(t *testing.T) {
	for _, host := range []string{"\u00ad", "ü_", "xn--\u00fc", "\u2024a", "a\u0000ü", strings.Repeat("ü", 300), strings.Repeat("a", 255)} {
		_, err := balancer.New(balancer.Config{Targets: []balancer.Target{{URL: &url.URL{Scheme: "http", Host: host}}}})
		require.Error(t, err, "%q", host)
	}
}

// A target that the pool has normalized does not change when it is normalized again, even after it
// was written as text and parsed.
func FuzzTarget(f *testing.F) {
	for _, urls := range spellings {
		for _, u := range urls {
			f.Add(u.Scheme, u.Host, u.Path, u.RawPath, "", "")
		}
	}
	for _, addr := range []string{"A:080", "[0::1]:1", "[::ffff:1.2.3.4]:1", "[fe80::1%a]:1", "ü:1", "unix:///a//./b", "unix:@a", "unix:/a/.."} {
		f.Add("https", "a", "", "", addr, "Ü.")
	}
	f.Add("https", "[::1", "/%", "/%2", "[", "[")
	f.Add("http", "\u3002", "/a", "%2fa", ":", "")
	f.Fuzz(func(t *testing.T, scheme, host, path, rawPath, addr, name string) {
		given := balancer.Target{
			URL:  &url.URL{Scheme: scheme, Host: host, Path: path, RawPath: rawPath},
			Addr: addr, ServerName: name,
		}
		p, err := balancer.New(balancer.Config{Targets: []balancer.Target{given}})
		if err != nil {
			return
		}
		m := only(t, p)
		kept := m.Target()
		read, err := url.Parse(kept.URL.String())
		require.NoError(t, err)
		require.Equal(t, kept.URL, read)

		network, address := kept.Endpoint()
		require.Contains(t, []string{"tcp", "unix"}, network)
		require.NotEmpty(t, address)
		require.NotEmpty(t, kept.TLSConfig(nil).ServerName)

		given.ID = m.ID()
		written := kept
		written.Addr = address
		if network == "unix" {
			written.Addr = "UNIX:" + address
		}
		capitals, slash := kept, kept
		capitals.URL, slash.URL = new(*kept.URL), new(*kept.URL)
		if !strings.Contains(kept.URL.Host, "%") {
			capitals.URL.Host = strings.ToUpper(kept.URL.Host)
		}
		if capitals.URL.RawPath != "" {
			capitals.URL.RawPath = escapes.ReplaceAllStringFunc(kept.URL.RawPath, strings.ToLower)
		}
		if !strings.HasSuffix(kept.URL.EscapedPath(), "/") {
			slash.URL.Path += "/"
			if slash.URL.RawPath != "" {
				slash.URL.RawPath += "/"
			}
		}
		for _, same := range []balancer.Target{kept, given, written, capitals, slash} {
			require.NoError(t, p.Update(same), "%+v", same)
			require.Same(t, m, only(t, p), "%+v", same)
			require.Equal(t, kept, m.Target())
		}
	})
}

// escapes are those of a URL.
var escapes = regexp.MustCompile(`%[0-9A-F]{2}`)
