package underway

import (
	"hash/maphash"
	"net/netip"
	"strings"
	"sync"

	"github.com/stickylb/stickylb/balancer"
)

// A Holder is a tenant whose work is bounded: a caller's key, or a client's network.
type Holder struct {
	key     string
	network netip.Addr
}

// HolderOf returns the holder with that key, or, when the key is empty, the holder with the
// client's network as balancer.ClientNetwork has it. Clients whose address is unknown are one
// holder. No key is equal to a network.
func HolderOf(key string, client netip.Addr) Holder {
	if key != "" {
		return Holder{key: key}
	}
	return Holder{network: balancer.ClientNetwork(client)}
}

// Shares count what each holder has under way. A holder that has nothing takes no memory. The
// zero value is ready to use. All methods are safe for concurrent use. Shares must not be copied.
type Shares struct {
	shards [shareShards]shareShard
}

const (
	shareShards = 32

	// keptShares is how large the map of a shard may have been to be kept when it is empty: maps
	// do not shrink.
	keptShares = 64
)

type shareShard struct {
	mu      sync.Mutex
	holders map[Holder]*Share
	most    int      // holders that the map has had at a time
	_       [40]byte // so that neighbours do not share a cache line
}

// A Share is what one holder has under way.
type Share struct {
	shard  *shareShard
	holder Holder
	n      int // guarded by the shard's mu
}

var shareSeed = maphash.MakeSeed()

// Take counts one more for the holder, and reports false when it has as many as the limit allows.
// A limit of zero or less allows all, and counts nothing: the share is nil then. Each share that
// was taken must be given back by one call of Free.
func (s *Shares) Take(h Holder, limit int) (*Share, bool) {
	if limit <= 0 {
		return nil, true
	}
	shard := &s.shards[maphash.Comparable(shareSeed, h)%shareShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	share := shard.holders[h]
	if share == nil {
		share = shard.add(h)
	}
	if share.n >= limit {
		return nil, false
	}
	share.n++
	return share, true
}

// add makes the share of a new holder. The key is copied, because it may be a part of a larger
// string. s.mu is held.
func (s *shareShard) add(h Holder) *Share {
	h.key = strings.Clone(h.key)
	share := &Share{shard: s, holder: h}
	if s.holders == nil {
		s.holders = make(map[Holder]*Share)
	}
	s.holders[h] = share
	s.most = max(s.most, len(s.holders))
	return share
}

// Free gives back what one Take has counted. On nil it does nothing.
func (s *Share) Free() {
	if s == nil {
		return
	}
	shard := s.shard
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if s.n--; s.n > 0 {
		return
	}
	delete(shard.holders, s.holder)
	if len(shard.holders) == 0 && shard.most > keptShares {
		shard.holders, shard.most = nil, 0
	}
}
