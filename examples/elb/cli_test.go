package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// needs skips the test if a program is missing, or fails it if CI is set.
func needs(t *testing.T, name string, args ...string) {
	t.Helper()
	if _, err := output(exec.Command(name, args...)); err == nil {
		return
	}
	if os.Getenv("CI") != "" {
		require.FailNow(t, name+" is missing")
	}
	t.Skip(name + " is missing")
}

// awsProgram is Debian's AWS CLI, not one of a Python environment.
const awsProgram = "/usr/bin/aws"

// environment is that of a client of AWS that reads nobody's configuration.
func environment(t *testing.T) []string {
	t.Helper()
	return append(os.Environ(), "AWS_ACCESS_KEY_ID=any", "AWS_SECRET_ACCESS_KEY=any", "AWS_DEFAULT_REGION=us-east-1", "AWS_PAGER=",
		"AWS_CONFIG_FILE="+filepath.Join(t.TempDir(), "none"), "AWS_SHARED_CREDENTIALS_FILE="+filepath.Join(t.TempDir(), "none"), "AWS_EC2_METADATA_DISABLED=true")
}

// aws runs a command of the AWS CLI and returns its output and exit code.
func (s *program) aws(args ...string) (string, int) {
	s.t.Helper()
	cmd := exec.Command(awsProgram, append([]string{"--endpoint-url", s.url, "elb"}, args...)...)
	cmd.Env = environment(s.t.(*testing.T))
	out, err := output(cmd)
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return out, e.ExitCode()
	}
	require.NoError(s.t, err)
	return out, 0
}

// The two walk-throughs of the service's documentation, verbatim but for the endpoint, and what a
// client with a cookie jar sees of them.
func TestCLI_WalkThroughs(t *testing.T) {
	t.Parallel()
	needs(t, awsProgram, "--version")
	needs(t, "curl", "--version")
	s := start(t)
	port := freePort(t)
	s.create(listener("HTTP", port, "HTTP", 80))
	do := func(command string) string {
		t.Helper()
		out, code := s.aws(strings.Fields(strings.ReplaceAll(command, "PORT", fmt.Sprint(port)))...)
		require.Zero(t, code, out)
		return out
	}
	jar := filepath.Join(t.TempDir(), "jar")
	curl := func(path string) (header, instance string) {
		t.Helper()
		out, err := output(exec.Command("curl", "-sS", "-i", "-b", jar, "-c", jar, fmt.Sprintf("http://my-loadbalancer.elb.localhost:%d%s", port, path)))
		require.NoError(t, err, out)
		header, body, _ := strings.Cut(out, "\r\n\r\n")
		return header, readHome([]byte(body)).Instance
	}
	sticks := func() {
		t.Helper()
		_, id := curl("/")
		for range 4 {
			header, next := curl("/")
			require.Equal(t, id, next)
			require.NotContains(t, header, "Set-Cookie")
		}
	}
	open := s.socket(port, nil)

	// Duration-based stickiness: create a policy, enable it, look at it.
	do("create-lb-cookie-stickiness-policy --load-balancer-name my-loadbalancer --policy-name my-duration-cookie-policy --cookie-expiration-period 60")
	do("set-load-balancer-policies-of-listener --load-balancer-name my-loadbalancer --load-balancer-port PORT --policy-names my-duration-cookie-policy")
	var described struct{ LoadBalancerDescriptions []map[string]any }
	require.NoError(t, json.Unmarshal([]byte(do("describe-load-balancers --load-balancer-name my-loadbalancer")), &described))
	d := described.LoadBalancerDescriptions[0]
	for member := range strings.FieldsSeq(`ListenerDescriptions Policies BackendServerDescriptions AvailabilityZones Subnets Instances HealthCheck
		SourceSecurityGroup SecurityGroups CreatedTime Scheme LoadBalancerName DNSName CanonicalHostedZoneName CanonicalHostedZoneNameID`) {
		require.Contains(t, d, member)
	}
	require.Equal(t, []any{map[string]any{"PolicyName": "my-duration-cookie-policy", "CookieExpirationPeriod": 60.}}, d["Policies"].(map[string]any)["LBCookieStickinessPolicies"])
	require.Equal(t, []any{"my-duration-cookie-policy"}, d["ListenerDescriptions"].([]any)[0].(map[string]any)["PolicyNames"])
	header, _ := curl("/")
	require.Contains(t, header, "Set-Cookie: AWSELB=")
	require.Contains(t, header, "Max-Age=60;")
	sticks()

	// Application-controlled stickiness, in the same steps, under an open WebSocket.
	do("create-app-cookie-stickiness-policy --load-balancer-name my-loadbalancer --policy-name my-app-cookie-policy --cookie-name my-app-cookie")
	do("set-load-balancer-policies-of-listener --load-balancer-name my-loadbalancer --load-balancer-port PORT --policy-names my-app-cookie-policy")
	out := do("describe-load-balancers --load-balancer-name my-loadbalancer")
	require.Contains(t, out, `"CookieName": "my-app-cookie"`)
	header, _ = curl("/")
	require.NotContains(t, header, "Set-Cookie")
	header, _ = curl("/login?cookie=my-app-cookie")
	require.Contains(t, header, "Set-Cookie: AWSELB=")
	sticks()

	do("set-load-balancer-policies-of-listener --load-balancer-name my-loadbalancer --load-balancer-port PORT --policy-names []")
	header, _ = curl("/login?cookie=my-app-cookie")
	require.NotContains(t, header, "AWSELB")
	require.Equal(t, open.id+": still here", open.ask("still here"))

	out, code := s.aws("describe-load-balancers", "--load-balancer-name", "none")
	require.Contains(t, []int{254, 255}, code, "version 2 exits with 254, version 1 with 255")
	require.Contains(t, out, "(LoadBalancerNotFound)")
}

// boto3, its waiters and its exceptions.
func TestBoto3(t *testing.T) {
	t.Parallel()
	python := "/usr/bin/python3" // Debian's, which has python3-boto3
	needs(t, python, "-c", "import boto3")
	s := start(t)
	cmd := exec.Command(python, "testdata/boto.py", s.url, fmt.Sprint(freePort(t)))
	cmd.Env = environment(t)
	out, err := output(cmd)
	require.NoError(t, err, out)
}
