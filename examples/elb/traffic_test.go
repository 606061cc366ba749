package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbsdk "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancing"
	"github.com/aws/aws-sdk-go-v2/service/elasticloadbalancing/types"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/stickylb/stickylb/examples/elb/internal/classic"
	"github.com/stickylb/stickylb/examples/internal/selfsigned"
)

// A socket is a WebSocket to an embedded instance.
type socket struct {
	t    testing.TB
	conn *websocket.Conn
	id   string
}

func (s *program) socket(port int32, header http.Header) *socket {
	s.t.Helper()
	conf, err := websocket.NewConfig(fmt.Sprintf("ws://127.0.0.1:%d/ws", port), "http://127.0.0.1")
	require.NoError(s.t, err)
	conf.Header = header
	conn, err := websocket.DialConfig(conf)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { conn.Close() })
	c := &socket{t: s.t, conn: conn}
	c.id, _, _ = strings.Cut(c.ask("hello"), ":")
	return c
}

// ask sends a message and returns the answer.
func (c *socket) ask(text string) string {
	c.t.Helper()
	c.conn.SetDeadline(time.Now().Add(patience))
	require.NoError(c.t, websocket.Message.Send(c.conn, text))
	var answer string
	require.NoError(c.t, websocket.Message.Receive(c.conn, &answer))
	return answer
}

// A listener's policies are replaced again and again while a WebSocket is open and a request waits.
// Neither notices, and each new session follows the policy of its time.
func TestTraffic_PolicySwitchUnderLoad(t *testing.T) {
	t.Parallel()
	s := start(t)
	port := freePort(t)
	s.create(listener("HTTP", port, "HTTP", 80))
	s.policy("lb-60", classic.LBCookiePolicyType, "CookieExpirationPeriod", "60")
	s.policy("lb", classic.LBCookiePolicyType)
	s.policy("app", classic.AppCookiePolicyType, "CookieName", "SHOP")

	newVisitor(t, "http", port).roams(embeddedIDs...)
	open := s.socket(port, nil)
	upload, finish := io.Pipe() // a request under way until its body ends
	waiting := newVisitor(t, "http", port).post(upload)
	s.busy(open.id)
	s.policies(port, "lb-60")
	v := newVisitor(t, "http", port)
	res, h := v.get("/")
	require.Contains(t, res.Header.Get("Set-Cookie"), "AWSELB=")
	require.Contains(t, res.Header.Get("Set-Cookie"), "Max-Age=60; Expires=")
	require.Equal(t, h.Instance, v.stays())
	res, _ = v.get("/")
	require.Empty(t, res.Header.Get("Set-Cookie"), "the expiry is not renewed")
	require.Equal(t, open.id+": again", open.ask("again"))

	s.policies(port, "lb")
	res, _ = newVisitor(t, "http", port).get("/")
	require.NotContains(t, res.Header.Get("Set-Cookie"), "Max-Age")

	s.policies(port, "app")
	v = newVisitor(t, "http", port)
	v.free()
	_, h = v.get("/login?cookie=SHOP")
	require.Equal(t, h.Instance, v.stays())
	_, h = v.get("/")
	require.Equal(t, "SHOP=of-"+h.Instance, h.Cookie, "the balancer's own cookie does not reach the instance")
	v.get("/logout?cookie=SHOP")
	v.free()

	s.policies(port)
	newVisitor(t, "http", port).free()
	require.Equal(t, open.id+": still here", open.ask("still here"))
	finish.Close()
	require.NotEmpty(t, (<-waiting).Instance)
}

// A session is valid at another listener of the same InstancePort, and at no listener of another
// one. A listener that is made again has no policies.
func TestTraffic_ScopeAndNewListener(t *testing.T) {
	t.Parallel()
	usesPortsAgain(t)
	s := start(t)
	one, two, three := freePort(t), freePort(t), freePort(t)
	s.create(listener("HTTP", one, "HTTP", 80))
	listen := func(l types.Listener) {
		_, err := s.client.CreateLoadBalancerListeners(t.Context(), &elbsdk.CreateLoadBalancerListenersInput{LoadBalancerName: aws.String(lbName), Listeners: []types.Listener{l}})
		require.NoError(t, err)
	}
	listen(listener("HTTP", two, "HTTP", 80))
	listen(listener("HTTP", three, "HTTP", 81))
	s.policy("lb", classic.LBCookiePolicyType)
	for _, port := range []int32{one, two, three} {
		s.policies(port, "lb")
	}
	v := newVisitor(t, "http", one)
	id := v.stays()
	v.base = "http://127.0.0.1:" + strconv.Itoa(int(two))
	require.Equal(t, id, v.stays())
	v.base = "http://127.0.0.1:" + strconv.Itoa(int(three))
	res, _ := v.get("/")
	require.NotEmpty(t, res.Header.Get("Set-Cookie"), "a cookie of another scope is none")

	_, err := s.client.DeleteLoadBalancerListeners(t.Context(), &elbsdk.DeleteLoadBalancerListenersInput{LoadBalancerName: aws.String(lbName), LoadBalancerPorts: []int32{one}})
	require.NoError(t, err)
	_, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", one))
	require.Error(t, err)
	listen(listener("HTTP", one, "HTTP", 80))
	newVisitor(t, "http", one).roams(embeddedIDs...)
}

// An instance that is deregistered finishes its requests when connection draining is on, and is in
// service until then. Without draining they are cut. Its sessions move at once.
func TestTraffic_Deregistration(t *testing.T) {
	t.Parallel()
	s := start(t)
	port := freePort(t)
	s.create(listener("HTTP", port, "HTTP", 80))
	s.policy("lb", classic.LBCookiePolicyType)
	s.policies(port, "lb")
	deregister := func(id string) {
		_, err := s.client.DeregisterInstancesFromLoadBalancer(t.Context(), &elbsdk.DeregisterInstancesFromLoadBalancerInput{
			LoadBalancerName: aws.String(lbName), Instances: sdkInstances([]string{id})})
		require.NoError(t, err)
	}
	s.attributes(types.LoadBalancerAttributes{ConnectionDraining: &types.ConnectionDraining{Enabled: true}})

	v := newVisitor(t, "http", port)
	id := v.stays()
	done := v.begin("/wait?for=700ms")
	s.busy(id)
	deregister(id)
	state := s.states(id)[id]
	require.Equal(t, inService, *state.State)
	require.Contains(t, *state.Description, "in progress")
	require.Contains(t, s.states(), id, "it is listed as long as it has requests")
	require.NotEqual(t, id, newVisitorLike(v).stays())
	require.Equal(t, id, (<-done).Instance)
	require.Eventually(t, func() bool { return *s.states(id)[id].State == outOfService }, patience, glance)
	require.NotContains(t, s.states(), id)

	s.register(id)
	s.await(inService, id)
	s.attributes(types.LoadBalancerAttributes{ConnectionDraining: &types.ConnectionDraining{Enabled: false}})
	open := s.socket(port, nil)
	deregister(open.id)
	open.conn.SetDeadline(time.Now().Add(patience))
	var text string
	require.Error(t, websocket.Message.Receive(open.conn, &text), "it is cut")
}

// begin sends a request and returns where its answer comes. If there is none the channel is closed.
func (v *visitor) begin(path string) <-chan home {
	answer := make(chan home, 1)
	go func() {
		defer close(answer)
		res, err := v.client.Get(v.base + path)
		if err != nil {
			return
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err == nil && res.StatusCode == http.StatusOK {
			answer <- readHome(body)
		}
	}()
	return answer
}

// post sends a body that may still come, and returns where the answer comes.
func (v *visitor) post(body io.Reader) <-chan home {
	answer := make(chan home, 1)
	go func() {
		defer close(answer)
		res, err := v.client.Post(v.base+"/read", "text/plain", body)
		if err != nil {
			return
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err == nil && res.StatusCode == http.StatusOK {
			answer <- readHome(body)
		}
	}()
	return answer
}

// newVisitorLike returns a visitor with the same cookies on other connections.
func newVisitorLike(v *visitor) *visitor {
	n := *v
	n.client = &http.Client{Jar: v.client.Jar}
	return &n
}

// busy waits until an instance has a request in flight.
func (s *program) busy(id string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		for _, f := range s.elb.traffic.group(lbName).all() {
			if m, ok := f.pool.Member(id); ok && m.Load() > 0 {
				return true
			}
		}
		return false
	}, patience, glance)
}

// The states and the answers go together, from no instance over a failing check to another zone.
func TestTraffic_HealthAndZones(t *testing.T) {
	t.Parallel()
	s := start(t)
	port := freePort(t)
	s.create(listener("HTTP", port, "HTTP", 80))
	v := newVisitor(t, "http", port)
	v.roams(embeddedIDs...)

	configure := func(target string) {
		_, err := s.client.ConfigureHealthCheck(t.Context(), &elbsdk.ConfigureHealthCheckInput{LoadBalancerName: aws.String(lbName), HealthCheck: &types.HealthCheck{
			Target: &target, Interval: aws.Int32(5), Timeout: aws.Int32(2), UnhealthyThreshold: aws.Int32(2), HealthyThreshold: aws.Int32(2)}})
		require.NoError(t, err)
	}
	_, err := s.client.DisableAvailabilityZonesForLoadBalancer(t.Context(), &elbsdk.DisableAvailabilityZonesForLoadBalancerInput{
		LoadBalancerName: aws.String(lbName), AvailabilityZones: []string{"us-east-1b"}})
	require.NoError(t, err)
	v.roams(embeddedIDs[:2]...)
	require.Equal(t, reasonBalancer, *s.states(embeddedIDs[2])[embeddedIDs[2]].ReasonCode)
	_, err = s.client.EnableAvailabilityZonesForLoadBalancer(t.Context(), &elbsdk.EnableAvailabilityZonesForLoadBalancerInput{
		LoadBalancerName: aws.String(lbName), AvailabilityZones: []string{"us-east-1b"}})
	require.NoError(t, err)

	// Without cross-zone load balancing, the instance that is alone in its zone gets half of it
	// all.
	count := func() map[string]int {
		n := make(map[string]int)
		for range 40 {
			n[v.instance()]++
		}
		return n
	}
	require.InDelta(t, 20, count()[embeddedIDs[2]], 2)
	s.attributes(types.LoadBalancerAttributes{CrossZoneLoadBalancing: &types.CrossZoneLoadBalancing{Enabled: true}})
	require.InDelta(t, 40./3, count()[embeddedIDs[2]], 2)

	configure("HTTPS:443/status?code=204") // healthy is 200 alone
	v.roams(embeddedIDs...)                // until two checks have failed
	s.await(outOfService, embeddedIDs...)
	for _, state := range s.states() {
		require.Equal(t, reasonInstance, *state.ReasonCode)
		require.Contains(t, *state.Description, "204")
	}
	res, _ := v.get("/")
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	configure("SSL:443")
	s.await(inService, embeddedIDs...)
	v.roams(embeddedIDs...)
}

// An instance that nobody has checked yet is out of service, because its registration is in
// progress, and gets no request.
func TestTraffic_RegistrationInProgress(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and answers no handshake
	require.NoError(t, err)
	defer silent.Close()
	s := start(t, "-instance", "i-0a1b2c3d="+silent.Addr().String())
	port := freePort(t)
	_, err = s.client.CreateLoadBalancer(t.Context(), &elbsdk.CreateLoadBalancerInput{
		LoadBalancerName: aws.String(lbName), Listeners: []types.Listener{listener("HTTP", port, "HTTP", 80)}, AvailabilityZones: []string{"us-east-1a"}})
	require.NoError(t, err)
	res, _ := newVisitor(t, "http", port).get("/")
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode, "without instances")
	require.Equal(t, outOfService, *s.states("i-0a1b2c3d")["i-0a1b2c3d"].State)
	_, err = s.client.ConfigureHealthCheck(t.Context(), &elbsdk.ConfigureHealthCheckInput{LoadBalancerName: aws.String(lbName), HealthCheck: &types.HealthCheck{
		Target: aws.String("SSL:80"), Interval: aws.Int32(300), Timeout: aws.Int32(60), UnhealthyThreshold: aws.Int32(2), HealthyThreshold: aws.Int32(2)}})
	require.NoError(t, err)
	s.register("i-0a1b2c3d")
	state := s.states()["i-0a1b2c3d"]
	require.Equal(t, outOfService, *state.State)
	require.Equal(t, reasonBalancer, *state.ReasonCode)
	require.Contains(t, *state.Description, "registration is in progress")
	res, _ = newVisitor(t, "http", port).get("/")
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
}

// The idle timeout limits the wait for an answer (504) and a silent WebSocket, from the next
// request on. What began under the former timeout keeps it.
func TestTraffic_IdleTimeout(t *testing.T) {
	t.Parallel()
	s := start(t)
	port := freePort(t)
	s.create(listener("HTTP", port, "HTTP", 80))
	before := s.socket(port, nil)
	s.attributes(types.LoadBalancerAttributes{ConnectionSettings: &types.ConnectionSettings{IdleTimeout: aws.Int32(1)}})
	after := s.socket(port, nil)
	res, _ := newVisitor(t, "http", port).get("/wait?for=1h")
	require.Equal(t, http.StatusGatewayTimeout, res.StatusCode)
	after.conn.SetDeadline(time.Now().Add(patience))
	var text string
	require.Error(t, websocket.Message.Receive(after.conn, &text))
	require.Equal(t, before.id+": still here", before.ask("still here"))
}

// TLS, stickiness, a WebSocket and the client's address, all on one listener.
func TestTraffic_EverythingOnHTTPS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeCertificate(t, filepath.Join(dir, "shop.pem"))
	writeCertificate(t, filepath.Join(dir, "new.pem"))
	s := start(t, "-certificates", dir)
	port := freePort(t)
	s.create(listener("HTTPS", port, "HTTPS", 443))
	s.policy("lb", classic.LBCookiePolicyType)
	s.policy("tls12", classic.SSLNegotiationPolicyType, "Reference-Security-Policy", "ELBSecurityPolicy-TLS-1-2-2017-01")
	s.policies(port, "lb")
	v := newVisitor(t, "https", port)
	v.stays()
	_, h := v.get("/")
	require.Equal(t, "https", h.Proto)
	require.Equal(t, "127.0.0.1", h.For)
	require.Equal(t, strconv.Itoa(int(port)), h.Port)

	address := fmt.Sprintf("127.0.0.1:%d", port)
	dial := func(c *tls.Config) (*tls.Conn, error) {
		c.InsecureSkipVerify = true
		return tls.Dial("tcp", address, c)
	}
	open, err := dial(&tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
	require.NoError(t, err)
	former := open.ConnectionState().PeerCertificates[0]
	s.policies(port, "tls12", "lb")
	_, err = dial(&tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
	require.Error(t, err)
	fmt.Fprintf(open, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n") // the handshake was before
	res, err := http.ReadResponse(bufio.NewReader(open), nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	open.Close()

	_, err = s.client.SetLoadBalancerListenerSSLCertificate(t.Context(), &elbsdk.SetLoadBalancerListenerSSLCertificateInput{
		LoadBalancerName: aws.String(lbName), LoadBalancerPort: port, SSLCertificateId: aws.String("arn:aws:iam::123456789012:server-certificate/new")})
	require.NoError(t, err)
	open, err = dial(&tls.Config{MaxVersion: tls.VersionTLS13})
	require.NoError(t, err)
	require.Equal(t, uint16(tls.VersionTLS12), open.ConnectionState().Version)
	require.NotEqual(t, former.Raw, open.ConnectionState().PeerCertificates[0].Raw)
	open.Close()
}

func writeCertificate(t *testing.T, file string) {
	t.Helper()
	c, err := selfsigned.New("shop.test")
	require.NoError(t, err)
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	require.NoError(t, err)
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	require.NoError(t, os.WriteFile(file, text, 0o600))
}

// Instances have to have one of the public keys, once a policy of their port names some.
func TestTraffic_BackendAuthentication(t *testing.T) {
	t.Parallel()
	s := start(t)
	port := freePort(t)
	s.create(listener("HTTP", port, "HTTPS", 443))
	key := func(public any) string {
		der, err := x509.MarshalPKIXPublicKey(public)
		require.NoError(t, err)
		return base64.StdEncoding.EncodeToString(der)
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	s.policy("stranger", classic.PublicKeyPolicyType, "PublicKey", key(&stranger.PublicKey))
	s.policy("strangers", classic.BackendAuthenticationPolicyType, "PublicKeyPolicyName", "stranger")
	known := []string{}
	for i, e := range s.elb.embedded {
		leaf, err := x509.ParseCertificate(e.wrapped.tls.Certificates[0].Certificate[0])
		require.NoError(t, err)
		name := fmt.Sprint("instance-", i)
		s.policy(name, classic.PublicKeyPolicyType, "PublicKey", key(leaf.PublicKey))
		known = append(known, "PublicKeyPolicyName", name)
	}
	s.policy("instances", classic.BackendAuthenticationPolicyType, known...)
	set := func(names ...string) {
		_, err := s.client.SetLoadBalancerPoliciesForBackendServer(t.Context(), &elbsdk.SetLoadBalancerPoliciesForBackendServerInput{
			LoadBalancerName: aws.String(lbName), InstancePort: aws.Int32(443), PolicyNames: append([]string{}, names...)})
		require.NoError(t, err)
	}
	status := func() int {
		res, _ := newVisitor(t, "http", port).get("/")
		return res.StatusCode
	}
	require.Equal(t, http.StatusOK, status())
	set("strangers")
	require.Equal(t, http.StatusBadGateway, status())
	set("instances")
	require.Equal(t, http.StatusOK, status())
	set()
	require.Equal(t, http.StatusOK, status())
}

// TCP and SSL listeners forward to plain and TLS back-ends in turn, and a PROXY header tells the
// client's address from the next connection on. A connection that is open does not notice.
func TestTraffic_TCPAndSSL(t *testing.T) {
	t.Parallel()
	s := start(t)
	plain, secure := freePort(t), freePort(t)
	s.create(listener("TCP", plain, "TCP", 80))
	_, err := s.client.CreateLoadBalancerListeners(t.Context(), &elbsdk.CreateLoadBalancerListenersInput{LoadBalancerName: aws.String(lbName),
		Listeners: []types.Listener{listener("SSL", secure, "SSL", 443)}})
	require.NoError(t, err)
	s.policy("proxied", classic.ProxyProtocolPolicyType, "ProxyProtocol", "true")

	open, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", plain))
	require.NoError(t, err)
	defer open.Close()
	reader := bufio.NewReader(open)
	ask := func() home {
		_, err := fmt.Fprintf(open, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
		require.NoError(t, err)
		res, err := http.ReadResponse(reader, nil)
		require.NoError(t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return readHome(body)
	}
	first := ask()
	for _, port := range []int32{plain, secure} {
		scheme := map[int32]string{plain: "http", secure: "https"}[port]
		seen := make(map[string]bool)
		for range 4 { // a zone's only instance has two turns of four
			_, h := newVisitor(t, scheme, port).get("/")
			seen[h.Instance] = true
		}
		require.Len(t, seen, 3, "in turn")
	}
	_, err = s.client.SetLoadBalancerPoliciesForBackendServer(t.Context(), &elbsdk.SetLoadBalancerPoliciesForBackendServerInput{
		LoadBalancerName: aws.String(lbName), InstancePort: aws.Int32(80), PolicyNames: []string{"proxied"}})
	require.NoError(t, err)
	client, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", plain))
	require.NoError(t, err)
	defer client.Close()
	fmt.Fprintf(client, "GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(client), nil)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, client.LocalAddr().String(), readHome(body).Peer)
	require.Equal(t, first.Instance, ask().Instance, "the connection is the same")
	require.Equal(t, first.Peer, ask().Peer)
}

// A deleted load balancer leaves nothing behind: its WebSocket gets a close frame, and its ports
// are free at once.
func TestTraffic_DeleteAndCreateAgain(t *testing.T) {
	t.Parallel()
	usesPortsAgain(t)
	s := start(t)
	port := freePort(t)
	for range 3 {
		s.create(listener("HTTP", port, "HTTP", 80))
		open := s.socket(port, nil)
		_, err := s.client.DeleteLoadBalancer(context.Background(), &elbsdk.DeleteLoadBalancerInput{LoadBalancerName: aws.String(lbName)})
		require.NoError(t, err)
		open.conn.SetDeadline(time.Now().Add(patience))
		var text string
		require.ErrorIs(t, websocket.Message.Receive(open.conn, &text), io.EOF)
	}
}
