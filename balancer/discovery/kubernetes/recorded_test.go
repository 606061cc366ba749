package kubernetes_test

import (
	"embed"
	"testing"

	"github.com/stickylb/stickylb/balancer/discovery/kubernetes"
	"github.com/stretchr/testify/require"
	discoveryv1 "k8s.io/api/discovery/v1"
)

//go:embed testdata/*.json
var testdata embed.FS

// The slices in testdata have the shape that clusters give them.
func TestService_RecordedShapes(t *testing.T) {
	tests := map[string]struct {
		file string
		edit func(*kubernetes.Service)
		want []string
	}{
		"a Deployment with hints during a rollout": {"deployment.json", func(s *kubernetes.Service) { s.Port = "http" }, []string{
			"web-5c7588df-q9d8s-c3f5a1a0=http://10.244.2.4:8080;zone=eu-1b;backup;label.node=worker-2;label.pod=web-5c7588df-q9d8s",
			"web-6d5fb9c5c4-8x2lq-0f6bd0c4=http://10.244.1.17:8080;zone=eu-1a;for-zones=eu-1a;label.node=worker-1;label.pod=web-6d5fb9c5c4-8x2lq",
			"web-6d5fb9c5c4-tnz5w-6ac2e5b2=http://10.244.2.9:8080;zone=eu-1b;for-zones=eu-1a,eu-1b;label.node=worker-2;label.pod=web-6d5fb9c5c4-tnz5w",
		}},
		"another port": {"deployment.json", func(s *kubernetes.Service) { s.Port, s.Scheme, s.Family = "9090", "HTTPS", "IPv4" }, []string{
			"web-5c7588df-q9d8s-c3f5a1a0=https://10.244.2.4:9090;server-name=web.default.svc;zone=eu-1b;backup;label.node=worker-2;label.pod=web-5c7588df-q9d8s",
			"web-6d5fb9c5c4-8x2lq-0f6bd0c4=https://10.244.1.17:9090;server-name=web.default.svc;zone=eu-1a;for-zones=eu-1a;label.node=worker-1;label.pod=web-6d5fb9c5c4-8x2lq",
			"web-6d5fb9c5c4-tnz5w-6ac2e5b2=https://10.244.2.9:9090;server-name=web.default.svc;zone=eu-1b;for-zones=eu-1a,eu-1b;label.node=worker-2;label.pod=web-6d5fb9c5c4-tnz5w",
		}},
		"a StatefulSet of two families that publishes pods that are not ready, with hints for some": {"headless.json", func(s *kubernetes.Service) { s.ByName = true }, []string{
			"web-0=http://10.244.3.2:8080;zone=eu-1c;label.node=worker-3;label.pod=web-0",
			"web-1=http://10.244.3.5:8080;weight=-1;zone=eu-1c;label.node=worker-3;label.pod=web-1",
		}},
		"its IPv6 half": {"headless.json", func(s *kubernetes.Service) { s.Family, s.Scheme = "IPv6", "tcp" }, []string{
			"web-0-1b4e28ba=tcp://[fd00:10:244:3::2]:8080;zone=eu-1c;label.node=worker-3;label.pod=web-0",
			"web-1-6fa459ea=tcp://[fd00:10:244:3::5]:8080;weight=-1;zone=eu-1c;label.node=worker-3;label.pod=web-1",
		}},
		"slices written by hand": {"manual.json", func(s *kubernetes.Service) { s.Scheme, s.ServerName = "wss", "outside.example" }, []string{
			"https://192.0.2.10:9443;server-name=outside.example",
			"https://192.0.2.11:9443;server-name=outside.example;weight=-1",
			"https://192.0.2.13:8443;server-name=outside.example",
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			text, err := testdata.ReadFile("testdata/" + tt.file)
			require.NoError(t, err)
			run(t, func(f *fixture) {
				f.api.set(recorded(t, text)...)
				f.settle()
				var got []string
				for _, target := range f.all[0] {
					got = append(got, target.String())
				}
				require.Equal(f.t, tt.want, got)
				require.Empty(f.t, f.log.take())
			}, tt.edit)
		})
	}
}

func TestService_NamesThePortsThatThereAre(t *testing.T) {
	text, err := testdata.ReadFile("testdata/deployment.json")
	require.NoError(t, err)
	for port, want := range map[string]string{
		"":      `Service.Port is empty, but the TCP ports in EndpointSlice default/web-4kx7p are: http 8080, metrics 9090`,
		"https": `Service.Port is "https", but the TCP ports`,
		"80":    `Service.Port is "80", but the TCP ports`,
	} {
		run(t, func(f *fixture) {
			all := recorded(t, text)
			f.api.set(all...)
			f.settle()
			require.Empty(f.t, f.all)
			require.ErrorContains(f.t, ended(f), want)

			all[0].Endpoints = nil // a Service without pods is no failure
			f.api.set(all...)
			require.NoError(f.t, f.service.Ready(f.t.Context()))
		}, func(s *kubernetes.Service) { s.Port = port })
	}
}

// external returns a slice of one endpoint that is no pod, with these ports.
func external(name, address string, ports ...discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
	s := slice(name, discoveryv1.Endpoint{Addresses: []string{address}})
	s.Ports = ports
	return s
}

func TestService_Ports(t *testing.T) {
	port := func(number int32) discoveryv1.EndpointPort { return discoveryv1.EndpointPort{Port: &number} }
	tests := map[string]struct {
		port   string
		slices []*discoveryv1.EndpointSlice
		want   []string // IDs
	}{
		"one address with two ports": {
			"", []*discoveryv1.EndpointSlice{external("web-1", "10.0.0.1", port(8081)), external("web-2", "10.0.0.1", port(8080))},
			[]string{"10.0.0.1:8080", "10.0.0.1:8081"},
		},
		"a number that no port can have": { // the API server does not check it
			"", []*discoveryv1.EndpointSlice{
				external("web-1", "10.0.0.1", port(0)), external("web-2", "10.0.0.2", port(65536)),
				external("web-3", "10.0.0.3", port(8080)), external("web-4", "10.0.0.4", port(-1)),
			},
			[]string{"10.0.0.3:8080"},
		},
		"no ports, as a headless Service may have": {
			"8080", []*discoveryv1.EndpointSlice{external("web-1", "10.0.0.1")}, []string{"10.0.0.1:8080"},
		},
		"no ports, because these pods lack the one that others have": {
			"8080", []*discoveryv1.EndpointSlice{external("web-1", "10.0.0.1"), external("web-2", "10.0.0.2", port(8080))},
			[]string{"10.0.0.2:8080"},
		},
		"no ports, and a number that is none": {"65536", []*discoveryv1.EndpointSlice{external("web-1", "10.0.0.1")}, nil},
		"all ports": {
			"8080", []*discoveryv1.EndpointSlice{external("web-1", "10.0.0.1", discoveryv1.EndpointPort{})}, []string{"10.0.0.1:8080"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			run(t, func(f *fixture) {
				f.api.set(tt.slices...)
				f.settle()
				var ids []string
				for _, targets := range f.all {
					ids = nil
					for _, target := range targets {
						ids = append(ids, target.ID)
					}
				}
				require.Equal(f.t, tt.want, ids)
			}, func(s *kubernetes.Service) { s.Port = tt.port })
		})
	}
}

// While the port of a pod changes, an old and a new slice have it. It stays one target.
func TestService_APodWithTwoPortsIsOneTarget(t *testing.T) {
	run(t, func(f *fixture) {
		before, after := slice("web-1", endpoint("a", "10.0.0.1", isReady)), slice("web-2", endpoint("a", "10.0.0.1", isReady))
		after.Ports[0].Port = new(int32(8000))
		urls := func() (all []string) {
			f.settle()
			for _, target := range f.all[len(f.all)-1] {
				all = append(all, target.URL.Host)
			}
			return all
		}
		f.api.set(before)
		require.Equal(f.t, []string{"10.0.0.1:8080"}, urls())
		f.api.set(after)
		require.Equal(f.t, []string{"10.0.0.1:8080"}, urls(), "it keeps the port that it had")
		f.api.delete("web-1")
		require.Equal(f.t, []string{"10.0.0.1:8000"}, urls())
	})
}

// If the port in the slices has another name than Service.Port, the targets stay, and it is logged.
func TestService_PortIsRenamed(t *testing.T) {
	run(t, func(f *fixture) {
		web := slice("web-1", endpoint("a", "10.0.0.1", isReady))
		f.api.set(web)
		f.requireSet("a 10.0.0.1 ready")
		renamed := web.DeepCopy()
		renamed.Ports[0].Name = new("web")
		f.api.set(renamed)
		f.requireSet("a 10.0.0.1 ready")
		require.Contains(f.t, f.log.take(), "are: web 8080")
		f.api.set(web)
		f.settle()
		require.Contains(f.t, f.log.take(), "over: ")
		require.Equal(f.t, 1, f.count())
	}, func(s *kubernetes.Service) { s.Port = "http" })
}
