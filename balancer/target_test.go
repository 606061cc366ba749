package balancer_test

import (
	"log/slog"
	"net/url"
	"testing"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stretchr/testify/require"
)

func TestNew_Targets(t *testing.T) {
	tests := map[string]struct {
		url     string
		id, out string
	}{
		"http":                {"http://a", "a:80", "http://a"},
		"https":               {"https://a", "a:443", "https://a"},
		"ws is http":          {"ws://a", "a:80", "http://a"},
		"wss is https":        {"wss://a", "a:443", "https://a"},
		"scheme in capitals":  {"WSS://a", "a:443", "https://a"},
		"h2c":                 {"h2c://a", "a:80", "h2c://a"},
		"tcp":                 {"tcp://a:6379", "a:6379", "tcp://a:6379"},
		"port":                {"http://a:8080", "a:8080", "http://a:8080"},
		"path":                {"http://a/base/", "a:80", "http://a/base"},
		"IPv6":                {"http://[::1]", "[::1]:80", "http://[::1]"},
		"IPv6 with port":      {"https://[2001:db8::1]:8443", "[2001:db8::1]:8443", "https://[2001:db8::1]:8443"},
		"IPv6 with zone":      {"http://[fe80::1%25eth0]", "[fe80::1%eth0]:80", "http://[fe80::1%25eth0]"},
		"empty port is none":  {"https://a:", "a:443", "https://a"},
		"escaped path":        {"http://a/x%2Fy", "a:80", "http://a/x%2Fy"},
		"largest port":        {"http://a:65535", "a:65535", "http://a:65535"},
		"host in capitals":    {"http://A", "a:80", "http://a"},
		"tcp with bare slash": {"tcp://a:1/", "a:1", "tcp://a:1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, balancer.Config{Targets: []balancer.Target{{URL: parse(t, tt.url)}}})
			got := p.Members()[0].Target()
			require.Equal(t, tt.id, got.ID)
			require.Equal(t, tt.out, got.URL.String())
			require.Equal(t, 1, got.Weight)
		})
	}
}

func TestNew_TargetsRefused(t *testing.T) {
	ok := &url.URL{Scheme: "http", Host: "a"}
	tests := map[string]struct {
		targets []balancer.Target
		say     string
	}{
		"zone, no name":      {[]balancer.Target{{URL: ok, ForZones: []string{"a", ""}}}, "a zone in ForZones has no name"},
		"label, no name":     {[]balancer.Target{{URL: ok, Labels: map[string]string{"": "x"}}}, "a label has no name"},
		"neither URL nor ID": {[]balancer.Target{{}}, `target 0 (""): neither a URL nor an ID`},
		"Addr, no URL":       {[]balancer.Target{{ID: "x", Addr: "127.0.0.1:1"}}, `an Addr needs a URL`},
		"ServerName, no URL": {[]balancer.Target{{ID: "x", ServerName: "x"}}, `a ServerName and a Certificate need a URL`},
		"scheme":             {[]balancer.Target{{URL: parse(t, "ftp://a")}}, `scheme "ftp"`},
		"no scheme":          {[]balancer.Target{{URL: parse(t, "//a")}}, `no scheme: write "http://a"`},
		"no host":            {[]balancer.Target{{URL: parse(t, "http:///x")}}, "no host"},
		"port only":          {[]balancer.Target{{URL: parse(t, "http://:80")}}, "no host"},
		"opaque":             {[]balancer.Target{{URL: parse(t, "http:a")}}, "no host"},
		"user":               {[]balancer.Target{{URL: parse(t, "http://u@a")}}, "user information"},
		"query":              {[]balancer.Target{{URL: parse(t, "http://a?x=1")}}, "query"},
		"empty query":        {[]balancer.Target{{URL: parse(t, "http://a?")}}, "query"},
		"fragment":           {[]balancer.Target{{URL: parse(t, "http://a#x")}}, "fragment"},
		"tcp without port":   {[]balancer.Target{{URL: parse(t, "tcp://a")}}, "needs a port"},
		"tcp with path":      {[]balancer.Target{{URL: parse(t, "tcp://a:1/x")}}, "path"},
		"port 0":             {[]balancer.Target{{URL: parse(t, "http://a:0")}}, `port "0"`},
		"port too large":     {[]balancer.Target{{URL: parse(t, "http://a:65536")}}, `port "65536"`},
		"heavy":              {[]balancer.Target{{URL: ok, Weight: 1<<20 + 1}}, "weight 1048577"},
		"requests negative":  {[]balancer.Target{{URL: ok, MaxRequests: -1}}, "limit"},
		"tunnels negative":   {[]balancer.Target{{URL: ok, MaxTunnels: -1}}, "limit"},
		"same ID":            {[]balancer.Target{{ID: "x", URL: ok}, {ID: "x", URL: parse(t, "http://b")}}, `target 1 ("x")`},
		"same default ID":    {[]balancer.Target{{URL: ok}, {URL: parse(t, "http://a:80/x")}}, `target 1 ("a:80")`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := balancer.New(balancer.Config{Targets: tt.targets})
			require.ErrorContains(t, err, "balancer: ")
			require.ErrorContains(t, err, tt.say)

			p := newPool(t, balancer.Config{Targets: targets(1)})
			before := p.Members()
			require.ErrorContains(t, p.Update(tt.targets...), tt.say)
			require.Equal(t, before, p.Members(), "nothing has changed")
		})
	}
}

// A URL without a scheme, or with a slash too few, is parsed into something else. The error says
// what to write, and does not repeat a password.
func TestNew_B3_URLsThatLackTheirBeginning(t *testing.T) {
	tests := map[string]string{
		"localhost:3000":          `no scheme: write "http://localhost:3000"`,
		"localhost:3000/":         `no scheme: write "http://localhost:3000"`,
		"app.example:8080/base":   `no scheme: write "http://app.example:8080/base"`,
		"LOCALHOST:3000":          `no scheme: write "http://localhost:3000"`,
		"localhost":               `no scheme: write "http://localhost"`,
		"app.example/base":        `no scheme: write "http://app.example/base"`,
		"//app.example":           `no scheme: write "http://app.example"`,
		"//app.example:81/base":   `no scheme: write "http://app.example:81/base"`,
		"//[::1]:81":              `no scheme: write "http://[::1]:81"`,
		"//user:secret@app:81":    `no scheme: write "http://app:81"`,
		"":                        "the URL is empty",
		"/base":                   "neither a scheme nor a host",
		"http:app:80":             `no host: write "http://app:80"`,
		"http:app":                `no host: write "http://app"`,
		"http:/app":               `no host: write "http://app"`,
		"wss:/app/base":           `no host: write "wss://app/base"`,
		"http:///app":             `no host: write "http://app"`,
		"HTTP://":                 "the URL has no host",
		"http:":                   "the URL has no host",
		"http:user:secret@app":    "the URL has no host",
		"http:/user:secret@app/":  "the URL has no host",
		"user:secret@app":         `scheme "user" is none of http`,
		"unix:/run/app.sock":      `a Unix socket is an Addr, "unix:/path", beside a URL`,
		"unix:///run/app.sock":    `a Unix socket is an Addr`,
		"unix:app.sock":           `a Unix socket is an Addr`,
		"localhost:99999":         `scheme "localhost" is none of http`,
		"mailto:root@app.example": `scheme "mailto" is none of http`,
		"redis://localhost:6379":  `scheme "redis" is none of http`,
		"localhost:":              `scheme "localhost" is none of http`,
	}
	for in, say := range tests {
		t.Run(in, func(t *testing.T) {
			_, err := balancer.New(balancer.Config{Targets: []balancer.Target{{ID: "x", URL: parse(t, in)}}})
			require.ErrorContains(t, err, `balancer: target 0 ("x"): `)
			require.ErrorContains(t, err, say)
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

func TestNew_ConfigRefused(t *testing.T) {
	tests := map[string]balancer.Config{
		"nil pointer":          {Picker: (*balancer.Maglev)(nil)},
		"nil func":             {Picker: pickFunc(nil)},
		"logger of nothing":    {Logger: new(slog.Logger)},
		"logger of a nil":      {Logger: slog.New((*slog.TextHandler)(nil))},
		"OneZone without Zone": {OneZone: true},
		"SlowStart":            {SlowStart: -1},
		"Queue":                {Queue: -1},
		"QueueTimeout":         {QueueTimeout: -1},
		"Panic":                {Panic: balancer.PanicClosed + 1},
		"threshold below 0":    {PanicThreshold: -1},
		"threshold above 100":  {PanicThreshold: 101},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := balancer.New(c)
			require.ErrorContains(t, err, "balancer: ")
			require.Nil(t, p)
		})
	}
}

// pickFunc is a picker that is a func.
type pickFunc func(q *balancer.Request, s *balancer.Snapshot) *balancer.Member

func (f pickFunc) Pick(q *balancer.Request, s *balancer.Snapshot) *balancer.Member { return f(q, s) }

func TestPool_ObserveRefusesNil(t *testing.T) {
	p := newPool(t, balancer.Config{Targets: targets(1)})
	for _, o := range []balancer.Observer{nil, (*log)(nil)} {
		require.PanicsWithValue(t, "balancer: Observe of a nil Observer", func() { p.Observe(o) })
	}
}

// The caller's URL is its own: neither does the pool change it nor see it changed.
func TestNew_CopiesURL(t *testing.T) {
	u := parse(t, "ws://a:81")
	p := newPool(t, balancer.Config{Targets: []balancer.Target{{URL: u}}})
	require.Equal(t, "ws", u.Scheme)
	u.Host = "b"
	require.Equal(t, "a:81", p.Members()[0].Target().URL.Host)
}

// Nobody changes the labels of a pool's target from outside, and no label is lost.
func TestPool_B3_CopiesLabels(t *testing.T) {
	labels := map[string]string{"track": "canary"}
	ts := targets(1)
	ts[0].Labels = labels
	p := newPool(t, balancer.Config{Targets: ts})
	m := p.Members()[0]
	labels["track"] = "changed"
	m.Target().Labels["track"] = "changed"
	require.Equal(t, "canary", m.Label("track"))
	require.Equal(t, map[string]string{"track": "canary"}, m.Target().Labels)
	require.Empty(t, m.Label("other"))
	require.Zero(t, testing.AllocsPerRun(10, func() { m.Label("track") }))

	normal, err := balancer.Normalize(ts...)
	require.NoError(t, err)
	normal[0].Labels["track"] = "again"
	require.Equal(t, "changed", labels["track"], "Normalize copies, too")
}

// Other labels keep the member, make a new snapshot and change nothing where they are equal.
func TestPool_B3_LabelsKeepTheMember(t *testing.T) {
	var s spy
	ts := targets(1)
	ts[0].Labels = map[string]string{"track": "canary"}
	p := newPool(t, balancer.Config{Picker: &s, Targets: ts})
	m := p.Members()[0]
	l := bound(t, p, "t00")
	pick(t, p, &balancer.Request{})
	n := len(s.rebuilt())

	ts[0].Labels = map[string]string{"track": "canary"}
	require.NoError(t, p.Update(ts...))
	pick(t, p, &balancer.Request{})
	require.Len(t, s.rebuilt(), n, "nothing has changed")

	ts[0].Labels = map[string]string{"track": "stable"}
	require.NoError(t, p.Update(ts...))
	pick(t, p, &balancer.Request{})
	require.Len(t, s.rebuilt(), n+1)
	require.Same(t, m, p.Members()[0])
	require.Equal(t, "stable", m.Label("track"))
	require.EqualValues(t, 1, m.Load())

	ts[0].Labels = map[string]string{}
	require.NoError(t, p.Update(ts...))
	require.Nil(t, m.Target().Labels)
	l.Release(balancer.Outcome{})
}
