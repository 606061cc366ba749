package balancer

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// The hash has no seed, so that all instances compute the same. It spreads keys well, but is no
// defence against keys that are chosen to collide.
const (
	hashA = 0x9e3779b97f4a7c15
	hashB = 0xd1b54a32d192ed03
	hashC = 0x8cb92ba72f3d8dd7
)

// fold multiplies two words and folds the product, so that the result depends on all bits of both.
func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// mix returns a word that depends on all bits of h.
func mix(h uint64) uint64 { return fold(fold(h^hashA, hashB)^h, hashC) }

func hashString(s string) uint64 {
	h := uint64(len(s)) * hashA
	for ; len(s) > 8; s = s[8:] {
		h = fold(h^word(s[:8]), hashB)
	}
	return mix(h ^ word(s))
}

// word returns the octets of a string of at most eight as a number.
func word(s string) uint64 {
	if len(s) == 8 { // the compiler makes one load of this
		return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
	}
	var w uint64
	for i := range len(s) {
		w |= uint64(s[i]) << (8 * i)
	}
	return w
}

// hashAddr returns the hash of an address. An IPv4 address and its IPv6-mapped form have the same
// hash. The zone does not count.
func hashAddr(a netip.Addr) uint64 {
	b := a.As16()
	return mix(fold(binary.LittleEndian.Uint64(b[:8])^hashA, hashB) ^ binary.LittleEndian.Uint64(b[8:]))
}

// hash returns the hash of the request's key, or of its client's address, and reports
// whether the request has either.
func (q *Request) hash() (uint64, bool) {
	if q.Key != "" {
		return hashString(q.Key), true
	}
	return hashAddr(q.Client), q.Client.IsValid()
}
