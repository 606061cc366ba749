package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbsdk "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancing"
	"github.com/aws/aws-sdk-go-v2/service/elasticloadbalancing/types"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/elb/internal/classic"
)

// full starts the program with a load balancer that has as much as an account may have: 100
// listeners and 1,000 instances. It returns the ports.
func full(b *testing.B) (*program, []int32) {
	b.Helper()
	application := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	b.Cleanup(application.Close)
	args := []string{"-state", filepath.Join(b.TempDir(), "state.json")}
	var ids []string
	for i := range classic.MaxInstances {
		ids = append(ids, fmt.Sprintf("i-%08x", i))
		args = append(args, "-instance", ids[i]+"="+application.Listener.Addr().String())
	}
	s := start(b, args...)
	var ports []int32
	var listeners []types.Listener
	for range classic.MaxListeners {
		ports = append(ports, freePort(b))
		listeners = append(listeners, listener("HTTP", ports[len(ports)-1], "HTTP", 80))
	}
	_, err := s.client.CreateLoadBalancer(b.Context(), &elbsdk.CreateLoadBalancerInput{
		LoadBalancerName: aws.String(lbName), Listeners: listeners, AvailabilityZones: []string{defaultZone}})
	require.NoError(b, err)
	s.register(ids...)
	s.await(inService, ids...)
	return s, ports
}

func BenchmarkFull(b *testing.B) {
	s, ports := full(b)
	lb := aws.String(lbName)
	b.Run("DescribeLoadBalancers", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.client.DescribeLoadBalancers(context.Background(), &elbsdk.DescribeLoadBalancersInput{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("DescribeInstanceHealth", func(b *testing.B) {
		for b.Loop() {
			s.states()
		}
	})
	s.policy("lb", classic.LBCookiePolicyType)
	b.Run("SetLoadBalancerPoliciesOfListener/traffic", func(b *testing.B) {
		ctx, cancel := context.WithCancel(b.Context())
		var visitors sync.WaitGroup
		for i := range 4 {
			visitors.Go(func() {
				for ctx.Err() == nil {
					res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", ports[i%2]))
					if err != nil || res.StatusCode != http.StatusNoContent {
						b.Error(err, res)
						return
					}
					res.Body.Close()
				}
			})
		}
		sets := [][]string{{"lb"}, {}}
		for i := 0; b.Loop(); i++ {
			_, err := s.client.SetLoadBalancerPoliciesOfListener(context.Background(), &elbsdk.SetLoadBalancerPoliciesOfListenerInput{
				LoadBalancerName: lb, LoadBalancerPort: ports[0], PolicyNames: sets[i%2]})
			if err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		cancel()
		visitors.Wait()
	})
}
