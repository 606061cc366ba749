package main

import (
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHipache has the steps of its documentation, and what it answers.
func TestHipache(t *testing.T) {
	redis := startRedis(t)
	b := start(t, redis, "-debug")
	first, second := backend(t, "first"), backend(t, "second")
	require.Equal(t, "1", redis.CLI("rpush", "frontend:www.dotcloud.com", "mywebsite"))
	require.Equal(t, "2", redis.CLI("rpush", "frontend:www.dotcloud.com", first.URL))
	require.Equal(t, "3", redis.CLI("rpush", "frontend:www.dotcloud.com", second.URL))
	require.Equal(t, "mywebsite\n"+first.URL+"\n"+second.URL, redis.CLI("lrange", "frontend:www.dotcloud.com", "0", "-1"))

	list := func(name string, urls ...string) {
		redis.CLI(append([]string{"rpush", "frontend:" + name, "id of " + name}, urls...)...)
	}
	site := func(name string) string { return backend(t, name).URL }
	list("*.example.com", site("*.example.com"))
	list("exact.example.com", site("exact"))
	list("*.d.example.com", site("*.d"))
	list("*.c.d.example.com", site("*.c.d"))
	list("*.2.3.4.5.6", site("five labels"))
	list("*.1.2.3.4.5.6", site("six labels"))
	list("[::1]", site("IPv6"))
	list("10.0.0.1", site("IPv4"))
	list("empty")
	list("invalid", "http://[::1", "tcp://127.0.0.1:1", "http://a b/", "", "ftp://a/", "http://u:p@127.0.0.1:1")
	list("some.invalid", "nonsense", site("valid"), "http://%zz")
	list("dead", site("dead"))
	redis.CLI("sadd", "dead:dead", "0")
	list("nearly.dead", site("alive"), refusing(t))
	redis.CLI("sadd", "dead:nearly.dead", "1", "7", "-1", "99999999999999999999", "x", "")
	list("refuses", refusing(t))
	redis.CLI("eval", `redis.call("rpush", KEYS[1], "id", ARGV[1]) for i = 1, 10000 do redis.call("rpush", KEYS[1], "no URL " .. i) end`,
		"1", "frontend:many", site("first of many"))
	redis.CLI("eval", `for i = 1, 10000 do redis.call("sadd", KEYS[1], i) end`, "1", "dead:many")
	list("xn--mnchen-3ya.de", site("München"))
	list("under_score.net", site("underscore"))
	redis.CLI("set", "frontend:wrong.example.com", "a string")
	redis.CLI("set", "dead:exact.example.com", "a string")

	for name, tt := range map[string]struct {
		host   string
		status int
		body   string
	}{
		"exact":                       {"exact.example.com", 200, "exact"},
		"port":                        {"exact.example.com:8080", 200, "exact"},
		"capitals":                    {"EXACT.Example.COM", 200, "exact"},
		"capitals and port":           {"Exact.Example.com:80", 200, "exact"},
		"dot at the end":              {"exact.example.com.", 200, "exact"},
		"wildcard":                    {"other.example.com", 200, "*.example.com"},
		"wildcard, deeper":            {"a.b.example.com", 200, "*.example.com"},
		"best wildcard":               {"a.d.example.com", 200, "*.d"},
		"better wildcard":             {"a.c.d.example.com", 200, "*.c.d"},
		"wildcard of five labels":     {"too.deep.1.2.3.4.5.6", 200, "five labels"},
		"wildcard is not the domain":  {"example.com", 400, "no such virtual host"},
		"unknown":                     {"unknown.net", 400, "no such virtual host"},
		"IPv6":                        {"[::1]", 200, "IPv6"},
		"IPv6 and port":               {"[::1]:8080", 200, "IPv6"},
		"IPv6, another spelling":      {"[0:0::0:1]:80", 200, "IPv6"},
		"IPv4":                        {"10.0.0.1:80", 200, "IPv4"},
		"no wildcards for addresses":  {"10.1.0.1", 400, "no such virtual host"},
		"wildcard itself":             {"*.example.com", 400, "no host"},
		"star":                        {"*", 400, "no host"},
		"empty labels":                {"a..example.com", 400, "no host"},
		"another key":                 {"x:frontend:www.dotcloud.com", 400, "no host"},
		"punycode":                    {"XN--mnchen-3ya.de", 200, "München"},
		"underscore":                  {"under_score.net", 200, "underscore"},
		"ping":                        {"__ping__", 200, "ok"},
		"only the identifier":         {"empty", 502, "Bad Gateway"},
		"invalid URLs":                {"invalid", 502, "Bad Gateway"},
		"valid one among them":        {"some.invalid", 200, "valid"},
		"all dead":                    {"dead", 502, "Bad Gateway"},
		"ten thousand":                {"many", 200, "first of many"},
		"indexes that are none":       {"nearly.dead", 200, "alive"},
		"refused":                     {"refuses", 502, "Bad Gateway"},
		"wrong type, no wildcard":     {"wrong.example.com", 502, "Bad Gateway"},
		"identifier with two of them": {"www.dotcloud.com", 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := b.get(t, tt.host, "/")
			require.Equal(t, tt.status, got.status, got.body)
			if tt.body != "" {
				require.Equal(t, tt.body, got.body)
			}
			if tt.status != http.StatusOK {
				require.Empty(t, got.header["Set-Cookie"])
			}
		})
	}
	t.Run("no or broken Host header", func(t *testing.T) {
		for _, head := range []string{"HTTP/1.0\r\n", "HTTP/1.1\r\nHost:\r\n", "HTTP/1.1\r\nHost: \r\n", "HTTP/1.1\r\n",
			"HTTP/1.1\r\nHost: a\r\nHost: b\r\n", "HTTP/1.1\r\nHost: a\x0bb\r\n", "HTTP/1.1\r\nHost: a\nX: y\r\n b\r\n",
			"HTTP/1.1\r\nHost: \xff\r\n", "HTTP/1.1\r\nHost: dead:site\r\n", "HTTP/1.1\r\nHost: /\r\n"} {
			c, err := net.Dial("tcp", b.http)
			require.NoError(t, err)
			_, err = c.Write([]byte("GET / " + head + "Connection: close\r\n\r\n"))
			require.NoError(t, err)
			answer, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Regexp(t, "^HTTP/1.[01] 400 ", string(answer), "%q", head)
			require.NoError(t, c.Close())
		}
	})
	t.Run("catch-all", func(t *testing.T) {
		list("*", site("everything"))
		eventually(t, func() bool { return b.get(t, "unknown.net", "/").body == "everything" }, "it is found without a restart")
		require.Equal(t, "*.example.com", b.get(t, "other.example.com", "/").body)
		require.Equal(t, "everything", b.get(t, "10.1.0.1", "/").body)
	})
	t.Run("x-debug", func(t *testing.T) {
		got := b.get(t, "Some.Invalid:80", "/", "X-Debug", "1").header
		require.Equal(t, "id of some.invalid", got.Get("X-Debug-Vhost"))
		require.Equal(t, "some.invalid", got.Get("X-Debug-Frontend-Key"))
		require.Equal(t, "1", got.Get("X-Debug-Backend-Id"))
		require.Regexp(t, `^http://127\.0\.0\.1:\d+/$`, got.Get("X-Debug-Backend-Url"))
		require.Regexp(t, `^\d+$`, got.Get("X-Debug-Time-Total"))
		require.Regexp(t, `^\d+$`, got.Get("X-Debug-Time-Backend"))
		require.NotEmpty(t, got.Get("X-Debug-Version-Hipache"))
		require.Equal(t, "no host", b.get(t, "*", "/", "X-Debug", "1").header.Get("X-Debug-Error"))
		got = b.get(t, "dead", "/", "X-Debug", "1").header
		require.Equal(t, "no target", got.Get("X-Debug-Error"))
		require.Empty(t, got.Get("X-Debug-Backend-Url"))
		require.Empty(t, b.get(t, "some.invalid", "/").header.Get("X-Debug-Vhost"), "not asked for")
		quiet := start(t, redis)
		require.Empty(t, quiet.get(t, "some.invalid", "/", "X-Debug", "1").header.Get("X-Debug-Vhost"), "the operator does not want it")
	})
}

// The keys may have a prefix, so that one Redis serves several sets of virtual hosts.
func TestHipache_Prefix(t *testing.T) {
	redis := startRedis(t)
	replace(redis, "site", backend(t, "plain").URL)
	redis.CLI("rpush", "staging-frontend:site", "id", refusing(t), backend(t, "staging").URL)
	messages := subscribed(t, redis.Addr)
	b := start(t, redis, "-redis", "redis://"+redis.Addr+"/0#staging-")
	for len(messages) == 0 {
		require.Equal(t, "staging", b.get(t, "site", "/").body)
	}
	require.Equal(t, "0", redis.CLI("smembers", "staging-dead:site"))
	require.Equal(t, "plain", start(t, redis).get(t, "site", "/").body)
}
