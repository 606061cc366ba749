package peertest_test

import (
	"crypto/tls"
	"fmt"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// The client's address and port arrive through any two proxies in a row, ours and others: with both versions, both
// families of addresses, and TLS that ends at the first.
func TestProxyProtocol_W8_TwoHops(t *testing.T) {
	p := newPKI(t)
	const all = "send-proxy-v2 proxy-v2-options ssl,cert-cn,authority,unique-id,crc32c"
	kinds := []struct {
		name    string
		start   func(t *testing.T, p *pki, hops []hop)
		options string
		version int
	}{
		{"HAProxy v1", startHAProxy, "send-proxy", 0},
		{"HAProxy v2", startHAProxy, "send-proxy-v2", 0},
		{"HAProxy v2 and all", startHAProxy, all, 0},
		{"nginx", startNginxStream, "", 0},
		{"Proxy v1", startProxy, "", 1},
		{"Proxy v2", startProxy, "", 2},
		{"Server v1", startStream, "", 1},
		{"Server v2", startStream, "", 2},
	}
	hops := make([][]hop, len(kinds))
	var chains []chain
	var ends []*end
	for _, family := range families(t) {
		ipv6 := family == "IPv6"
		e := newEnd(t, listen(t, addrOf(t, ipv6)), true, nil)
		ends = append(ends, e)
		for i, second := range kinds {
			back := hop{addr: addrOf(t, ipv6), to: e.addr, accept: true, options: second.options, version: second.version}
			hops[i] = append(hops[i], back)
			for j, first := range kinds {
				withTLS := (i+j)%2 == 1 != ipv6 // each of them in one family, and plain in the other
				front := hop{addr: addrOf(t, ipv6), to: back.addr, tls: withTLS, options: first.options, version: first.version}
				hops[j] = append(hops[j], front)
				chains = append(chains, chain{fmt.Sprintf("%s, %s, %s, tls=%v", first.name, second.name, family, withTLS), front.addr, withTLS})
			}
		}
	}
	for i, k := range kinds {
		k.start(t, p, hops[i])
	}
	for _, c := range chains {
		t.Run(c.name, func(t *testing.T) {
			got, client := c.ask(t, p, "")
			require.Equal(t, client, got.Addr)
		})
	}
	for _, e := range ends {
		require.Empty(t, e.refusals())
	}
}

// What HAProxy tells besides the addresses is understood.
func TestProxyProtocol_W8_HAProxyTellsOfTLS(t *testing.T) {
	p := newPKI(t)
	e := newEnd(t, newListener(t), true, nil)
	c := chain{addr: newAddr(t), tls: true}
	startHAProxy(t, p, []hop{{addr: c.addr, to: e.addr, tls: true,
		options: "send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,cert-key,cert-sig,authority,unique-id,crc32c"}})
	got, client := c.ask(t, p, "127.9.8.7")
	require.Equal(t, client, got.Addr)
	require.True(t, strings.HasPrefix(got.Addr, "127.9.8.7:"))
	h := e.header()
	require.Equal(t, c.addr, h.Destination.String())
	require.True(t, h.Checksum)
	require.Equal(t, "http/1.1", h.ALPN)
	require.Equal(t, host, h.Authority)
	require.Regexp(t, `^\d+$`, string(h.UniqueID))
	require.True(t, h.TLS.Verified())
	want := proxyproto.TLS{Version: "TLSv1.3", CertOnConn: true, CertInSession: true, CommonName: "client",
		Cipher: h.TLS.Cipher, KeyAlg: "EC256", SigAlg: "ecdsa-with-SHA256"}
	require.Equal(t, want, *h.TLS)
	require.Contains(t, h.TLS.Cipher, "TLS_")
	require.Empty(t, e.refusals())
}

// Proxies that end the protocol behind ours find the client's address in it, whether TLS comes after the header or not.
func TestProxyProtocol_W8_EndsBehindOurs(t *testing.T) {
	p := newPKI(t)
	e := newEnd(t, newListener(t), false, nil)
	said := map[string]string{} // where a listener of each kind is
	for _, family := range families(t) {
		for _, kind := range []string{"HAProxy", "HAProxy TLS", "nginx", "nginx TLS"} {
			said[kind+" "+family] = addrOf(t, family == "IPv6")
		}
	}
	var listeners, servers strings.Builder
	var lastHAProxy, lastNginx string
	for name, addr := range said {
		withTLS := strings.Contains(name, "TLS")
		if strings.HasPrefix(name, "HAProxy") {
			lastHAProxy = addr
			crt := ""
			if withTLS {
				crt = " ssl crt " + p.serverFile
			}
			fmt.Fprintf(&listeners, "listen %s\n\tbind %s accept-proxy%s\n\thttp-request set-header X-Said %%[src]:%%[src_port]\n\tserver next %s\n",
				strings.ReplaceAll(name, " ", ""), addr, crt, e.addr)
		} else {
			lastNginx = addr
			ssl := ""
			if withTLS {
				ssl = " ssl"
			}
			fmt.Fprintf(&servers, "server { listen %s proxy_protocol%s; location / { proxy_pass http://%s; }\n"+
				"proxy_set_header X-Said $proxy_protocol_addr:$proxy_protocol_port; }\n", addr, ssl, e.addr)
		}
	}
	haproxy(t, lastHAProxy, "http", listeners.String())
	nginx(t, lastNginx, "", "", fmt.Sprintf(`
http {
	access_log off;
	client_body_temp_path body; proxy_temp_path proxy;
	fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
	ssl_certificate %s; ssl_certificate_key %s;
%s}`, p.serverFile, p.serverFile, &servers))
	for name, addr := range said {
		for version := 1; version <= 2; version++ {
			t.Run(fmt.Sprintf("%s, version %d", name, version), func(t *testing.T) {
				target := backend{id: "next", addr: addr}.target()
				proxy := newProxy(t, nil, target)
				if strings.Contains(name, "TLS") {
					target.URL.Scheme = "https"
					proxy = newProxy(t, nil, target)
					proxy.BackendTLS = &tls.Config{RootCAs: p.authority, ServerName: host}
				}
				proxy.SendProxy = version
				front := httptest.NewUnstartedServer(proxy)
				front.Listener.Close()
				front.Listener = listen(t, addrOf(t, strings.HasSuffix(name, "IPv6")))
				front.Start()
				t.Cleanup(front.Close)
				for range 2 {
					got, client := chain{addr: front.Listener.Addr().String()}.ask(t, p, "")
					require.Equal(t, strings.NewReplacer("[", "", "]", "").Replace(client), got.Said)
				}
			})
		}
	}
}

// curl writes a header of its own, in front of TLS too. What is not trusted to do so is answered with an error.
func TestProxyProtocol_W8_Curl(t *testing.T) {
	p := newPKI(t)
	curl := program(t, "curl")
	run := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), curl, append([]string{"-sS", "--noproxy", "*", "--max-time", "60", "--cacert", p.authorityFile,
			"-w", "\n%{http_code} %{local_ip} %{local_port}"}, args...)...).CombinedOutput()
		return string(out), err
	}
	for _, family := range families(t) {
		for _, scheme := range []string{"http", "https"} {
			t.Run(scheme+" "+family, func(t *testing.T) {
				var conf *tls.Config
				if scheme == "https" {
					conf = &tls.Config{Certificates: []tls.Certificate{p.server}}
				}
				e := newEnd(t, listen(t, addrOf(t, family == "IPv6")), true, conf)
				i := strings.LastIndexByte(e.addr, ':')
				to := []string{"--connect-to", "::" + e.addr, fmt.Sprintf("%s://%s:%s/", scheme, host, e.addr[i+1:])}

				out, err := run(append(to, "--haproxy-protocol")...)
				require.NoError(t, err, out)
				h := e.header()
				require.Equal(t, 1, h.Version)
				require.Equal(t, e.addr, h.Destination.String())
				require.Contains(t, out, `"Addr":"`+h.Source.String()+`"`)
				ip, port, _ := strings.Cut(out[strings.LastIndexByte(out, '\n')+1:], " ")
				require.Equal(t, "200", ip)
				ip, port, _ = strings.Cut(port, " ")
				require.Equal(t, h.Source.String(), hostPort(ip, port))
				require.Empty(t, e.refusals())

				out, err = run(to...)
				require.Error(t, err, out)
				require.Contains(t, out, "\n000 ", "not a byte of an answer")
				until(t, "it is told", func() bool { return len(e.refusals()) == 1 })

				stranger := newEnd(t, listen(t, addrOf(t, family == "IPv6")), false, conf)
				i = strings.LastIndexByte(stranger.addr, ':')
				to = []string{"--connect-to", "::" + stranger.addr, fmt.Sprintf("%s://%s:%s/", scheme, host, stranger.addr[i+1:])}
				out, _ = run(append(to, "--haproxy-protocol")...)
				require.NotContains(t, out, "\n200 ", "a header that was not asked for is neither HTTP nor TLS")
			})
		}
	}
}

func hostPort(ip, port string) string {
	if strings.Contains(ip, ":") {
		ip = "[" + ip + "]"
	}
	return ip + ":" + port
}
