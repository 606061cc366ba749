package kubernetes_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/balancer/discovery/kubernetes"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Conditions of endpoints, as the EndpointSlice controller sets them.
var (
	isReady       = conditions(true, true, false)
	isUnready     = conditions(false, false, false)
	isTerminating = conditions(false, true, true)
	isEnding      = conditions(false, false, true)
)

func conditions(ready, serving, terminating bool) discoveryv1.EndpointConditions {
	return discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}
}

// uid returns the UID of the pod of that name.
func uid(pod string) types.UID {
	return types.UID(fmt.Sprintf("%08x-0000-4000-8000-000000000000", pod))
}

// endpoint returns the endpoint of a pod. Its ID is the name, a dash and the name in hexadecimal,
// eight digits of it.
func endpoint(pod, address string, c discoveryv1.EndpointConditions) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{
		Addresses: []string{address}, Conditions: c, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: pod, UID: uid(pod)},
	}
}

// slice returns a slice of the Service web with the port http.
func slice(name string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	family := discoveryv1.AddressTypeIPv4
	if len(endpoints) > 0 && strings.Contains(endpoints[0].Addresses[0], ":") {
		family = discoveryv1.AddressTypeIPv6
	}
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
		},
		AddressType: family,
		Endpoints:   endpoints,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP)}},
	}
}

// sets records what a Service reports.
type sets struct {
	mu      sync.Mutex
	all     [][]balancer.Target
	refusal error
}

func (s *sets) report(targets []balancer.Target) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refusal != nil {
		return s.refusal
	}
	s.all = append(s.all, targets)
	return nil
}

// refuse makes Report return err.
func (s *sets) refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusal = err
}

func (s *sets) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// words returns the last set, for example "a 10.0.0.1 ready". It leaves out what IDs have behind
// the pod's name.
func (s *sets) words() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) == 0 {
		return nil
	}
	words := make([]string, 0, len(s.all))
	for _, t := range s.all[len(s.all)-1] {
		name, _, _ := strings.Cut(t.ID, "-")
		state := "ready"
		switch {
		case t.Weight < 0:
			state = "reserved"
		case t.Backup:
			state = "draining"
		}
		words = append(words, name+" "+t.URL.Hostname()+" "+state)
	}
	slices.Sort(words)
	return words
}

// A fixture is a Service that runs against an apiServer, in a bubble.
type fixture struct {
	*sets
	t       *testing.T
	api     *apiServer
	service *kubernetes.Service
	log     *logBuffer
}

// run runs a Service in a bubble until use returns. It begins when use waits for something first,
// so that use can prepare the server. Options may change the Service's fields.
func run(t *testing.T, use func(f *fixture), options ...func(*kubernetes.Service)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &fixture{sets: &sets{}, t: t, api: newAPIServer(), log: &logBuffer{}}
		f.service = &kubernetes.Service{
			Config: f.api.config(), Namespace: "default", Name: "web", Report: f.report,
			Logger: slog.New(slog.NewTextHandler(f.log, nil)),
		}
		for _, o := range options {
			o(f.service)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error, 1)
		go func() {
			time.Sleep(time.Millisecond) // until use waits for something
			ended <- f.service.Run(ctx)
		}()
		use(f)
		cancel()
		require.NoError(t, <-ended)
	})
}

// settle lets the changes so far reach Report.
func (f *fixture) settle() {
	time.Sleep(150 * time.Millisecond)
	synctest.Wait()
}

// requireSet requires the last set to be that, after the changes so far.
func (f *fixture) requireSet(want ...string) {
	f.t.Helper()
	f.settle()
	require.Equal(f.t, want, f.words())
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// take returns the lines since the last call.
func (l *logBuffer) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text, _ := io.ReadAll(&l.b)
	return string(text)
}

func TestService_B6_PhasesOfPods(t *testing.T) {
	yes, no := new(true), new(false)
	for name, tt := range map[string]struct {
		conditions discoveryv1.EndpointConditions
		want       string
	}{
		"ready":                            {isReady, "ready"},
		"nothing is known":                 {discoveryv1.EndpointConditions{}, "ready"},
		"ready alone":                      {discoveryv1.EndpointConditions{Ready: yes}, "ready"},
		"serving alone":                    {discoveryv1.EndpointConditions{Serving: yes}, "ready"},
		"not ready, of an old server":      {discoveryv1.EndpointConditions{Ready: no}, "reserved"},
		"not ready":                        {isUnready, "reserved"},
		"terminating":                      {isTerminating, "draining"},
		"terminating and no longer ready":  {isEnding, "reserved"},
		"not ready but published":          {conditions(true, false, false), "reserved"},
		"terminating but published":        {conditions(true, true, true), "draining"},
		"terminating, unready, published":  {conditions(true, false, true), "reserved"},
		"terminating, nothing else known":  {discoveryv1.EndpointConditions{Terminating: yes}, "draining"},
		"serving, but not ready, not over": {conditions(false, true, false), "ready"},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(f *fixture) {
				f.api.set(slice("web-1", endpoint("a", "10.0.0.1", tt.conditions)))
				require.NoError(f.t, f.service.Ready(f.t.Context()))
				f.requireSet("a 10.0.0.1 " + tt.want)
			})
		})
	}
}

// ended returns the error of Ready for a context that ends soon.
func ended(f *fixture) error {
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Second)
	defer cancel()
	return f.service.Ready(ctx)
}
