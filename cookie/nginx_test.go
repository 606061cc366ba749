package cookie_test

import (
	"crypto"
	"crypto/fips140"
	"encoding/hex"
	"net/netip"
	"os"
	"os/exec"
	"testing"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stretchr/testify/require"
)

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// Values of both sticky modules on Linux for the same servers.
func TestInsecureNginx_C8_WorkedValues(t *testing.T) {
	for server, want := range map[string]struct{ original, ng string }{
		"127.0.0.1:9000":  {"78cbe3136c1de5b0fb7ffff44344e4f7", "44fb3a27ed30ae5193ebd879ca2cf039"},
		"127.0.0.1:9001":  {"2b46daf0ba503cbe30c3b46dfad73e0a", "422db4e6da7b4bba46bd476612df0469"},
		"192.168.0.42:80": {"705e6b2d31c61fa81c8401c3ff8b4fab", "35524be371e9a92e7c5ee185698673e4"},
		"[::1]:9000":      {"f27e9e45fa31a64c448034891166cedd", "efa3a122214a6f3159c28b90917a5dd6"},
	} {
		require.Equal(t, want.original, cookie.InsecureNginxMD5(cookie.NginxSockaddr(addr(server))), server)
		require.Equal(t, want.ng, cookie.InsecureNginxMD5(server), server)
		require.Equal(t, want.ng, cookie.InsecureNginxMD5(addr(server).String()), "nginx's own")
	}
	const server = "127.0.0.1:9000"
	require.Equal(t, "97c906d3c1bbecd1d8f22c9a0d0f19e910806532", cookie.InsecureNginxSHA1(cookie.NginxSockaddr(addr(server))))
	require.Equal(t, "70bacfa8e44a0929dddd31d0b9d78164e8cbfba5", cookie.InsecureNginxSHA1(server))
}

func TestNginxHMAC_C8_WorkedValues(t *testing.T) {
	const server = "127.0.0.1:9000"
	for _, tt := range []struct {
		hash         crypto.Hash
		original, ng string
	}{
		{crypto.MD5, "a6be828c23ff20057fa705b59af5b8ca", "8c0ab9326f337bc7fe923c9b9cd5ddf7"},
		{crypto.SHA1, "f1825685448d82ea292d35ad8e3c6bada3a64d39", "cab4c1e8bb2377d8a81a998e09f44f45286ab925"},
	} {
		c, err := cookie.NewNginxHMAC(cookie.NginxHMACOptions{Hash: tt.hash, Key: "secret"})
		require.NoError(t, err)
		for input, want := range map[string]string{cookie.NginxSockaddr(addr(server)): tt.original, server: tt.ng} {
			require.NoError(t, c.Store(map[string]string{"app-1": input}))
			require.Equal(t, want, encode(t, c, cookie.Ticket{Target: "app-1"}))
			got, err := c.Decode(want)
			require.NoError(t, err)
			require.Equal(t, cookie.Ticket{Target: "app-1"}, got)
		}
		_, err = c.Decode(cookie.InsecureNginxMD5(server))
		require.ErrorIs(t, err, cookie.ErrUnknownTarget, "a value without the key")
	}
}

func TestNginxHMAC_Refuses(t *testing.T) {
	for _, hash := range []crypto.Hash{0, crypto.SHA256, 99} {
		_, err := cookie.NewNginxHMAC(cookie.NginxHMACOptions{Hash: hash, Key: "secret"})
		require.Error(t, err)
	}
	_, err := cookie.NewNginxHMAC(cookie.NginxHMACOptions{Hash: crypto.MD5, Key: ""})
	require.Error(t, err)
	c, err := cookie.NewNginxHMAC(cookie.NginxHMACOptions{Hash: crypto.MD5, Key: "secret"})
	require.NoError(t, err)
	require.Error(t, c.Store(map[string]string{"app-1": ""}))
	require.Error(t, c.Store(map[string]string{"app-1": "same", "app-2": "same"}))
	require.Error(t, c.Store(map[string]string{"": "x"}))
}

func TestNginxSockaddr(t *testing.T) {
	for server, want := range map[string]string{
		"127.0.0.1:9000":         "020023287f0000010000000000000000",
		"[::1]:9000":             "0a0023280000000000000000000000000000000000000001" + "00000000",
		"[fe80::1%eth0]:80":      "0a00005000000000fe800000000000000000000000000001" + "00000000",
		"[::ffff:10.0.0.1]:8080": "0a001f900000000000000000000000000000ffff0a000001" + "00000000",
	} {
		require.Equal(t, want, hex.EncodeToString([]byte(cookie.NginxSockaddr(addr(server)))), server)
	}
	require.Empty(t, cookie.NginxSockaddr(netip.AddrPort{}))
}

func TestInsecureNginxIndex(t *testing.T) {
	require.Equal(t, map[string]string{"b": "0", "a": "1", "c": "2"}, cookie.InsecureNginxIndex("b", "a", "c"))
	require.Empty(t, cookie.InsecureNginxIndex())
}

// Under GODEBUG=fips140=only the constructor refuses nginx's HMACs, and nothing panics.
func TestNginx_FIPS(t *testing.T) {
	if !fips140.Enforced() {
		cmd := exec.Command(os.Args[0], "-test.run=^TestNginx_FIPS$", "-test.v")
		cmd.Env = append(os.Environ(), "GODEBUG=fips140=only")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "--- PASS: TestNginx_FIPS")
		return
	}
	require.Len(t, cookie.InsecureNginxMD5("10.0.0.1:80"), 32)
	require.Len(t, cookie.InsecureNginxSHA1("10.0.0.1:80"), 40)
	for _, hash := range []crypto.Hash{crypto.MD5, crypto.SHA1} {
		_, err := cookie.NewNginxHMAC(cookie.NginxHMACOptions{Hash: hash, Key: "a key of more than fourteen octets"})
		require.ErrorContains(t, err, "FIPS")
	}
}
