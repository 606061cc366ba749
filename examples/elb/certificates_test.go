package main

import (
	"crypto/tls"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/elb/internal/classic"
)

// A client that speaks HTTP/2 also gets through where a policy leaves no cipher or version for it.
func TestTraffic_OldCiphers(t *testing.T) {
	t.Parallel()
	s := start(t)
	port := freePort(t)
	s.create(listener("HTTPS", port, "HTTP", 80))
	s.policy("modern", classic.SSLNegotiationPolicyType, "Protocol-TLSv1.2", "true", "ECDHE-ECDSA-AES128-GCM-SHA256", "true", "ECDHE-RSA-AES128-GCM-SHA256", "true")
	s.policy("ciphers", classic.SSLNegotiationPolicyType, "Protocol-TLSv1.2", "true", "ECDHE-ECDSA-AES128-SHA", "true", "ECDHE-RSA-AES128-SHA", "true")
	s.policy("version", classic.SSLNegotiationPolicyType, "Protocol-TLSv1.1", "true", "ECDHE-ECDSA-AES128-SHA", "true", "ECDHE-RSA-AES128-SHA", "true")
	for policy, protocol := range map[string]string{"modern": "HTTP/2.0", "ciphers": "HTTP/1.1", "version": "HTTP/1.1"} {
		t.Run(policy, func(t *testing.T) {
			s.policies(port, policy)
			v := newVisitor(t, "https", port)
			v.client.Transport = &http.Transport{ForceAttemptHTTP2: true, DisableKeepAlives: true,
				TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10}}
			res, _ := v.get("/")
			require.Equal(t, http.StatusOK, res.StatusCode)
			require.Equal(t, protocol, res.Proto)
		})
	}
}
