package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/balancer/discovery/internal/source"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
)

// The kinds of trouble that are logged.
const (
	listFails  = "the EndpointSlices cannot be listed, the targets stay as they are"
	watchFails = "the EndpointSlices cannot be watched, the targets change late"
	fieldsFail = "the EndpointSlices do not have what the fields select, the targets stay as they are"
)

const (
	defaultHold = 2 * time.Second
	together    = 100 * time.Millisecond // changes within this time make one set
	again       = 5 * time.Second        // until a set that Report refused is reported again
)

// Service reports the pods of a Kubernetes Service. Set its fields, then call [Service.Run]. Do not
// change the fields afterwards, and do not copy a Service. Its methods are safe for concurrent use.
type Service struct {
	// Config says how to reach the API server, as [rest.InClusterConfig] or package clientcmd of
	// client-go returns it. It is required and is not modified. Each Service makes a client of its
	// own from it, and client-go shares the connections of equal Configs.
	Config *rest.Config

	// Namespace is the namespace of the Service. It is required.
	Namespace string

	// Name is the name of the Service. It is required.
	Name string

	// Port selects the port of the pods. It is the name of a port of the Service, whose number may
	// differ from pod to pod. Or it is a number: that of the pods, which the Service calls
	// targetPort, and not the Service's own. A headless Service without ports needs a number. Empty
	// means the only TCP port of the Service.
	Port string

	// Scheme is the scheme of the targets' URLs, see [balancer.Target]. Empty means http.
	Scheme string

	// ServerName is the name that the pods' certificates must have, see [balancer.Target]. Empty
	// means Name.Namespace.svc if Scheme is https or wss, and none otherwise.
	ServerName string

	// Family limits the targets to addresses of one kind, IPv4 or IPv6. Empty means both. A pod
	// that has both is one target, with its IPv4 address.
	Family discoveryv1.AddressType

	// ByName makes the name of a pod the ID of its target, for a StatefulSet: a new pod gets the
	// sessions of the previous pod with the same name. See the package's documentation.
	ByName bool

	// Hold is how long a pod that disappears from the EndpointSlices stays a target. It is draining
	// during that time. EndpointSlices have such gaps while pods move from one to another. A pod
	// that was terminating is removed at once. Zero means 2 seconds. Negative means that a pod
	// which disappears is removed at once.
	Hold time.Duration

	// Report is called with every new set of targets. It is required. See package discovery for the
	// contract.
	Report func([]balancer.Target) error

	// Logger receives failures (Warn), once for each kind until it is over, and that it is over
	// (Info). Nil means [slog.Default].
	Logger *slog.Logger

	source source.Source
}

// Run watches the EndpointSlices of the Service until ctx ends, and then returns nil. It returns an
// error at once if the fields cannot be used or if it is running already. It may be called again
// after it has returned.
func (s *Service) Run(ctx context.Context) error {
	api, err := s.dial()
	if err := s.source.Start(err); err != nil {
		return err
	}
	defer s.source.Stop()
	ctx, cancel := context.WithCancel(ctx)
	m := newMirror()
	var reflecting sync.WaitGroup
	reflecting.Go(func() { api.reflect(ctx, m) })
	defer reflecting.Wait()
	defer cancel()
	s.follow(ctx, m)
	return nil
}

// Ready waits until Report has accepted a set. It also waits for Run to begin. If ctx ends first,
// it returns an error that wraps ctx's and names the latest failure. If Run refuses the fields, it
// returns that error.
func (s *Service) Ready(ctx context.Context) error { return s.source.Ready(ctx) }

// dial validates the fields and returns the client. It connects to nothing yet.
func (s *Service) dial() (*api, error) {
	switch {
	case s.Config == nil:
		return nil, errors.New("discovery: Service.Config is nil")
	case s.Report == nil:
		return nil, errors.New("discovery: Service.Report is nil")
	case s.Namespace == "" || s.Name == "":
		return nil, errors.New("discovery: Service.Namespace and Name must not be empty")
	case !isName(s.Namespace):
		return nil, fmt.Errorf("discovery: Service.Namespace %q cannot be a name in Kubernetes", s.Namespace)
	case !isName(s.Name):
		return nil, fmt.Errorf("discovery: Service.Name %q cannot be a name in Kubernetes", s.Name)
	case !slices.Contains([]discoveryv1.AddressType{"", discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6}, s.Family):
		return nil, fmt.Errorf("discovery: Service.Family %q is neither IPv4 nor IPv6", s.Family)
	}
	if _, err := balancer.Normalize(s.target(&pod{addr: probe, port: 1, id: "pod"})); err != nil {
		return nil, fmt.Errorf("discovery: Service.Scheme or ServerName: %w", err)
	}
	api, err := newAPI(s.Config, s.Namespace, s.Name)
	if err != nil {
		if strings.Contains(s.Config.Host, "@") { // the error may repeat a password
			err = errors.New("no client can be made; the Host must be a URL, and needs no user information")
		}
		return nil, fmt.Errorf("discovery: Service.Config: %w", err)
	}
	return api, nil
}

// isName reports whether s is a DNS label (RFC 1123), as names of Services and namespaces are.
func isName(s string) bool { return len(validation.IsDNS1123Label(s)) == 0 }

// follow reports what the mirror shows until ctx ends.
func (s *Service) follow(ctx context.Context, m *mirror) {
	known := newRoster(s.hold())
	due := time.NewTimer(0)
	due.Stop()
	waiting := false // for more changes
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.changed:
			if !waiting {
				waiting = true
				due.Reset(together)
			}
		case <-due.C:
			waiting = false
			if next := s.turn(m, known); next > 0 {
				due.Reset(next)
			}
		}
	}
}

// turn reports the current set if it is new. It returns when to call it again if nothing changes;
// zero means never.
func (s *Service) turn(m *mirror, known *roster) (next time.Duration) {
	found, relisted, failed := m.look()
	if failed != nil {
		s.source.Trouble(s.logger(), failed.kind, failed.detail, failed.err)
	} else if found != nil {
		s.source.Over(s.logger(), listFails)
		s.source.Over(s.logger(), watchFails)
	}
	if found == nil {
		return 0
	}
	endpoints, err := s.endpoints(found, known.began)
	if err != nil {
		s.source.Trouble(s.logger(), fieldsFail, "", err)
		return 0
	}
	s.source.Over(s.logger(), fieldsFail)
	pods, next := known.update(time.Now(), endpoints, relisted)
	targets := make([]balancer.Target, len(pods))
	for i, p := range pods {
		targets[i] = s.target(p)
	}
	if s.source.Offer(s.logger(), s.Report, targets) != nil {
		return again
	}
	return next
}

func (s *Service) hold() time.Duration  { return max(0, cmp.Or(s.Hold, defaultHold)) }
func (s *Service) logger() *slog.Logger { return cmp.Or(s.Logger, slog.Default()) }
