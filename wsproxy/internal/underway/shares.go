package underway

import (
	"hash/maphash"
	"net/netip"
	"strings"
	"sync"

	"github.com/stickylb/stickylb/balancer"
)

// A Holder identifies a client whose work is limited. It is a caller's key, or the client's
// network.
type Holder struct {
	key     string
	network netip.Addr
}

// HolderOf returns the holder for the key. If the key is empty, the holder is the client's network;
// see balancer.ClientNetwork. All clients with an unknown address are one holder. No key equals a
// network.
func HolderOf(key string, client netip.Addr) Holder {
	if key != "" {
		return Holder{key: key}
	}
	return Holder{network: balancer.ClientNetwork(client)}
}

// Shares counts the work in progress of each holder. A holder without work takes no memory. The
// zero value is ready to use. All methods are safe for concurrent use. A Shares must not be copied.
type Shares struct {
	shards [shareShards]shareShard
}

const (
	shareShards = 32

	// keptShares decides whether a shard keeps its map when it is empty: it does unless the map has
	// had more holders than this. Maps do not shrink.
	keptShares = 64
)

type shareShard struct {
	mu      sync.Mutex
	holders map[Holder]*Share
	most    int      // the largest number of holders that the map has had
	_       [40]byte // padding, so that shards do not share a cache line
}

// A Share is the work in progress of one holder.
type Share struct {
	shard  *shareShard
	holder Holder
	n      int // guarded by the shard's mu
}

var shareSeed = maphash.MakeSeed()

// Take counts one more for the holder. It reports false if the holder has reached the limit. A
// limit of zero or less allows everything and counts nothing: the share is nil then. Call Free once
// for each share.
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

// add makes the share of a new holder. It copies the key, which may be part of a larger string.
// s.mu is held.
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

// Free takes back what one Take has counted. A nil share does nothing.
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
