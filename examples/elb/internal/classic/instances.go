package classic

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

type instancesInput struct {
	LoadBalancerName string     `query:"required"`
	Instances        []Instance `query:"required"`
}

type instancesOutput struct{ Instances []Instance }

// ids returns the IDs in the call. All of them have to exist.
func (c *call) ids(instances []Instance) ([]string, *Fault) {
	var ids []string
	for _, i := range instances {
		if !c.world.Instance(i.InstanceId) {
			return nil, NewFault(InvalidInstance, "There is no instance %q.", i.InstanceId)
		}
		ids = append(ids, i.InstanceId)
	}
	return unique(ids), nil
}

func instancesOf(ids []string) []Instance {
	instances := []Instance{}
	for _, id := range ids {
		instances = append(instances, Instance{id})
	}
	return instances
}

func registerInstances(c *call, in *instancesInput) (any, *Fault) {
	out := instancesOutput{}
	err := c.change(in.LoadBalancerName, func(b *LoadBalancer) *Fault {
		ids, err := c.ids(in.Instances)
		if err != nil {
			return err
		}
		b.Instances = unique(slices.Concat(b.Instances, ids))
		if len(b.Instances) > MaxInstances {
			return NewFault(InvalidInstance, "A load balancer has no more than %d instances.", MaxInstances)
		}
		out.Instances = instancesOf(b.Instances)
		return nil
	})
	return out, err
}

func deregisterInstances(c *call, in *instancesInput) (any, *Fault) {
	out := instancesOutput{}
	err := c.change(in.LoadBalancerName, func(b *LoadBalancer) *Fault {
		var gone []string
		for _, i := range in.Instances {
			if !c.world.Instance(i.InstanceId) && !slices.Contains(b.Instances, i.InstanceId) {
				return NewFault(InvalidInstance, "There is no instance %q.", i.InstanceId)
			}
			gone = append(gone, i.InstanceId)
		}
		b.Instances = without(b.Instances, gone)
		out.Instances = instancesOf(b.Instances)
		return nil
	})
	return out, err
}

type describeInstanceHealthInput struct {
	LoadBalancerName string `query:"required"`
	Instances        []Instance
}

type describeInstanceHealthOutput struct{ InstanceStates []InstanceState }

func describeInstanceHealth(c *call, in *describeInstanceHealthInput) (any, *Fault) {
	b, err := c.find(in.LoadBalancerName)
	if err != nil {
		return nil, err
	}
	ids := b.Instances
	if len(in.Instances) > 0 {
		ids = nil
		for _, i := range in.Instances {
			if !c.world.Instance(i.InstanceId) && !slices.Contains(b.Instances, i.InstanceId) {
				return nil, NewFault(InvalidInstance, "There is no instance %q.", i.InstanceId)
			}
			ids = append(ids, i.InstanceId)
		}
	} else {
		ids = slices.Concat(ids, c.world.Leaving(b))
	}
	return describeInstanceHealthOutput{c.world.States(b, unique(ids))}, nil
}

func defaultHealthCheck(port int) HealthCheck {
	return HealthCheck{Target: "TCP:" + strconv.Itoa(port), Interval: 30, Timeout: 5, UnhealthyThreshold: 2, HealthyThreshold: 10}
}

var decimal = regexp.MustCompile(`^[1-9][0-9]*$`)

// Probe returns the parts of the target. The port is 0 if it is not written as a decimal number.
func (h HealthCheck) Probe() (protocol string, port int, path string) {
	protocol, rest, _ := strings.Cut(h.Target, ":")
	digits, path, slash := strings.Cut(rest, "/")
	if slash {
		path = "/" + path
	}
	if decimal.MatchString(digits) {
		port, _ = strconv.Atoi(digits) // 0 and above the limit are refused alike
	}
	return strings.ToUpper(protocol), port, path
}

func (h HealthCheck) check() *Fault {
	protocol, port, path := h.Probe()
	bad := func(what string) *Fault { return NewFault(ValidationError, "The health check's %s.", what) }
	switch {
	case layers[protocol] == 0:
		return bad("target begins with none of HTTP:, HTTPS:, TCP: and SSL:")
	case port < 1 || port > 65535:
		return bad("target has no port between 1 and 65535")
	case layers[protocol] == 7 && path == "":
		return bad("target needs a path, such as HTTP:80/index.html")
	case layers[protocol] == 4 && path != "":
		return bad("target has a path, but its protocol has none")
	case len(path) > 1024:
		return bad("path is longer than 1024 octets")
	case h.Interval < 5 || h.Interval > 300:
		return bad("Interval is not between 5 and 300 seconds")
	case h.Timeout < 2 || h.Timeout > 60 || h.Timeout >= h.Interval:
		return bad("Timeout is not between 2 and 60 seconds and below the Interval")
	case h.UnhealthyThreshold < 2 || h.UnhealthyThreshold > 10 || h.HealthyThreshold < 2 || h.HealthyThreshold > 10:
		return bad("thresholds are not between 2 and 10")
	}
	if u, err := url.ParseRequestURI("http://instance" + path); err != nil || u.Fragment != "" {
		return bad("path cannot be requested")
	}
	return nil
}

type configureHealthCheckInput struct {
	LoadBalancerName string      `query:"required"`
	HealthCheck      HealthCheck `query:"required"`
}

type configureHealthCheckOutput struct{ HealthCheck HealthCheck }

func configureHealthCheck(c *call, in *configureHealthCheckInput) (any, *Fault) {
	err := c.change(in.LoadBalancerName, func(b *LoadBalancer) *Fault {
		b.HealthCheck = in.HealthCheck
		return in.HealthCheck.check()
	})
	return configureHealthCheckOutput{in.HealthCheck}, err
}
