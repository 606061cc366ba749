package classic

import (
	"fmt"
	"slices"
	"strings"
)

// layers are the protocols and the layer that each belongs to.
var layers = map[string]int{"HTTP": 7, "HTTPS": 7, "TCP": 4, "SSL": 4}

// Secure reports whether a protocol uses TLS.
func Secure(protocol string) bool { return protocol == "HTTPS" || protocol == "SSL" }

// String returns all that makes the listener.
func (l Listener) String() string {
	certificate := ""
	if l.SSLCertificateId != nil {
		certificate = *l.SSLCertificateId
	}
	return fmt.Sprintf("%s:%d to %s:%d %s", l.Protocol, l.LoadBalancerPort, l.InstanceProtocol, l.InstancePort, certificate)
}

// HTTP reports whether the listener speaks HTTP.
func (l Listener) HTTP() bool { return layers[l.Protocol] == 7 }

// normal returns the listener with capitals and defaults. It returns an error if the listener is
// not possible.
func (l Listener) normal() (Listener, *Fault) {
	l.Protocol, l.InstanceProtocol = strings.ToUpper(l.Protocol), strings.ToUpper(l.InstanceProtocol)
	if l.InstanceProtocol == "" {
		l.InstanceProtocol = l.Protocol
	}
	for _, protocol := range []string{l.Protocol, l.InstanceProtocol} {
		if layers[protocol] == 0 {
			return l, NewFault("UnsupportedProtocol", "The protocol %q is none of HTTP, HTTPS, TCP and SSL.", protocol)
		}
	}
	for _, port := range []int{l.LoadBalancerPort, l.InstancePort} {
		if port < 1 || port > 65535 {
			return l, NewFault(ValidationError, "The port %d is not between 1 and 65535.", port)
		}
	}
	switch {
	case layers[l.Protocol] != layers[l.InstanceProtocol]:
		return l, NewFault(InvalidConfigurationRequest, "%s and %s are protocols of different layers.", l.Protocol, l.InstanceProtocol)
	case Secure(l.Protocol) && l.SSLCertificateId == nil:
		return l, NewFault(ValidationError, "A listener for %s needs an SSLCertificateId.", l.Protocol)
	case !Secure(l.Protocol) && l.SSLCertificateId != nil:
		return l, NewFault(InvalidConfigurationRequest, "A listener for %s has no SSLCertificateId.", l.Protocol)
	}
	return l, nil
}

// addListeners adds listeners to b. One that is there already is left as it is.
func (c *call) addListeners(b *LoadBalancer, listeners []Listener) *Fault {
	for _, l := range listeners {
		l, err := l.normal()
		if err != nil {
			return err
		}
		if former := b.Listener(l.LoadBalancerPort); former != nil {
			if former.Listener.String() != l.String() {
				return NewFault("DuplicateListener", "Port %d has another listener.", l.LoadBalancerPort)
			}
			continue
		}
		if len(b.Listeners) >= MaxListeners {
			return NewFault(InvalidConfigurationRequest, "A load balancer has no more than %d listeners.", MaxListeners)
		}
		added := ListenerDescription{Listener: l, PolicyNames: []string{}}
		if Secure(l.Protocol) {
			if err := c.checkCertificate(*l.SSLCertificateId); err != nil {
				return err
			}
			added.PolicyNames = append(added.PolicyNames, b.defaultNegotiation())
		}
		if err := b.checkListenerPolicies(l, added.PolicyNames); err != nil {
			return err // the load balancer may have another policy with the name of the default one
		}
		b.Listeners = append(b.Listeners, added)
	}
	return nil
}

func (c *call) checkCertificate(arn string) *Fault {
	if !c.world.Certificate(arn) {
		return NewFault(CertificateNotFound, "There is no certificate %q.", arn)
	}
	return nil
}

type createListenersInput struct {
	LoadBalancerName string     `query:"required"`
	Listeners        []Listener `query:"required"`
}

func createListeners(c *call, in *createListenersInput) (any, *Fault) {
	return nil, c.change(in.LoadBalancerName, func(b *LoadBalancer) *Fault { return c.addListeners(b, in.Listeners) })
}

type deleteListenersInput struct {
	LoadBalancerName  string `query:"required"`
	LoadBalancerPorts []int  `query:"required"`
}

// deleteListeners also drops the policies of instance ports that no listener uses any more.
func deleteListeners(c *call, in *deleteListenersInput) (any, *Fault) {
	return nil, c.change(in.LoadBalancerName, func(b *LoadBalancer) *Fault {
		b.Listeners = slices.DeleteFunc(b.Listeners, func(l ListenerDescription) bool {
			return slices.Contains(in.LoadBalancerPorts, l.Listener.LoadBalancerPort)
		})
		b.Backends = slices.DeleteFunc(b.Backends, func(s BackendServerDescription) bool { return !b.usesPort(s.InstancePort) })
		return nil
	})
}

func (b *LoadBalancer) usesPort(instancePort int) bool {
	return slices.ContainsFunc(b.Listeners, func(l ListenerDescription) bool { return l.Listener.InstancePort == instancePort })
}

// usesTLS reports whether a listener speaks TLS to instances at that port.
func (b *LoadBalancer) usesTLS(instancePort int) bool {
	return slices.ContainsFunc(b.Listeners, func(l ListenerDescription) bool {
		return l.Listener.InstancePort == instancePort && Secure(l.Listener.InstanceProtocol)
	})
}

type setListenerCertificateInput struct {
	LoadBalancerName string `query:"required"`
	LoadBalancerPort int    `query:"required"`
	SSLCertificateId string `query:"required"`
}

func setListenerCertificate(c *call, in *setListenerCertificateInput) (any, *Fault) {
	return nil, c.change(in.LoadBalancerName, func(b *LoadBalancer) *Fault {
		l, err := b.findListener(in.LoadBalancerPort)
		if err != nil {
			return err
		}
		if !Secure(l.Listener.Protocol) {
			return NewFault(InvalidConfigurationRequest, "A listener for %s has no certificate.", l.Listener.Protocol)
		}
		if err := c.checkCertificate(in.SSLCertificateId); err != nil {
			return err
		}
		l.Listener.SSLCertificateId = &in.SSLCertificateId
		return nil
	})
}

func (b *LoadBalancer) findListener(port int) (*ListenerDescription, *Fault) {
	if l := b.Listener(port); l != nil {
		return l, nil
	}
	return nil, NewFault("ListenerNotFound", "Load balancer %q has no listener at port %d.", b.Name, port)
}
