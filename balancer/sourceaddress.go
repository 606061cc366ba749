package balancer

import (
	"cmp"
	"net/netip"
)

// SourceAddress picks by the client's address, so that a client comes to the same target as long as
// that target serves. It is [Maglev] with the client's network as the key. A request whose client
// is not known gets a member at random. The zero value is ready to use.
type SourceAddress struct {
	// IPv4Bits and IPv6Bits are the lengths of the networks whose addresses count as one
	// client. Zero means 32 and 64; a length that an address does not have means all of it.
	IPv4Bits, IPv6Bits int

	tables tables
}

// Rebuild implements [Indexer].
func (p *SourceAddress) Rebuild(s *Snapshot) { p.tables.rebuild(s) }

// Loaded implements [Indexer]. Load does not matter to it.
func (p *SourceAddress) Loaded(*Member, int64) {}

// Pick implements [Picker].
func (p *SourceAddress) Pick(q *Request, s *Snapshot) *Member {
	if !q.Client.IsValid() {
		return s.draw(q)
	}
	return s.lookUp(q, hashAddr(p.network(q.Client)), bound{})
}

func (p *SourceAddress) network(a netip.Addr) netip.Addr {
	return network(a, cmp.Or(p.IPv4Bits, 32), cmp.Or(p.IPv6Bits, 64))
}
