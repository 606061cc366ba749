package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	elbsdk "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancing"
	"github.com/aws/aws-sdk-go-v2/service/elasticloadbalancing/types"
	"github.com/stretchr/testify/require"
)

const (
	patience = 30 * time.Second
	glance   = 5 * time.Millisecond

	asProgram = "ELB_TEST_AS_PROGRAM" // makes the test binary run main
)

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// A service is a running program, in this process, and a client of its API.
type program struct {
	t      testing.TB
	elb    *elb
	url    string
	client *elbsdk.Client
}

// start runs the program with these flags besides those that make its ports free ones.
func start(t testing.TB, args ...string) *program {
	t.Helper()
	args = append([]string{"-api", "127.0.0.1:0", "-port-offset", "0"}, args...)
	o, err := parse(args, io.Discard)
	require.NoError(t, err)
	e, err := open(o, slog.New(slog.NewTextHandler(logTo{t}, &slog.HandlerOptions{Level: slog.LevelWarn})))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { e.serve(ctx) })
	t.Cleanup(func() {
		cancel()
		work.Wait()
	})
	s := &program{t: t, elb: e, url: "http://" + e.listener.Addr().String()}
	s.client = clientOf(s.url, "any", "any")
	return s
}

type logTo struct{ t testing.TB }

func (l logTo) Write(p []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

func clientOf(url, key, secret string) *elbsdk.Client {
	return elbsdk.New(elbsdk.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(url), RetryMaxAttempts: 1,
		HTTPClient:  wholeBodies{},
		Credentials: credentials.NewStaticCredentialsProvider(key, secret, ""),
	})
}

// wholeBodies sends calls whose bodies stay open. The SDK closes a body when the answer begins. If
// net/http has not seen the body's end by then, it gives up the connection in the middle of a large
// answer.
type wholeBodies struct{}

// Do implements elbsdk.HTTPClient.
func (wholeBodies) Do(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body.Close()
	r.Body = io.NopCloser(bytes.NewReader(body))
	return http.DefaultClient.Do(r)
}

// nextPort is below the ports that the system gives to clients, so that no connection of a test
// takes one between a look at it and its use.
var nextPort atomic.Int32

func init() { nextPort.Store(10000 + rand.Int32N(20000)) }

// freePort returns a port on which nobody listens, another one for each call.
func freePort(t testing.TB) int32 {
	t.Helper()
	for range 1000 {
		port := nextPort.Add(1)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			return port
		}
	}
	require.FailNow(t, "no port is free")
	return 0
}

// A child process has the sockets of this one for a moment, until it executes its program. A
// listener that is closed meanwhile keeps its port. So processes start under the lock, and tests
// that use a port again read-lock it.
var forking sync.RWMutex

// begin starts a process.
func begin(cmd *exec.Cmd) error {
	forking.Lock()
	defer forking.Unlock()
	return cmd.Start()
}

// output runs a process and returns what it writes.
func output(cmd *exec.Cmd) (string, error) {
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	err := begin(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	return text.String(), err
}

// usesPortsAgain keeps processes from starting until the end of the test.
func usesPortsAgain(t *testing.T) {
	forking.RLock()
	t.Cleanup(forking.RUnlock)
}

const lbName = "my-loadbalancer"

var embeddedIDs = []string{"i-11111111", "i-22222222", "i-33333333"}

// listener returns a listener of the API.
func listener(protocol string, port int32, instanceProtocol string, instancePort int32) types.Listener {
	l := types.Listener{Protocol: &protocol, LoadBalancerPort: port, InstanceProtocol: &instanceProtocol, InstancePort: &instancePort}
	if protocol == "HTTPS" || protocol == "SSL" {
		l.SSLCertificateId = aws.String("arn:aws:iam::123456789012:server-certificate/shop")
	}
	return l
}

// create makes the load balancer with a listener and the embedded instances, and waits until they
// are in service.
func (s *program) create(l types.Listener) {
	s.t.Helper()
	_, err := s.client.CreateLoadBalancer(s.t.Context(), &elbsdk.CreateLoadBalancerInput{
		LoadBalancerName: aws.String(lbName), Listeners: []types.Listener{l}, AvailabilityZones: []string{"us-east-1a", "us-east-1b"}})
	require.NoError(s.t, err)
	s.register(embeddedIDs...)
	s.await(inService, embeddedIDs...)
}

func (s *program) register(ids ...string) {
	s.t.Helper()
	_, err := s.client.RegisterInstancesWithLoadBalancer(s.t.Context(), &elbsdk.RegisterInstancesWithLoadBalancerInput{
		LoadBalancerName: aws.String(lbName), Instances: sdkInstances(ids)})
	require.NoError(s.t, err)
}

func sdkInstances(ids []string) (all []types.Instance) {
	for _, id := range ids {
		all = append(all, types.Instance{InstanceId: aws.String(id)})
	}
	return all
}

// states returns what DescribeInstanceHealth says, by ID.
func (s *program) states(ids ...string) map[string]types.InstanceState {
	s.t.Helper()
	out, err := s.client.DescribeInstanceHealth(context.Background(), &elbsdk.DescribeInstanceHealthInput{
		LoadBalancerName: aws.String(lbName), Instances: sdkInstances(ids)})
	require.NoError(s.t, err)
	states := make(map[string]types.InstanceState)
	for _, state := range out.InstanceStates {
		states[*state.InstanceId] = state
	}
	return states
}

// await waits until the instances have a state.
func (s *program) await(state string, ids ...string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		for _, now := range s.states(ids...) {
			if *now.State != state {
				return false
			}
		}
		return true
	}, patience, glance, state)
}

// policies sets the listener's policies.
func (s *program) policies(port int32, names ...string) {
	s.t.Helper()
	_, err := s.client.SetLoadBalancerPoliciesOfListener(context.Background(), &elbsdk.SetLoadBalancerPoliciesOfListenerInput{
		LoadBalancerName: aws.String(lbName), LoadBalancerPort: port, PolicyNames: append([]string{}, names...)})
	require.NoError(s.t, err)
}

// policy creates a policy of a type.
func (s *program) policy(name, kind string, attributes ...string) {
	s.t.Helper()
	in := &elbsdk.CreateLoadBalancerPolicyInput{LoadBalancerName: aws.String(lbName), PolicyName: &name, PolicyTypeName: &kind}
	for i := 0; i < len(attributes); i += 2 {
		in.PolicyAttributes = append(in.PolicyAttributes, types.PolicyAttribute{AttributeName: &attributes[i], AttributeValue: &attributes[i+1]})
	}
	_, err := s.client.CreateLoadBalancerPolicy(s.t.Context(), in)
	require.NoError(s.t, err)
}

func (s *program) attributes(a types.LoadBalancerAttributes) {
	s.t.Helper()
	_, err := s.client.ModifyLoadBalancerAttributes(s.t.Context(), &elbsdk.ModifyLoadBalancerAttributesInput{LoadBalancerName: aws.String(lbName), LoadBalancerAttributes: &a})
	require.NoError(s.t, err)
}

// A visitor is a browser: it keeps cookies.
type visitor struct {
	t      testing.TB
	client *http.Client
	base   string
}

func newVisitor(t testing.TB, scheme string, port int32) *visitor {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(transport.CloseIdleConnections)
	return &visitor{t: t, base: scheme + "://127.0.0.1:" + strconv.Itoa(int(port)), client: &http.Client{Jar: jar, Transport: transport}}
}

// get returns the response and what the instance has answered.
func (v *visitor) get(path string) (*http.Response, home) {
	v.t.Helper()
	res, err := v.client.Get(v.base + path)
	require.NoError(v.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(v.t, err)
	return res, readHome(body)
}

// instance returns the instance that answers.
func (v *visitor) instance() string {
	v.t.Helper()
	res, h := v.get("/")
	require.Equal(v.t, http.StatusOK, res.StatusCode)
	return h.Instance
}

// stays fails the test unless several requests reach one instance.
func (v *visitor) stays() string {
	v.t.Helper()
	id := v.instance()
	for range 5 {
		require.Equal(v.t, id, v.instance())
	}
	return id
}

// free fails the test if a response binds the visitor.
func (v *visitor) free() {
	v.t.Helper()
	for range 3 {
		res, _ := v.get("/")
		require.Empty(v.t, res.Header.Get("Set-Cookie"))
	}
}

// roams fails the test unless several requests reach all instances.
func (v *visitor) roams(ids ...string) {
	v.t.Helper()
	seen := make(map[string]bool)
	for range 12 {
		seen[v.instance()] = true
	}
	for _, id := range ids {
		require.True(v.t, seen[id], id)
	}
	require.Len(v.t, seen, len(ids))
}

// A home is what an embedded instance answers.
type home struct {
	Instance, Path, Peer, Cookie string
	For                          string `json:"x-forwarded-for"`
	Proto                        string `json:"x-forwarded-proto"`
	Port                         string `json:"x-forwarded-port"`
}

func readHome(body []byte) (h home) {
	json.Unmarshal(body, &h) // an error page is none
	return h
}
