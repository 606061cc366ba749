package peertest_test

import (
	"crypto"
	_ "embed"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
)

// nginxScript is what nginx runs: its packages have no sticky module, so that it computes the
// values in JavaScript.
//
//go:embed testdata/sticky.js
var nginxScript string

// nginxModule is that of the package libnginx-mod-http-js.
const nginxModule = "/usr/lib/nginx/modules/ngx_http_js_module.so"

// An nginxMode is one way to make a server's value.
type nginxMode struct{ input, hash, key string }

func (m nginxMode) String() string { return strings.Trim(m.input+" "+m.hash+" "+m.key, " ") }

// codec returns our values of these servers.
func (m nginxMode) codec(t *testing.T, all []backend) cookie.Codec {
	t.Helper()
	var ids []string
	inputs := make(map[string]string)
	for _, b := range all {
		ids = append(ids, b.id)
		inputs[b.id] = b.addr
		if m.input == "sockaddr" {
			inputs[b.id] = cookie.NginxSockaddr(netip.MustParseAddrPort(b.addr))
		}
	}
	if m.key != "" {
		hash := map[string]crypto.Hash{"md5": crypto.MD5, "sha1": crypto.SHA1}[m.hash]
		codec, err := cookie.NewNginxHMAC(cookie.NginxHMACOptions{Hash: hash, Key: m.key})
		require.NoError(t, err)
		require.NoError(t, codec.Store(inputs))
		return codec
	}
	var codec cookie.InsecureTable
	digest := map[string]func(string) string{"md5": cookie.InsecureNginxMD5, "sha1": cookie.InsecureNginxSHA1}[m.hash]
	if digest == nil {
		require.NoError(t, codec.Store(cookie.InsecureNginxIndex(ids...)))
		return &codec
	}
	for id, input := range inputs {
		inputs[id] = digest(input)
	}
	require.NoError(t, codec.Store(inputs))
	return &codec
}

// A session bound through nginx continues here, and the other way round, for every way to make a
// value.
func TestNginx_SessionsContinue(t *testing.T) {
	all := newBackends(t, "app-1", "app-2")
	all = append(all, newBackendAt(t, "app-3", listen(t, lastFamily(t))))
	modes := []nginxMode{{"", "index", ""}}
	for _, input := range []string{"text", "sockaddr"} {
		for _, hash := range []string{"md5", "sha1"} {
			modes = append(modes, nginxMode{input, hash, ""}, nginxMode{input, hash, "secret"})
		}
	}
	addrs := startNginx(t, modes, all)
	for i, m := range modes {
		t.Run(m.String(), func(t *testing.T) {
			o := stickiness.LBCookieOptions{Name: "route", Codec: m.codec(t, all), CORS: stickiness.CORSNever}
			o.KeepInRequest = true
			policy, err := stickiness.NewLBCookie(o)
			require.NoError(t, err)
			proxy := newProxy(t, policy, all[0].target(), all[1].target(), all[2].target())
			both := map[string]string{"nginx": addrs[i], "stickylb": serveProxy(t, proxy)}
			kept := func(first answer) []string {
				require.Len(t, first.SetCookie, 1)
				line, _, _ := strings.Cut(first.SetCookie[0], ";")
				return []string{line}
			}
			continues(t, both, "/", kept, "app-1", "app-2", "app-3")
			for name, addr := range both {
				require.Len(t, ask(t, addr, "/", "route=unknown").SetCookie, 1, name)
			}
		})
	}
}

// startNginx starts a listener for each mode, and returns their addresses.
func startNginx(t *testing.T, modes []nginxMode, all []backend) (addrs []string) {
	t.Helper()
	path := program(t, "nginx")
	if _, err := os.Stat(nginxModule); err != nil {
		missing(t, "libnginx-mod-http-js")
	}
	var upstream, names, listeners strings.Builder
	for _, b := range all {
		fmt.Fprintf(&upstream, "server %s; ", b.addr)
		fmt.Fprintf(&names, "%s ", b.addr)
	}
	for _, m := range modes {
		addrs = append(addrs, newAddr(t))
		fmt.Fprintf(&listeners, `
	server {
		listen %s;
		set $input "%s"; set $hash "%s"; set $key "%s";
		location / {
			proxy_pass http://$pass;
			add_header Set-Cookie $binding always;
		}
	}`, addrs[len(addrs)-1], m.input, m.hash, m.key)
	}
	dir := t.TempDir()
	conf := fmt.Sprintf(`
	js_import sticky.js;
	js_set $bound sticky.bound;
	js_set $binding sticky.binding;
	map $bound $pass { "" app; default $bound; }
	map "" $servers { default "%s"; }
	upstream app { %s}
%s
`, strings.TrimSpace(names.String()), &upstream, &listeners)
	file := nginxConf(t, dir, "load_module "+nginxModule+";", conf)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sticky.js"), []byte(nginxScript), 0o600))
	start(t, addrs[len(addrs)-1], path, "-p", dir, "-c", file)
	return addrs
}
