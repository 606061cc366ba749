package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/balancer/discovery/internal/source"
)

const (
	defaultInterval   = 30 * time.Second
	defaultTimeout    = 10 * time.Second
	defaultHold       = 30 * time.Second
	defaultEmptyHold  = 5 * time.Minute
	defaultMaxTargets = 1000
)

// A Family says which addresses [DNS] looks up.
type Family uint8

// The families.
const (
	AnyFamily Family = iota // IPv4 and IPv6
	IPv4                    // A records
	IPv6                    // AAAA records
)

// DNS reports the addresses of a name in DNS. Each address is a target. Set its fields, then call
// [DNS.Run]. Do not change the fields afterwards, and do not copy a DNS. Its methods are safe for
// concurrent use.
//
// The ID of a target is its address with the port, such as "10.0.0.1:8080" or "[2001:db8::1]:8080".
// All instances therefore agree on the IDs, also after a restart, and the order of an answer does
// not matter. Connections go to the address (Target.Addr). The host of the URL is the name. With
// the schemes https, wss and tcp, the ServerName is the name too. Targets are reported in the order
// of their addresses. A host with an A and an AAAA record is two targets, unless Family selects
// one. Addresses that cannot be connected to are ignored: unspecified, broadcast and multicast
// addresses, and link-local IPv6 addresses.
//
// # Answers
//
// New addresses in an answer are used at once. An absent address is kept at first, because an
// answer may be truncated, or may come from a server that is not up to date. A target is removed
// only after it was absent from three answers, and for the time of Hold.
//
// A failed lookup is no answer. A and AAAA records, and the names of SRV records, are looked up one
// by one, and the targets that a failed lookup might have found are kept. An empty answer keeps all
// targets for the time of EmptyHold. An answer is empty if it has no usable address, or if it says
// that the name does not exist.
//
// After a failed lookup, an empty answer that is held, or an error of Report, the next lookup
// follows after a second, then after two, four and so on up to Interval.
//
// # SRV records
//
// If Port is zero, Name has SRV records (RFC 2782), such as "_http._tcp.app.internal". Each address
// of a record's name is a target with the record's port and weight, so a name with two addresses
// gets twice the share. The targets of the records with the lowest priority value are used first.
// All others are backups. A weight of zero counts as 1. If some weights are zero and others are
// not, the others are multiplied by 16, because RFC 2782 gives records of weight zero a very small
// share. If some names cannot be looked up, the others are used. A record with the name "." or
// with port 0 has no target.
//
// ServerName and the URL's host are Name without the labels at its front that begin with an
// underscore, because the name in a record does not prove identity (RFC 9525 section 6.1). The
// target's label "host" is the name in the record. Report may copy it to ServerName if the answers
// can be trusted.
//
// # The resolver
//
// DNS uses a [net.Resolver], whose Dial can connect to any server. A Resolver does not return TTLs,
// so lookups follow Interval. It asks again over TCP if an answer is truncated. Names in /etc/hosts
// are not found, because the lookup is of an absolute name. A resolver that calls the C library
// cannot cancel a lookup there, so the lookup may outlast Run. PreferGo avoids this.
type DNS struct {
	// Name is the name to look up. It is absolute, with or without a dot at its end: no search list
	// applies, so a name in Kubernetes is "app.default.svc.cluster.local". It must not be an
	// address.
	Name string

	// Port is the port of the targets. Zero means that Name has SRV records, which name the ports.
	Port uint16

	// Scheme is the scheme of the targets' URLs. Empty means http.
	Scheme string

	// Family chooses the addresses. The zero value means IPv4 and IPv6.
	Family Family

	// Report is called with every new set of targets. It is required.
	Report func([]balancer.Target) error

	// Resolver looks names up. Nil means [net.DefaultResolver].
	Resolver *net.Resolver

	// Interval is the time between two lookups. It varies by a tenth, up or down. Zero means 30
	// seconds. Less than a second means a second.
	Interval time.Duration

	// Timeout limits the lookups of one turn. Zero means 10 seconds.
	Timeout time.Duration

	// Hold is how long a target must have been absent from the answers before it is removed. It
	// must also have been absent from three answers. Zero means 30 seconds. Negative means that the
	// first answer without it removes it.
	Hold time.Duration

	// EmptyHold is how long all targets are kept while answers are empty, counted from the first
	// empty answer. There must also have been three of them. Empty answers do not count for Hold.
	// EmptyHold also applies before there are targets: the empty set is not reported earlier. Zero
	// means 5 minutes. Negative means that an empty answer is treated like any other.
	EmptyHold time.Duration

	// MaxTargets limits the number of targets, including absent ones. The lowest addresses of the
	// answer are kept first, with SRV records in the order of their priorities. Absent targets come
	// last, and the most recent of them are kept. Addresses beyond the limit are ignored, which is
	// logged. Zero means 1000. A negative value is refused.
	MaxTargets int

	// Logger receives failures (Warn), once for each kind until it is over, and that it is over
	// (Info). Nil means [slog.Default].
	Logger *slog.Logger

	source source.Source
	state  addresses // of Run's goroutine
}

// Run looks the name up until ctx ends, and then returns nil. It returns an error at once if the
// fields cannot be used or if it is running already. It may be called again after it has returned;
// the first set is then reported again.
func (d *DNS) Run(ctx context.Context) error {
	q, err := d.validate()
	if err := d.source.Start(err); err != nil {
		return err
	}
	defer d.source.Stop()
	source.Loop(ctx, cmp.Or(d.Interval, defaultInterval), func(ctx context.Context) error { return d.turn(ctx, q) })
	return nil
}

// Ready waits until Report has accepted a set. It also waits for Run to begin. If ctx ends first,
// it returns an error that wraps ctx's and, if there is one, the latest failure. If Run refuses the
// fields, Ready returns that error.
func (d *DNS) Ready(ctx context.Context) error { return d.source.Ready(ctx) }

// A query is what to look up, after validation.
type query struct {
	name     string   // absolute, with a dot at its end
	networks []string // as net.Resolver.LookupNetIP takes them
	scheme   string
	host     string // of the targets' URLs
	resolver *net.Resolver
}

func (d *DNS) validate() (*query, error) {
	refuse := func(format string, args ...any) (*query, error) {
		return nil, fmt.Errorf("discovery: DNS."+format, args...)
	}
	switch {
	case d.Report == nil:
		return refuse("Report is nil")
	case d.Interval < 0, d.Timeout < 0, d.MaxTargets < 0:
		return refuse("Interval, Timeout and MaxTargets must not be negative")
	case d.Family > IPv6:
		return refuse("Family %d is unknown", d.Family)
	}
	name := strings.TrimSuffix(d.Name, ".")
	if _, err := netip.ParseAddr(name); err == nil {
		return refuse("Name %q is an address: there is nothing to look up", d.Name)
	}
	u := url.URL{Scheme: cmp.Or(d.Scheme, "http"), Host: net.JoinHostPort(name, "1")}
	sample, err := balancer.Normalize(balancer.Target{URL: &u})
	if err != nil {
		return refuse("Name %q, Scheme %q: %w", d.Name, d.Scheme, errors.Unwrap(err))
	}
	q := &query{scheme: sample[0].URL.Scheme, host: sample[0].URL.Hostname(), networks: d.Family.networks()}
	for label := range strings.SplitSeq(q.host, ".") {
		if len(label) < 1 || len(label) > 63 { // RFC 1035 section 2.3.4
			return refuse("Name %q has a label that is empty or longer than 63 octets", d.Name)
		}
	}
	q.name = q.host + "."
	if d.Port == 0 {
		q.host = withoutServiceLabels(q.host)
	}
	q.resolver = cancellable(cmp.Or(d.Resolver, net.DefaultResolver))
	return q, nil
}

// withoutServiceLabels returns name without the labels at its front that begin with an underscore.
func withoutServiceLabels(name string) string {
	for rest := name; strings.HasPrefix(rest, "_"); {
		var more bool
		if _, rest, more = strings.Cut(rest, "."); !more {
			return name
		}
		name = rest
	}
	return name
}

func (f Family) networks() []string {
	switch f {
	case IPv4:
		return []string{"ip4"}
	case IPv6:
		return []string{"ip6"}
	}
	return []string{"ip4", "ip6"}
}

// The kinds of trouble that are logged.
const (
	lookupFails = "the lookup fails, the targets stay"
	partFails   = "a part of the lookup fails, its targets stay"
	isEmpty     = "the answer is empty, the targets stay for the time of EmptyHold"
	tooMany     = "there are more addresses than MaxTargets, the others are ignored"
)

var errNoAddress = errors.New("discovery: the name has no usable address")

// turn looks the name up once. It returns an error if the next turn is to come early.
func (d *DNS) turn(ctx context.Context, q *query) error {
	lookup, cancel := context.WithTimeout(ctx, cmp.Or(d.Timeout, defaultTimeout))
	a := q.lookUp(lookup, d.Port, d.maxTargets())
	cancel()
	if ctx.Err() != nil {
		return ctx.Err() // the lookups were interrupted
	}
	l := cmp.Or(d.Logger, slog.Default()).With("name", q.name)
	failed := d.learn(l, a)
	if !d.state.known {
		return failed
	}
	return errors.Join(failed, d.source.Offer(l, d.Report, d.state.targets(q)))
}

func (d *DNS) maxTargets() int { return cmp.Or(d.MaxTargets, defaultMaxTargets) }

// learn applies the answer to the state. It returns an error if the answer changes nothing.
func (d *DNS) learn(l *slog.Logger, a *answer) error {
	emptyHold := cmp.Or(d.EmptyHold, defaultEmptyHold)
	failed := a.err != nil && len(a.found) == 0
	empty := !failed && len(a.found) == 0 && emptyHold > 0
	d.note(l, lookupFails, failed, a.err)
	if failed {
		return a.err
	}
	d.note(l, partFails, a.err != nil, a.err)
	d.note(l, isEmpty, empty, errNoAddress)
	if empty {
		if d.state.holdAll(time.Now(), emptyHold) {
			return errNoAddress
		}
		return nil
	}
	dropped := d.state.merge(a, time.Now(), cmp.Or(d.Hold, defaultHold), d.maxTargets())
	d.note(l, tooMany, a.cut || dropped, fmt.Errorf("discovery: MaxTargets is %d", d.maxTargets()))
	return nil
}

// note logs trouble, or that it is over.
func (d *DNS) note(l *slog.Logger, kind string, is bool, err error) {
	if is {
		d.source.Trouble(l, kind, "", err)
	} else {
		d.source.Over(l, kind)
	}
}
