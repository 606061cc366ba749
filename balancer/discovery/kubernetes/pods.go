package kubernetes

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/stickylb/stickylb/balancer"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// phase is what a pod serves. A lower one is better.
type phase int

const (
	ready    phase = iota // new and bound sessions
	draining              // bound sessions, and new ones when nothing else serves
	reserved              // bound sessions
)

// A pod is a pod, or another endpoint of a Service, at one of its addresses.
type pod struct {
	key         string // the pod's UID; without one, the address and port
	id          string // the target's
	addr        netip.Addr
	port        int32
	phase       phase
	terminating bool
	zone        string
	forZones    []string
	labels      map[string]string
}

func (p *pod) hostPort() string {
	return net.JoinHostPort(p.addr.String(), strconv.Itoa(int(p.port)))
}

// probe is an address to validate the fields of a Service with.
var probe = netip.AddrFrom4([4]byte{192, 0, 2, 1})

// endpoints returns the endpoints in the slices that the fields select. It returns an error if
// there are none and the port is wrong, or if no slice of the Service was ever found.
func (s *Service) endpoints(found []*discoveryv1.EndpointSlice, began bool) (all []*pod, err error) {
	if len(found) == 0 && !began {
		return nil, fmt.Errorf("discovery: no EndpointSlice in namespace %s has the label %s=%s: does the Service exist?",
			s.Namespace, discoveryv1.LabelServiceName, s.Name)
	}
	headless := !slices.ContainsFunc(found, func(s *discoveryv1.EndpointSlice) bool { return len(s.Ports) > 0 })
	for _, slice := range found {
		if len(slice.Endpoints) == 0 || !s.selects(slice) {
			continue
		}
		port, wrong := s.port(slice, headless)
		if wrong != nil {
			err = wrong // usual for some slices, when not all pods have the port
			continue
		}
		for i := range slice.Endpoints {
			if p := s.endpoint(&slice.Endpoints[i]); p != nil {
				p.port = port
				p.id, p.key = cmp.Or(p.id, p.hostPort()), cmp.Or(p.key, p.hostPort())
				all = append(all, p)
			}
		}
	}
	if len(all) > 0 {
		return all, nil
	}
	return nil, err
}

// selects reports whether a slice belongs to the Service and has addresses of the family.
func (s *Service) selects(slice *discoveryv1.EndpointSlice) bool {
	if slice.Labels[discoveryv1.LabelServiceName] != s.Name || slice.Namespace != s.Namespace {
		return false // the server should have left it out
	}
	switch slice.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
		return s.Family == "" || s.Family == slice.AddressType
	}
	return false
}

// isAnyPort reports whether p means all TCP ports.
func isAnyPort(p discoveryv1.EndpointPort) bool {
	return p.Port == nil && (p.Protocol == nil || *p.Protocol == corev1.ProtocolTCP)
}

// fixedPort returns Port if it is the number of a port, and otherwise zero.
func (s *Service) fixedPort() int32 {
	number, err := strconv.ParseUint(s.Port, 10, 16)
	if err != nil {
		return 0
	}
	return int32(number)
}

// port returns the port of the endpoints in a slice. Headless says that no slice has ports, as
// those of a headless Service without ports.
func (s *Service) port(slice *discoveryv1.EndpointSlice, headless bool) (int32, error) {
	var matches []int32
	var all []string
	if fixed := s.fixedPort(); fixed > 0 && (headless || slices.ContainsFunc(slice.Ports, isAnyPort)) {
		return fixed, nil
	}
	for _, p := range slice.Ports {
		if p.Port == nil || p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
			continue
		}
		if *p.Port < 1 || *p.Port > 65535 { // the API server does not check it
			continue
		}
		name, number := value(p.Name), strconv.Itoa(int(*p.Port))
		if s.Port == "" || s.Port == name || s.Port == number {
			matches = append(matches, *p.Port)
		}
		all = append(all, strings.TrimPrefix(name+" "+number, " "))
	}
	if matches = slices.Compact(matches); len(matches) == 1 {
		return matches[0], nil
	}
	what := fmt.Sprintf("Service.Port is %q", s.Port)
	if s.Port == "" {
		what = "Service.Port is empty"
	}
	return 0, fmt.Errorf("discovery: %s, but the TCP ports in EndpointSlice %s/%s are: %s",
		what, slice.Namespace, slice.Name, cmp.Or(strings.Join(all, ", "), "none"))
}

// endpoint returns an endpoint without its port, and without an ID and a key if it is not a
// pod. It returns nil if the address is not valid.
func (s *Service) endpoint(e *discoveryv1.Endpoint) *pod {
	if len(e.Addresses) == 0 {
		return nil
	}
	addr, err := netip.ParseAddr(e.Addresses[0]) // the API defines no meaning of further ones
	if err != nil {
		return nil
	}
	addr = addr.Unmap()
	p := &pod{
		addr:        addr,
		phase:       phaseOf(&e.Conditions),
		terminating: e.Conditions.Terminating != nil && *e.Conditions.Terminating,
		zone:        value(e.Zone),
		labels:      make(map[string]string),
	}
	if node := value(e.NodeName); node != "" {
		p.labels["node"] = node
	}
	if e.Hints != nil {
		for _, z := range e.Hints.ForZones {
			p.forZones = append(p.forZones, z.Name)
		}
	}
	if ref := e.TargetRef; ref != nil && ref.Kind == "Pod" && ref.UID != "" {
		p.key = string(ref.UID)
		p.labels["pod"] = ref.Name
		p.id = ref.Name
		if !s.ByName {
			p.id += "-" + p.key[:min(8, len(p.key))]
		}
	}
	return p
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// phaseOf returns the phase for the conditions of an endpoint. Serving is the pod's readiness,
// whatever publishNotReadyAddresses makes of Ready. An API server that is older than Serving leaves
// it nil; then Ready is all there is.
func phaseOf(c *discoveryv1.EndpointConditions) phase {
	serving := c.Serving
	if serving == nil {
		serving = c.Ready
	}
	terminating := c.Terminating != nil && *c.Terminating
	switch {
	case serving != nil && !*serving:
		return reserved
	case terminating:
		return draining
	}
	return ready
}

// target returns the target for a pod.
func (s *Service) target(p *pod) balancer.Target {
	scheme := cmp.Or(strings.ToLower(s.Scheme), "http")
	t := balancer.Target{
		ID:         p.id,
		URL:        &url.URL{Scheme: scheme, Host: p.hostPort()},
		ServerName: s.ServerName,
		Zone:       p.zone,
		ForZones:   p.forZones,
		Labels:     p.labels,
		Backup:     p.phase == draining,
	}
	if p.phase == reserved {
		t.Weight = -1
	}
	if t.ServerName == "" && (scheme == "https" || scheme == "wss") {
		t.ServerName = s.Name + "." + s.Namespace + ".svc"
	}
	return t
}
