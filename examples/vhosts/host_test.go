package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCandidates(t *testing.T) {
	for host, want := range map[string]string{
		"www.dotcloud.com": "www.dotcloud.com *.dotcloud.com *.com *",
		"too.deep.quuux.foo.bar.baz.qux.quux": "too.deep.quuux.foo.bar.baz.qux.quux *.foo.bar.baz.qux.quux " +
			"*.bar.baz.qux.quux *.baz.qux.quux *.qux.quux *.quux *",
		"localhost": "localhost *",
		"10.0.0.1":  "10.0.0.1 *",
		"[::1]":     "[::1] *",
		"":          "*",
	} {
		require.Equal(t, want, strings.Join(candidates(host), " "))
	}
}

func TestNormalize_Refuses(t *testing.T) {
	for _, host := range []string{"", ":80", ".", "a..b", ".a", "a b", "a\nb", "a\r\nb", "*", "*.a", "a:b:c", "[::1", "::1",
		"[::1%25eth0]", "[1.2.3.4]", "münchen.de", "a/b", "a:80:90", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a",
		"dead:a", "a\x00b", "[]", "a..", "%41"} {
		require.Empty(t, normalize(host), "%q", host)
	}
}

// FuzzNormalize feeds what clients send as their host.
func FuzzNormalize(f *testing.F) {
	for _, host := range []string{"www.dotcloud.com:80", "A.b.", "[::FFFF:1.2.3.4]:1", "*", "a\n", "[fe80::1%a]", "1.2.3.4", "a.b.c.d.e.f.g.h"} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		name := normalize(host)
		if name == "" {
			return
		}
		require.Equal(t, name, normalize(name), "one spelling")
		require.Equal(t, name, normalize(name+":1"))
		require.NotContains(t, name, "*")
		require.Empty(t, strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.[]:"))
		names := candidates(name)
		require.LessOrEqual(t, len(names), wildcardLabels+1)
		require.Equal(t, name, names[0])
		require.Equal(t, "*", names[len(names)-1])
	})
}
