package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// concurrency limits how many lookups of one turn run at once.
const concurrency = 8

// A record says where targets are. It comes from an SRV record, or from the name and its port.
type record struct {
	host             string // absolute, with a dot at its end
	port             uint16
	priority, weight uint16
}

// A question is one lookup of addresses.
type question struct{ host, network string }

// An answer is what one turn has found.
type answer struct {
	records  []record
	found    map[netip.AddrPort]finding
	failures map[question]bool // what could not be looked up
	cut      bool              // there is more than the limit
	err      error             // what failed; nil: nothing
}

// A finding says where an address comes from.
type finding struct {
	record
	network string
}

// lookUp looks up the records of a service if port is zero, and all addresses. It finds no more
// records and addresses than the limit.
func (q *query) lookUp(ctx context.Context, port uint16, limit int) *answer {
	a := &answer{found: make(map[netip.AddrPort]finding), failures: make(map[question]bool)}
	if port != 0 {
		a.records = []record{{host: q.name, port: port}}
	} else {
		a.lookUpService(ctx, q, limit)
	}
	questions := a.questions(q.networks)
	replies := q.ask(ctx, questions, limit)
	failed := 0
	for i, r := range replies {
		if r.err != nil {
			a.failures[questions[i]] = true
			failed++
			a.err = cmp.Or(a.err, r.err)
		}
	}
	if failed > 1 {
		a.err = fmt.Errorf("%w (and %d more)", a.err, failed-1)
	}
	a.collect(questions, replies, limit)
	return a
}

// lookUpService looks up SRV records. They are in the order of their priorities.
func (a *answer) lookUpService(ctx context.Context, q *query, limit int) {
	_, services, err := q.resolver.LookupSRV(ctx, "", "", q.name)
	if !isNotFound(err) {
		a.err = err // the answer may still have some records
	}
	for _, s := range services {
		if s.Target != "." && s.Port != 0 { // RFC 2782: with a dot, the service is not available
			a.records = append(a.records, record{strings.ToLower(s.Target), s.Port, s.Priority, s.Weight})
		}
	}
	slices.SortFunc(a.records, func(x, y record) int {
		return cmp.Or(cmp.Compare(x.priority, y.priority), cmp.Compare(y.weight, x.weight),
			cmp.Compare(x.host, y.host), cmp.Compare(x.port, y.port))
	})
	if len(a.records) > limit {
		a.records, a.cut = a.records[:limit], true
	}
}

// questions returns the lookups that the records need, each one once.
func (a *answer) questions(networks []string) []question {
	var list []question
	seen := make(map[string]bool, len(a.records))
	for _, r := range a.records {
		if seen[r.host] {
			continue
		}
		seen[r.host] = true
		for _, network := range networks {
			list = append(list, question{r.host, network})
		}
	}
	return list
}

// A reply has the addresses for one question, sorted and without duplicates.
type reply struct {
	addrs []netip.Addr
	err   error
}

// ask answers all questions, several at once. Of a reply with more addresses than the limit it
// keeps one more than that, which is enough to see that the limit was reached.
func (q *query) ask(ctx context.Context, questions []question, limit int) []reply {
	replies := make([]reply, len(questions))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(len(questions), concurrency) {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(questions)); i = next.Add(1) - 1 {
				r := q.askOne(ctx, questions[i])
				if len(r.addrs)-1 > limit {
					r.addrs = slices.Clone(r.addrs[:limit+1])
				}
				replies[i] = r
			}
		})
	}
	workers.Wait()
	return replies
}

func (q *query) askOne(ctx context.Context, about question) reply {
	addrs, err := q.resolver.LookupNetIP(ctx, about.network, about.host)
	if isNotFound(err) {
		err = nil
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !usable(a) })
	slices.SortFunc(addrs, netip.Addr.Compare)
	return reply{slices.Compact(addrs), err}
}

// usable reports whether connections to an address are possible. A link-local IPv6 address needs a
// zone, which DNS records do not have.
func usable(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && a != broadcast && !(a.Is6() && a.IsLinkLocalUnicast())
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// isNotFound reports whether err says that the name does not exist, or has no usable records of the
// type. Such an error is an answer.
func isNotFound(err error) bool {
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return e.IsNotFound
	}
	_, ok := errors.AsType[*net.AddrError](err) // only addresses of the other family, which net drops
	return ok
}

// collect sets found to the addresses of all records' hosts. If several records have the same
// address and port, the first one counts.
func (a *answer) collect(questions []question, replies []reply, limit int) {
	byHost := make(map[string][]int) // the questions about a host
	for i, about := range questions {
		byHost[about.host] = append(byHost[about.host], i)
	}
	for _, r := range a.records {
		for _, i := range byHost[r.host] {
			for _, addr := range replies[i].addrs {
				key := netip.AddrPortFrom(addr, r.port)
				if _, ok := a.found[key]; ok {
					continue
				}
				if len(a.found) == limit {
					a.cut = true
					return
				}
				a.found[key] = finding{r, questions[i].network}
			}
		}
	}
}

// cancellable returns a resolver whose connections are closed when their lookup ends. Otherwise
// the resolver would wait for an answer, up to its own timeout, after ctx has ended.
func cancellable(r *net.Resolver) *net.Resolver {
	dial := r.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return &net.Resolver{
		PreferGo:     r.PreferGo,
		StrictErrors: r.StrictErrors,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dial(ctx, network, address)
			if err == nil {
				context.AfterFunc(ctx, func() { c.Close() })
			}
			return c, err
		},
	}
}
