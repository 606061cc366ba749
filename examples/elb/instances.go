package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/stickylb/stickylb/balancer"
)

// An instance is a machine that may be registered with load balancers.
type instance struct {
	id   string
	host string
	port int // zero: the listener's InstancePort
	zone string
}

var instanceID = regexp.MustCompile(`^i-[0-9a-f]{8,17}$`)

const defaultZone = "us-east-1a"

// parseInstance parses ID=HOST[:PORT][@ZONE].
func parseInstance(text string) (instance, error) {
	id, place, ok := strings.Cut(text, "=")
	if !ok || !instanceID.MatchString(id) {
		return instance{}, errors.New("an instance is ID=HOST, ID=HOST:PORT or either with @ZONE; IDs are like i-0a1b2c3d")
	}
	address, zone, _ := strings.Cut(place, "@")
	i := instance{id: id, host: strings.Trim(address, "[]"), zone: cmp.Or(zone, defaultZone)}
	if host, port, err := net.SplitHostPort(address); err == nil {
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil || number == 0 {
			return instance{}, fmt.Errorf("%q is not a port", port)
		}
		i.host, i.port = host, int(number)
	}
	if i.host == "" {
		return instance{}, errors.New("the host is missing")
	}
	_, err := balancer.Normalize(i.target("http", 1))
	return i, err
}

// target returns the instance as a target. port is the InstancePort.
func (i instance) target(scheme string, port int) balancer.Target {
	host := net.JoinHostPort(i.host, strconv.Itoa(cmp.Or(i.port, port)))
	return balancer.Target{ID: i.id, URL: &url.URL{Scheme: scheme, Host: host}, Zone: i.zone}
}

// instances are all instances of the command line, by ID.
type instances map[string]instance

// of returns those of the IDs that exist. A state file may name others.
func (all instances) of(ids []string) (found []instance) {
	for _, id := range ids {
		if i, ok := all[id]; ok {
			found = append(found, i)
		}
	}
	return found
}

// zoneWeight is the weight of a whole zone without cross-zone load balancing. It is a multiple of
// every small number of instances.
const zoneWeight = 27720

// targets returns the targets behind a listener. Without cross-zone load balancing, each zone with
// an instance gets the same share of new sessions; with it, each instance does.
func targets(behind []instance, scheme string, port int, crossZone bool) []balancer.Target {
	perZone := make(map[string]int)
	for _, i := range behind {
		perZone[i.zone]++
	}
	all := make([]balancer.Target, 0, len(behind))
	for _, i := range behind {
		t := i.target(scheme, port)
		if !crossZone && len(perZone) > 1 {
			t.Weight = max(1, zoneWeight/perZone[i.zone])
		}
		all = append(all, t)
	}
	return all
}

// zoneServes reports whether instances of a zone get traffic. Load balancers with subnets have no
// zones of their own: there, all do.
func zoneServes(zones []string, zone string) bool {
	return len(zones) == 0 || slices.Contains(zones, zone)
}
