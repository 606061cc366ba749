package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/internal/selfsigned"
)

// blocks returns a certificate for a host as PEM blocks, with its key.
func blocks(t *testing.T, host string) (cert, key string) {
	t.Helper()
	pair, err := selfsigned.New(host)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	require.NoError(t, err)
	var c, k bytes.Buffer
	require.NoError(t, pem.Encode(&c, &pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}))
	require.NoError(t, pem.Encode(&k, &pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return c.String(), k.String()
}

// shown returns the certificate that a client gets which names a host, "" for none.
func (b *instance) shown(t *testing.T, name string) (string, error) {
	t.Helper()
	c, err := tls.Dial("tcp", b.https, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		return "", err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].DNSNames[1], nil
}

func TestCertificates(t *testing.T) {
	redis := startRedis(t)
	b := start(t, redis)
	set := func(name, host string) {
		cert, key := blocks(t, host)
		redis.CLI("set", "certificate:"+name, cert+key)
	}
	set("www.example.com", "exact.test")
	set("*.example.com", "wildcard.test")
	for name, want := range map[string]string{
		"www.example.com": "exact.test", "WWW.example.com": "exact.test", "a.b.example.com": "wildcard.test",
	} {
		got, err := b.shown(t, name)
		require.NoError(t, err)
		require.Equal(t, want, got, name)
	}
	for _, name := range []string{"", "other.net"} {
		_, err := b.shown(t, name)
		require.Error(t, err, "no certificate for %q", name)
	}
	set("*", "all.test")
	eventually(t, func() bool { got, _ := b.shown(t, ""); return got == "all.test" }, "clients that name no host")
	eventually(t, func() bool { got, _ := b.shown(t, "other.net"); return got == "all.test" }, "hosts without one of their own")

	set("www.example.com", "renewed.test")
	eventually(t, func() bool { got, _ := b.shown(t, "www.example.com"); return got == "renewed.test" }, "renewed without a restart")
	redis.Pause()
	got, err := b.shown(t, "www.example.com")
	require.NoError(t, err, "what is known is served")
	require.Equal(t, "renewed.test", got)
	redis.Resume()
}

// A certificate that cannot be used is not served, and no part of its key reaches clients or the
// log. The previous valid certificate stays.
func TestCertificates_Broken(t *testing.T) {
	redis := startRedis(t)
	b := start(t, redis)
	cert, key := blocks(t, "a.test")
	_, otherKey := blocks(t, "b.test")
	for name, text := range map[string]string{
		"no-key": cert, "no-cert": key, "pair": cert + otherKey, "cut": cert + key[:100], "text": "nonsense",
		"encoded": cert + "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n",
	} {
		redis.CLI("set", "certificate:"+name+".net", text)
		_, err := b.shown(t, name+".net")
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "secret")
	}
	redis.CLI("rpush", "certificate:list.net", cert)
	_, err := b.shown(t, "list.net")
	require.Error(t, err)
	require.Contains(t, b.log.String(), "name=pair.net")
	for line := range bytes.Lines([]byte(key + otherKey + "secret")) {
		require.NotContains(t, b.log.String(), string(bytes.TrimSpace(line)))
	}

	redis.CLI("set", "certificate:good.net", cert+key)
	_, err = b.shown(t, "good.net")
	require.NoError(t, err)
	redis.CLI("set", "certificate:good.net", cert)
	eventually(t, func() bool {
		return bytes.Contains([]byte(b.log.String()), []byte("good.net")) || fails(b.shown(t, "good.net"))
	}, "it was read")
	_, err = b.shown(t, "good.net")
	require.NoError(t, err, "the one before stays")
}

// All hosts of a wildcard share its certificate. A broken certificate is logged once, because
// clients can invent any number of hosts.
func TestCertificates_AreShared(t *testing.T) {
	redis := startRedis(t)
	cert, key := blocks(t, "a.test")
	redis.CLI("set", "certificate:*.good.net", cert+key)
	redis.CLI("set", "certificate:*.bad.net", cert)
	o, err := parseFlags([]string{"-redis", "redis://" + redis.Addr}, io.Discard)
	require.NoError(t, err)
	var log logged
	o.log = slog.New(slog.NewTextHandler(&log, nil))
	s, err := open(o.redis, o.deadTTL)
	require.NoError(t, err)
	defer s.client.Close()
	c := newCertificates(o, s)
	a, err := c.find(t.Context(), "a.good.net")
	require.NoError(t, err)
	b, err := c.find(t.Context(), "b.good.net")
	require.NoError(t, err)
	require.True(t, a == b, "one certificate")
	for _, host := range []string{"a.bad.net", "b.bad.net", "a.bad.net"} {
		_, err := c.find(t.Context(), host)
		require.ErrorIs(t, err, errBroken)
	}
	require.Equal(t, 1, strings.Count(log.String(), "level=WARN"))
}

func fails(_ string, err error) bool { return err != nil }

// HTTPS reaches the same virtual hosts, over HTTP/2 too.
func TestCertificates_HTTP2(t *testing.T) {
	redis := startRedis(t)
	cert, key := blocks(t, "site.test")
	redis.CLI("set", "certificate:*", cert+key)
	replace(redis, "site", backend(t, "plain").URL)
	b := start(t, redis)
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequest("GET", "https://"+b.https, nil)
	require.NoError(t, err)
	req.Host = "site"
	res, err := (&http.Client{Transport: transport, Timeout: patience}).Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, 2, res.ProtoMajor)
}
