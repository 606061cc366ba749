package balancer_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
)

func TestParseTargets(t *testing.T) {
	app := func(id, host string) balancer.Target {
		return balancer.Target{ID: id, URL: &url.URL{Scheme: "http", Host: host}, Weight: 1}
	}
	full := balancer.Target{ID: "a", URL: &url.URL{Scheme: "https", Host: "app.internal", Path: "/base"},
		Addr: "10.0.0.1:443", ServerName: "inner.example", Weight: 2, Zone: "eu", ForZones: []string{"eu", "us"}, Backup: true, MaxRequests: 10, MaxTunnels: 20}
	tests := map[string]struct {
		texts []string
		want  []balancer.Target
	}{
		"none":            {nil, nil},
		"no text":         {[]string{"", " \n\t"}, nil},
		"URL":             {[]string{"http://a:81"}, []balancer.Target{app("a:81", "a:81")}},
		"ID":              {[]string{"one=http://a:81"}, []balancer.Target{app("one", "a:81")}},
		"ID with a port":  {[]string{"a:81=http://a:81"}, []balancer.Target{app("a:81", "a:81")}},
		"several texts":   {[]string{"one=http://a", "two=http://b"}, []balancer.Target{app("one", "a"), app("two", "b")}},
		"several, a file": {[]string{"one=http://a\r\n\ttwo=http://b\n"}, []balancer.Target{app("one", "a"), app("two", "b")}},
		"every option": {[]string{"a=https://App.internal:443/base/;addr=10.0.0.1:443;server-name=inner.example;" +
			"weight=2;zone=eu;for-zones=eu,us;backup;max-requests=10;max-tunnels=20"}, []balancer.Target{full}},
		"Unix socket": {[]string{"a=http://b;addr=unix:/run/app=1.sock"},
			[]balancer.Target{{ID: "a", URL: &url.URL{Scheme: "http", Host: "b"}, Addr: "unix:/run/app=1.sock", Weight: 1}}},
		"labels": {[]string{"a=http://b;label.track=canary;label.app.kubernetes.io/name=a=b;label.empty="},
			[]balancer.Target{{ID: "a", URL: &url.URL{Scheme: "http", Host: "b"}, Weight: 1,
				Labels: map[string]string{"track": "canary", "app.kubernetes.io/name": "a=b", "empty": ""}}}},
		"drained": {[]string{"a=http://b;weight=-1"},
			[]balancer.Target{{ID: "a", URL: &url.URL{Scheme: "http", Host: "b"}, Weight: -1}}},
		"= in the path": {[]string{"http://b/x=y"},
			[]balancer.Target{{ID: "b:80", URL: &url.URL{Scheme: "http", Host: "b", Path: "/x=y"}, Weight: 1}}},
		"; in the path": {[]string{"http://b/x%3By"},
			[]balancer.Target{{ID: "b:80", URL: &url.URL{Scheme: "http", Host: "b", Path: "/x;y"}, Weight: 1}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := balancer.ParseTargets(tt.texts...)
			require.NoError(t, err)
			require.Len(t, got, len(tt.want))
			for i := range got {
				require.Equal(t, tt.want[i].String(), got[i].String())
				require.Equal(t, tt.want[i].URL.Path, got[i].URL.Path)
				u := got[i].URL
				got[i].URL, tt.want[i].URL = nil, nil
				require.Equal(t, tt.want[i], got[i])
				got[i].URL = u
			}
			again, err := balancer.ParseTargets(texts(got)...)
			require.NoError(t, err)
			require.Equal(t, got, again)
		})
	}
}

// texts returns the targets as text, each by itself.
func texts(targets []balancer.Target) []string {
	var all []string
	for _, t := range targets {
		all = append(all, t.String())
	}
	return all
}

func TestParseTargets_Refused(t *testing.T) {
	tests := map[string]struct{ text, say string }{
		"no scheme":              {"localhost:3000", `target 0 (""): the URL has no scheme: write "http://localhost:3000"`},
		"no scheme, address":     {"127.0.0.1:9", `the URL has no scheme: write "http://127.0.0.1:9"`},
		"no scheme, ID":          {"a=127.0.0.1:9", `target 0 ("a"): the URL has no scheme: write "http://127.0.0.1:9"`},
		"no scheme, option":      {"localhost:3000;weight=2", `the URL has no scheme: write "http://localhost:3000"`},
		"no URL":                 {"a=", `target 0 ("a"): the URL is empty`},
		"no URL, options":        {";weight=2", "the URL is empty"},
		"IPv6":                   {"http://[::1", "not a URL: "},
		"second":                 {"http://a http://b http://", `target 2 (""): the URL has no host`},
		"scheme":                 {"ftp://a", `scheme "ftp"`},
		"empty ID":               {"=http://a", "the ID before the = is empty"},
		"comma in the ID":        {"a,b=http://a", "the ID has a comma"},
		"control in the ID":      {"a\x00b=http://a", "unprintable"},
		"one ID twice":           {"a=http://a a=http://b", `target 1 ("a"): another target has this ID`},
		"one URL twice":          {"http://a http://A:80/", `target 1 ("a:80"): another target has this ID`},
		"empty option":           {"http://a;", `the option "" is none of addr, server-name, weight, zone, for-zones, max-requests, max-tunnels, backup, label.NAME`},
		"unknown option":         {"http://a;Weight=2", `the option "Weight" is none of `},
		"option twice":           {"http://a;weight=2;weight=3", "the option weight is there twice"},
		"option without a value": {"http://a;zone", "the option zone needs a value"},
		"option, empty value":    {"http://a;zone=", "the option zone needs a value"},
		"backup with a value":    {"http://a;backup=false", "the option backup has no value"},
		"label without a name":   {"http://a;label.=x", "the option label. lacks the label's name"},
		"label without a value":  {"http://a;label.x", "the option label.x needs a value"},
		"label twice":            {"http://a;label.x=1;label.x=2", "the option label.x is there twice"},
		"weight 0":               {"http://a;weight=0", `weight "0" is neither -1 nor a number from 1 on`},
		"weight, negative":       {"http://a;weight=-2", `weight "-2" is neither`},
		"weight, words":          {"http://a;weight=heavy", `weight "heavy" is neither`},
		"weight, too large":      {"http://a;weight=1048577", "weight 1048577 is above 1048576"},
		"limit 0":                {"http://a;max-requests=0", `max-requests "0" is not a number from 1 on`},
		"limit, negative":        {"http://a;max-tunnels=-1", `max-tunnels "-1" is not a number from 1 on`},
		"addr":                   {"http://a;addr=b", "addr"},
		"server name, no TLS":    {"http://a;server-name=b", "a ServerName needs TLS"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := balancer.ParseTargets(tt.text)
			require.ErrorContains(t, err, "balancer: target ")
			require.Contains(t, strings.ToLower(err.Error()), strings.ToLower(tt.say))
			require.Nil(t, got)
		})
	}
	for _, text := range []string{"http://me:secret@a", "http://me:secret@a:port", "me:secret@a:1", "http://me:secret@[::1",
		"me:secret@a", "a=me:sec ret@b", "http://me:%secret@a", "http://me:secret;x@a", "http://me:x;secret@a",
		"http://me:1;weight=secret@a", "http://me:1;secret=x@a", "ftp://me:secret;@a", "me:secret=x@a", "me:1;secret@a",
		"http://me:secret x@a", "a=http://me:secret%zz x@a", "http://me:secret[;x@a",
		"http://a;server-name=me:secret@b", "http://a;server-name=me:secret%@b"} {
		_, err := balancer.ParseTargets(text)
		require.Error(t, err, text)
		require.NotContains(t, err.Error(), "secret", text)
	}
}

func FuzzParseTargets(f *testing.F) {
	for _, text := range []string{"", "http://a", "a=http://b b=http://a", "a=https://b/c;addr=d:1;server-name=e;weight=2;zone=z;for-zones=z,y;backup;max-requests=3;max-tunnels=4",
		"localhost:3000", "a=tcp://[::1]:1;addr=unix:@x;weight=-1", "http://b/x%3By=%20", "wss://BÜCHER.example", "a=b=http://c", "http://me:secret@a",
		"http://a/\"%3B", "http://a;label.x/y.z=1=2;label.a=", "http://a;label.", "http://a;label.x"} { // a path with an invalid escape must not lose its %3B
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		targets, err := balancer.ParseTargets(text)
		if err != nil {
			require.Nil(t, targets)
			return
		}
		require.Len(t, targets, len(strings.Fields(text)))
		_, err = balancer.New(balancer.Config{Targets: targets})
		require.NoError(t, err)
		again, err := balancer.ParseTargets(texts(targets)...)
		require.NoError(t, err, "%q", texts(targets))
		require.Equal(t, texts(targets), texts(again)) // compares texts, because String writes %3B for a semicolon
	})
}
