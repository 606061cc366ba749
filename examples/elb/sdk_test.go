package main

import (
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbsdk "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancing"
	"github.com/aws/aws-sdk-go-v2/service/elasticloadbalancing/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/elb/internal/classic"
)

// Every action, called by the Go SDK, which reads all that it understands of the answers.
func TestActions_GoSDK(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx, c, lb := t.Context(), s.client, aws.String(lbName)
	port, other, secure := freePort(t), freePort(t), freePort(t)
	called := make(map[string]bool)
	call := func(name string, err error) {
		t.Helper()
		require.NoError(t, err, name)
		called[name] = true
	}

	created, err := c.CreateLoadBalancer(ctx, &elbsdk.CreateLoadBalancerInput{LoadBalancerName: lb,
		Listeners: []types.Listener{{Protocol: aws.String("http"), LoadBalancerPort: port, InstancePort: aws.Int32(80)}},
		Subnets:   []string{"subnet-0a1b2c3d"}, SecurityGroups: []string{"sg-0a1b2c3d"}, Scheme: aws.String("internal"),
		Tags: []types.Tag{{Key: aws.String("team"), Value: aws.String("shop")}}})
	call("CreateLoadBalancer", err)
	require.Equal(t, "my-loadbalancer.elb.localhost", *created.DNSName)
	_, err = c.CreateLoadBalancerListeners(ctx, &elbsdk.CreateLoadBalancerListenersInput{LoadBalancerName: lb,
		Listeners: []types.Listener{listener("TCP", other, "tcp", 81), listener("HTTPS", secure, "HTTPS", 443)}})
	call("CreateLoadBalancerListeners", err)
	registered, err := c.RegisterInstancesWithLoadBalancer(ctx, &elbsdk.RegisterInstancesWithLoadBalancerInput{
		LoadBalancerName: lb, Instances: sdkInstances(embeddedIDs)})
	call("RegisterInstancesWithLoadBalancer", err)
	require.Len(t, registered.Instances, 3)
	left, err := c.DeregisterInstancesFromLoadBalancer(ctx, &elbsdk.DeregisterInstancesFromLoadBalancerInput{
		LoadBalancerName: lb, Instances: sdkInstances(embeddedIDs[2:])})
	call("DeregisterInstancesFromLoadBalancer", err)
	require.Len(t, left.Instances, 2)
	health, err := c.DescribeInstanceHealth(ctx, &elbsdk.DescribeInstanceHealthInput{LoadBalancerName: lb, Instances: sdkInstances(embeddedIDs[2:])})
	call("DescribeInstanceHealth", err)
	require.Equal(t, "Instance", *health.InstanceStates[0].ReasonCode)
	check, err := c.ConfigureHealthCheck(ctx, &elbsdk.ConfigureHealthCheckInput{LoadBalancerName: lb, HealthCheck: &types.HealthCheck{
		Target: aws.String("HTTP:80/"), Interval: aws.Int32(5), Timeout: aws.Int32(2), UnhealthyThreshold: aws.Int32(2), HealthyThreshold: aws.Int32(2)}})
	call("ConfigureHealthCheck", err)
	require.Equal(t, "HTTP:80/", *check.HealthCheck.Target)
	_, err = c.CreateLBCookieStickinessPolicy(ctx, &elbsdk.CreateLBCookieStickinessPolicyInput{
		LoadBalancerName: lb, PolicyName: aws.String("lb-60"), CookieExpirationPeriod: aws.Int64(60)})
	call("CreateLBCookieStickinessPolicy", err)
	_, err = c.CreateAppCookieStickinessPolicy(ctx, &elbsdk.CreateAppCookieStickinessPolicyInput{
		LoadBalancerName: lb, PolicyName: aws.String("app"), CookieName: aws.String("SHOP")})
	call("CreateAppCookieStickinessPolicy", err)
	s.policy("proxied", classic.ProxyProtocolPolicyType, "ProxyProtocol", "true")
	s.policy("spare", classic.LBCookiePolicyType)
	called["CreateLoadBalancerPolicy"] = true
	_, err = c.DeleteLoadBalancerPolicy(ctx, &elbsdk.DeleteLoadBalancerPolicyInput{LoadBalancerName: lb, PolicyName: aws.String("spare")})
	call("DeleteLoadBalancerPolicy", err)
	_, err = c.SetLoadBalancerPoliciesOfListener(ctx, &elbsdk.SetLoadBalancerPoliciesOfListenerInput{LoadBalancerName: lb, LoadBalancerPort: port, PolicyNames: []string{"lb-60"}})
	call("SetLoadBalancerPoliciesOfListener", err)
	_, err = c.SetLoadBalancerPoliciesForBackendServer(ctx, &elbsdk.SetLoadBalancerPoliciesForBackendServerInput{LoadBalancerName: lb, InstancePort: aws.Int32(81), PolicyNames: []string{"proxied"}})
	call("SetLoadBalancerPoliciesForBackendServer", err)
	_, err = c.SetLoadBalancerListenerSSLCertificate(ctx, &elbsdk.SetLoadBalancerListenerSSLCertificateInput{LoadBalancerName: lb, LoadBalancerPort: secure,
		SSLCertificateId: aws.String("arn:aws:acm:us-east-1:123456789012:certificate/12345678-1234-1234-1234-123456789012")})
	call("SetLoadBalancerListenerSSLCertificate", err)

	described, err := c.DescribeLoadBalancers(ctx, &elbsdk.DescribeLoadBalancersInput{LoadBalancerNames: []string{lbName}})
	call("DescribeLoadBalancers", err)
	d := described.LoadBalancerDescriptions[0]
	for i := range reflect.TypeFor[types.LoadBalancerDescription]().NumField() { // whatever the SDK has a place for is there
		if f := reflect.TypeFor[types.LoadBalancerDescription]().Field(i); f.IsExported() && f.Name != "AvailabilityZones" {
			require.False(t, reflect.ValueOf(d).Field(i).IsZero(), f.Name)
		}
	}
	require.Equal(t, []string{"lb-60"}, d.ListenerDescriptions[0].PolicyNames)
	require.Equal(t, "HTTP", *d.ListenerDescriptions[0].Listener.InstanceProtocol)
	require.Equal(t, []string{classic.DefaultNegotiation}, d.ListenerDescriptions[2].PolicyNames)
	require.Equal(t, int64(60), *d.Policies.LBCookieStickinessPolicies[0].CookieExpirationPeriod)
	require.Equal(t, "SHOP", *d.Policies.AppCookieStickinessPolicies[0].CookieName)
	require.Equal(t, []string{classic.DefaultNegotiation, "proxied"}, d.Policies.OtherPolicies)
	require.Equal(t, int32(81), *d.BackendServerDescriptions[0].InstancePort)

	policies, err := c.DescribeLoadBalancerPolicies(ctx, &elbsdk.DescribeLoadBalancerPoliciesInput{LoadBalancerName: lb, PolicyNames: []string{"lb-60"}})
	call("DescribeLoadBalancerPolicies", err)
	require.Equal(t, "60", *policies.PolicyDescriptions[0].PolicyAttributeDescriptions[0].AttributeValue)
	samples, err := c.DescribeLoadBalancerPolicies(ctx, &elbsdk.DescribeLoadBalancerPoliciesInput{})
	require.NoError(t, err)
	require.Contains(t, *samples.PolicyDescriptions[0].PolicyName, "ELBSecurityPolicy-")
	kinds, err := c.DescribeLoadBalancerPolicyTypes(ctx, &elbsdk.DescribeLoadBalancerPolicyTypesInput{})
	call("DescribeLoadBalancerPolicyTypes", err)
	require.Len(t, kinds.PolicyTypeDescriptions, 6)

	modified, err := c.ModifyLoadBalancerAttributes(ctx, &elbsdk.ModifyLoadBalancerAttributesInput{LoadBalancerName: lb,
		LoadBalancerAttributes: &types.LoadBalancerAttributes{ConnectionSettings: &types.ConnectionSettings{IdleTimeout: aws.Int32(30)}}})
	call("ModifyLoadBalancerAttributes", err)
	require.Nil(t, modified.LoadBalancerAttributes.ConnectionDraining)
	attributes, err := c.DescribeLoadBalancerAttributes(ctx, &elbsdk.DescribeLoadBalancerAttributesInput{LoadBalancerName: lb})
	call("DescribeLoadBalancerAttributes", err)
	require.Equal(t, int32(30), *attributes.LoadBalancerAttributes.ConnectionSettings.IdleTimeout)
	require.Equal(t, int32(300), *attributes.LoadBalancerAttributes.ConnectionDraining.Timeout)
	require.Equal(t, "defensive", *attributes.LoadBalancerAttributes.AdditionalAttributes[0].Value)

	subnets, err := c.AttachLoadBalancerToSubnets(ctx, &elbsdk.AttachLoadBalancerToSubnetsInput{LoadBalancerName: lb, Subnets: []string{"subnet-0a1b2c3e"}})
	call("AttachLoadBalancerToSubnets", err)
	require.Len(t, subnets.Subnets, 2)
	_, err = c.DetachLoadBalancerFromSubnets(ctx, &elbsdk.DetachLoadBalancerFromSubnetsInput{LoadBalancerName: lb, Subnets: []string{"subnet-0a1b2c3d"}})
	call("DetachLoadBalancerFromSubnets", err)
	groups, err := c.ApplySecurityGroupsToLoadBalancer(ctx, &elbsdk.ApplySecurityGroupsToLoadBalancerInput{LoadBalancerName: lb, SecurityGroups: []string{"sg-11111111"}})
	call("ApplySecurityGroupsToLoadBalancer", err)
	require.Equal(t, []string{"sg-11111111"}, groups.SecurityGroups)

	_, err = c.AddTags(ctx, &elbsdk.AddTagsInput{LoadBalancerNames: []string{lbName}, Tags: []types.Tag{{Key: aws.String("stage")}, {Key: aws.String("team"), Value: aws.String("cart")}}})
	call("AddTags", err)
	_, err = c.RemoveTags(ctx, &elbsdk.RemoveTagsInput{LoadBalancerNames: []string{lbName}, Tags: []types.TagKeyOnly{{Key: aws.String("stage")}}})
	call("RemoveTags", err)
	tags, err := c.DescribeTags(ctx, &elbsdk.DescribeTagsInput{LoadBalancerNames: []string{lbName}})
	call("DescribeTags", err)
	require.Equal(t, "cart", *tags.TagDescriptions[0].Tags[0].Value)
	require.Len(t, tags.TagDescriptions[0].Tags, 1)

	_, err = c.DeleteLoadBalancerListeners(ctx, &elbsdk.DeleteLoadBalancerListenersInput{LoadBalancerName: lb, LoadBalancerPorts: []int32{other, 1}})
	call("DeleteLoadBalancerListeners", err)
	for range 2 {
		_, err = c.DeleteLoadBalancer(ctx, &elbsdk.DeleteLoadBalancerInput{LoadBalancerName: lb})
		call("DeleteLoadBalancer", err)
	}

	_, err = c.CreateLoadBalancer(ctx, &elbsdk.CreateLoadBalancerInput{LoadBalancerName: lb, AvailabilityZones: []string{"us-east-1a"},
		Listeners: []types.Listener{listener("HTTP", port, "HTTP", 80)}})
	require.NoError(t, err)
	zones, err := c.EnableAvailabilityZonesForLoadBalancer(ctx, &elbsdk.EnableAvailabilityZonesForLoadBalancerInput{LoadBalancerName: lb, AvailabilityZones: []string{"us-east-1b"}})
	call("EnableAvailabilityZonesForLoadBalancer", err)
	require.Equal(t, []string{"us-east-1a", "us-east-1b"}, zones.AvailabilityZones)
	_, err = c.DisableAvailabilityZonesForLoadBalancer(ctx, &elbsdk.DisableAvailabilityZonesForLoadBalancerInput{LoadBalancerName: lb, AvailabilityZones: []string{"us-east-1b"}})
	call("DisableAvailabilityZonesForLoadBalancer", err)
	limits, err := c.DescribeAccountLimits(ctx, &elbsdk.DescribeAccountLimitsInput{PageSize: aws.Int32(2)})
	call("DescribeAccountLimits", err)
	require.Len(t, limits.Limits, 2)
	limits, err = c.DescribeAccountLimits(ctx, &elbsdk.DescribeAccountLimitsInput{Marker: limits.NextMarker})
	require.NoError(t, err)
	require.Len(t, limits.Limits, 1)
	require.Nil(t, limits.NextMarker)

	for _, name := range classic.Names() {
		require.True(t, called[name], name)
	}
	require.Len(t, called, 29)
}

// Every page has what it should, whatever its size, also while load balancers come and go.
func TestDescribeLoadBalancers_Pages(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx := t.Context()
	for i := range 7 {
		_, err := s.client.CreateLoadBalancer(ctx, &elbsdk.CreateLoadBalancerInput{LoadBalancerName: aws.String(fmt.Sprint("lb-", i)),
			AvailabilityZones: []string{"us-east-1a"}, Listeners: []types.Listener{listener("HTTP", freePort(t), "HTTP", 80)}})
		require.NoError(t, err)
	}
	for size := int32(1); size <= 8; size++ {
		var names []string
		pages := elbsdk.NewDescribeLoadBalancersPaginator(s.client, &elbsdk.DescribeLoadBalancersInput{PageSize: &size})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			require.NoError(t, err)
			require.LessOrEqual(t, len(page.LoadBalancerDescriptions), int(size))
			for _, d := range page.LoadBalancerDescriptions {
				names = append(names, *d.LoadBalancerName)
			}
		}
		require.Equal(t, "lb-0 lb-1 lb-2 lb-3 lb-4 lb-5 lb-6", strings.Join(names, " "))
	}
	first, err := s.client.DescribeLoadBalancers(ctx, &elbsdk.DescribeLoadBalancersInput{PageSize: aws.Int32(3)})
	require.NoError(t, err)
	_, err = s.client.DeleteLoadBalancer(ctx, &elbsdk.DeleteLoadBalancerInput{LoadBalancerName: aws.String("lb-2")})
	require.NoError(t, err)
	next, err := s.client.DescribeLoadBalancers(ctx, &elbsdk.DescribeLoadBalancersInput{PageSize: aws.Int32(3), Marker: first.NextMarker})
	require.NoError(t, err)
	require.Equal(t, "lb-3", *next.LoadBalancerDescriptions[0].LoadBalancerName)
}

// Every error of the service model that can occur here is understood by the SDK as its own type.
// Two cannot occur: DependencyThrottle and OperationNotPermitted say what other services of AWS
// refuse.
func TestErrors_GoSDK(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, "-certificates", dir)
	ctx, c, lb := t.Context(), s.client, aws.String(lbName)
	port, taken := freePort(t), freePort(t)
	s.create(listener("HTTP", port, "HTTP", 80))
	s.policy("lb-60", classic.LBCookiePolicyType, "CookieExpirationPeriod", "60")
	s.policy("app", classic.AppCookiePolicyType, "CookieName", "SHOP")
	s.policy("proxied", classic.ProxyProtocolPolicyType, "ProxyProtocol", "true")
	s.policies(port, "lb-60")
	_, err := c.CreateLoadBalancerListeners(ctx, &elbsdk.CreateLoadBalancerListenersInput{LoadBalancerName: lb, Listeners: []types.Listener{listener("TCP", taken, "TCP", 81)}})
	require.NoError(t, err)

	createWith := func(edit func(in *elbsdk.CreateLoadBalancerInput)) func() error {
		return func() error {
			in := &elbsdk.CreateLoadBalancerInput{LoadBalancerName: aws.String("other"), Subnets: []string{"subnet-0a1b2c3d"},
				Listeners: []types.Listener{listener("HTTP", freePort(t), "HTTP", 80)}}
			edit(in)
			_, err := c.CreateLoadBalancer(ctx, in)
			return err
		}
	}
	listen := func(l types.Listener) func() error {
		return func() error {
			_, err := c.CreateLoadBalancerListeners(ctx, &elbsdk.CreateLoadBalancerListenersInput{LoadBalancerName: lb, Listeners: []types.Listener{l}})
			return err
		}
	}
	policy := func(name, kind string, attributes ...string) func() error {
		return func() error {
			in := &elbsdk.CreateLoadBalancerPolicyInput{LoadBalancerName: lb, PolicyName: &name, PolicyTypeName: &kind}
			for i := 0; i < len(attributes); i += 2 {
				in.PolicyAttributes = append(in.PolicyAttributes, types.PolicyAttribute{AttributeName: &attributes[i], AttributeValue: &attributes[i+1]})
			}
			_, err := c.CreateLoadBalancerPolicy(ctx, in)
			return err
		}
	}
	set := func(port int32, names ...string) func() error {
		return func() error {
			_, err := c.SetLoadBalancerPoliciesOfListener(ctx, &elbsdk.SetLoadBalancerPoliciesOfListenerInput{LoadBalancerName: lb, LoadBalancerPort: port, PolicyNames: append([]string{}, names...)})
			return err
		}
	}
	tags := func(keys ...string) func() error {
		return func() error {
			in := &elbsdk.AddTagsInput{LoadBalancerNames: []string{lbName}}
			for _, key := range keys {
				in.Tags = append(in.Tags, types.Tag{Key: &key, Value: aws.String("")})
			}
			_, err := c.AddTags(ctx, in)
			return err
		}
	}
	certificate := func(port int32, arn string) func() error {
		return func() error {
			_, err := c.SetLoadBalancerListenerSSLCertificate(ctx, &elbsdk.SetLoadBalancerListenerSSLCertificateInput{LoadBalancerName: lb, LoadBalancerPort: port, SSLCertificateId: &arn})
			return err
		}
	}
	attribute := func(a types.LoadBalancerAttributes) func() error {
		return func() error {
			_, err := c.ModifyLoadBalancerAttributes(ctx, &elbsdk.ModifyLoadBalancerAttributesInput{LoadBalancerName: lb, LoadBalancerAttributes: &a})
			return err
		}
	}
	invalid := func(err error) bool { return is[*types.InvalidConfigurationRequestException](err) }
	code := func(want string) func(error) bool {
		return func(err error) bool {
			var api smithy.APIError
			return errors.As(err, &api) && api.ErrorCode() == want
		}
	}
	validation := code("ValidationError")
	tests := map[string]struct {
		call func() error
		is   func(error) bool
	}{
		"no load balancer": {func() error {
			_, err := c.DescribeLoadBalancers(ctx, &elbsdk.DescribeLoadBalancersInput{LoadBalancerNames: []string{"none"}})
			return err
		}, is[*types.AccessPointNotFoundException]},
		"another configuration": {createWith(func(in *elbsdk.CreateLoadBalancerInput) { in.LoadBalancerName = lb }), is[*types.DuplicateAccessPointNameException]},
		"scheme":                {createWith(func(in *elbsdk.CreateLoadBalancerInput) { in.Scheme = aws.String("public") }), is[*types.InvalidSchemeException]},
		"subnet":                {createWith(func(in *elbsdk.CreateLoadBalancerInput) { in.Subnets = []string{"net"} }), is[*types.SubnetNotFoundException]},
		"subnet twice":          {createWith(func(in *elbsdk.CreateLoadBalancerInput) { in.Subnets = append(in.Subnets, in.Subnets...) }), is[*types.InvalidSubnetException]},
		"security group":        {createWith(func(in *elbsdk.CreateLoadBalancerInput) { in.SecurityGroups = []string{"default"} }), is[*types.InvalidSecurityGroupException]},
		"group without subnets": {createWith(func(in *elbsdk.CreateLoadBalancerInput) {
			in.Subnets, in.AvailabilityZones, in.SecurityGroups = nil, []string{"us-east-1a"}, []string{"sg-0a1b2c3d"}
		}), invalid},
		"neither zone nor subnet": {createWith(func(in *elbsdk.CreateLoadBalancerInput) { in.Subnets = nil }), validation},
		"both":                    {createWith(func(in *elbsdk.CreateLoadBalancerInput) { in.AvailabilityZones = []string{"us-east-1a"} }), validation},
		"name":                    {createWith(func(in *elbsdk.CreateLoadBalancerInput) { in.LoadBalancerName = aws.String("-other") }), validation},
		"no listener":             {createWith(func(in *elbsdk.CreateLoadBalancerInput) { in.Listeners = []types.Listener{} }), validation},
		"tags at creation": {createWith(func(in *elbsdk.CreateLoadBalancerInput) {
			in.Tags = []types.Tag{{Key: aws.String("a")}, {Key: aws.String("a")}}
		}), is[*types.DuplicateTagKeysException]},
		"protocol":                 {listen(listener("UDP", freePort(t), "UDP", 80)), is[*types.UnsupportedProtocolException]},
		"layers":                   {listen(listener("HTTP", freePort(t), "TCP", 80)), invalid},
		"another listener":         {listen(listener("HTTP", port, "HTTP", 8080)), is[*types.DuplicateListenerException]},
		"certificate":              {listen(listener("HTTPS", freePort(t), "HTTP", 80)), is[*types.CertificateNotFoundException]},
		"no certificate":           {listen(types.Listener{Protocol: aws.String("SSL"), LoadBalancerPort: 1, InstancePort: aws.Int32(1)}), validation},
		"port":                     {listen(listener("HTTP", 70000, "HTTP", 80)), validation},
		"instance port":            {listen(listener("HTTP", 80, "HTTP", 0)), validation},
		"port of another program":  {listen(listener("HTTP", int32(s.elb.listener.Addr().(*net.TCPAddr).Port), "HTTP", 80)), invalid},
		"port of another balancer": {createWith(func(in *elbsdk.CreateLoadBalancerInput) { in.Listeners[0].LoadBalancerPort = port }), invalid},
		"instance": {func() error {
			_, err := c.RegisterInstancesWithLoadBalancer(ctx, &elbsdk.RegisterInstancesWithLoadBalancerInput{LoadBalancerName: lb, Instances: sdkInstances([]string{"i-00000000"})})
			return err
		}, is[*types.InvalidEndPointException]},
		"policy type":          {policy("p", "NoSuchPolicyType"), is[*types.PolicyTypeNotFoundException]},
		"policy twice":         {policy("app", classic.LBCookiePolicyType), is[*types.DuplicatePolicyNameException]},
		"policy name":          {policy("a_b", classic.LBCookiePolicyType), validation},
		"attribute missing":    {policy("p", classic.AppCookiePolicyType), invalid},
		"attribute unknown":    {policy("p", classic.LBCookiePolicyType, "Period", "60"), invalid},
		"attribute twice":      {policy("p", classic.AppCookiePolicyType, "CookieName", "a", "CookieName", "b"), invalid},
		"negative period":      {policy("p", classic.LBCookiePolicyType, "CookieExpirationPeriod", "-1"), invalid},
		"cookie name":          {policy("p", classic.AppCookiePolicyType, "CookieName", "a b"), invalid},
		"public key":           {policy("p", classic.PublicKeyPolicyType, "PublicKey", "abc"), invalid},
		"no public key policy": {policy("p", classic.BackendAuthenticationPolicyType, "PublicKeyPolicyName", "app"), invalid},
		"no versions":          {policy("p", classic.SSLNegotiationPolicyType, "AES128-SHA", "true"), invalid},
		"no ciphers":           {policy("p", classic.SSLNegotiationPolicyType, "Protocol-TLSv1.2", "true", "RC4-SHA", "true"), invalid},
		"no sample":            {policy("p", classic.SSLNegotiationPolicyType, "Reference-Security-Policy", "x"), invalid},
		"policy":               {set(port, "none"), is[*types.PolicyNotFoundException]},
		"listener":             {set(1, "app"), is[*types.ListenerNotFoundException]},
		"two stickinesses":     {set(port, "app", "lb-60"), invalid},
		"sticky TCP":           {set(taken, "lb-60"), invalid},
		"back-end policy":      {set(port, "proxied"), invalid},
		"policy in use": {func() error {
			_, err := c.DeleteLoadBalancerPolicy(ctx, &elbsdk.DeleteLoadBalancerPolicyInput{LoadBalancerName: lb, PolicyName: aws.String("lb-60")})
			return err
		}, invalid},
		"back-end port": {func() error {
			_, err := c.SetLoadBalancerPoliciesForBackendServer(ctx, &elbsdk.SetLoadBalancerPoliciesForBackendServerInput{LoadBalancerName: lb, InstancePort: aws.Int32(99), PolicyNames: []string{"proxied"}})
			return err
		}, invalid},
		"certificate of HTTP":   {certificate(port, "arn:aws:iam::1:server-certificate/x"), invalid},
		"certificate of nobody": {certificate(2, "arn:aws:iam::1:server-certificate/x"), is[*types.ListenerNotFoundException]},
		"attribute of nobody":   {attribute(types.LoadBalancerAttributes{AdditionalAttributes: []types.AdditionalAttribute{{Key: aws.String("elb.http.unknown"), Value: aws.String("x")}}}), is[*types.LoadBalancerAttributeNotFoundException]},
		"log without a bucket":  {attribute(types.LoadBalancerAttributes{AccessLog: &types.AccessLog{Enabled: true}}), invalid},
		"idle timeout":          {attribute(types.LoadBalancerAttributes{ConnectionSettings: &types.ConnectionSettings{IdleTimeout: aws.Int32(4001)}}), validation},
		"too many tags":         {tags(strings.Split("a b c d e f g h i j k", " ")...), is[*types.TooManyTagsException]},
		"tag twice":             {tags("key", "key"), is[*types.DuplicateTagKeysException]},
		"last zone": {func() error {
			_, err := c.DisableAvailabilityZonesForLoadBalancer(ctx, &elbsdk.DisableAvailabilityZonesForLoadBalancerInput{LoadBalancerName: lb, AvailabilityZones: []string{"us-east-1a", "us-east-1b"}})
			return err
		}, invalid},
		"subnets beside zones": {func() error {
			_, err := c.AttachLoadBalancerToSubnets(ctx, &elbsdk.AttachLoadBalancerToSubnetsInput{LoadBalancerName: lb, Subnets: []string{"subnet-0a1b2c3d"}})
			return err
		}, invalid},
		"groups beside zones": {func() error {
			_, err := c.ApplySecurityGroupsToLoadBalancer(ctx, &elbsdk.ApplySecurityGroupsToLoadBalancerInput{LoadBalancerName: lb, SecurityGroups: []string{"sg-0a1b2c3d"}})
			return err
		}, invalid},
		"marker": {func() error {
			_, err := c.DescribeLoadBalancers(ctx, &elbsdk.DescribeLoadBalancersInput{Marker: aws.String("%")})
			return err
		}, validation},
		"page size": {func() error {
			_, err := c.DescribeLoadBalancers(ctx, &elbsdk.DescribeLoadBalancersInput{PageSize: aws.Int32(401)})
			return err
		}, validation},
		"health check": {func() error {
			_, err := c.ConfigureHealthCheck(ctx, &elbsdk.ConfigureHealthCheckInput{LoadBalancerName: lb, HealthCheck: &types.HealthCheck{Target: aws.String("HTTP:80"), Interval: aws.Int32(5), Timeout: aws.Int32(2), UnhealthyThreshold: aws.Int32(2), HealthyThreshold: aws.Int32(2)}})
			return err
		}, validation},
	}
	before := document(t, s)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := tt.call()
			require.Error(t, err)
			require.True(t, tt.is(err), "%v", err)
		})
	}
	require.Equal(t, before, document(t, s), "what is refused changes nothing")

	for i := 0; ; i++ {
		if err := policy(fmt.Sprint("p-", i), classic.LBCookiePolicyType)(); err != nil {
			require.True(t, is[*types.TooManyPoliciesException](err), "%v", err)
			require.Equal(t, 97, i)
			break
		}
	}
	for i := 0; ; i++ {
		err := createWith(func(in *elbsdk.CreateLoadBalancerInput) { in.LoadBalancerName = aws.String(fmt.Sprint("lb-", i)) })()
		if err != nil {
			require.True(t, is[*types.TooManyAccessPointsException](err), "%v", err)
			require.Equal(t, 19, i)
			break
		}
	}
}

func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

func document(t testing.TB, s *program) string {
	t.Helper()
	text, err := s.elb.store.doc.Load().MarshalIndent()
	require.NoError(t, err)
	return string(text)
}
