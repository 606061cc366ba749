// Package xxh64 computes the 64-bit hash of the xxHash family with seed 0. It is not a message
// authentication code, even if a key is put in front of the data.
package xxh64

import (
	"encoding/binary"
	"math/bits"
)

const (
	prime1 uint64 = 11400714785074694791
	prime2 uint64 = 14029467366897019727
	prime3 uint64 = 1609587929392839161
	prime4 uint64 = 9650029242287828579
	prime5 uint64 = 2870177450012600261
)

// Sum returns the hash of b with seed 0.
func Sum(b []byte) uint64 {
	n := uint64(len(b))
	h := prime5
	if len(b) >= 32 {
		h, b = stripes(b)
	}
	h += n
	for ; len(b) >= 8; b = b[8:] {
		h ^= round(0, binary.LittleEndian.Uint64(b))
		h = bits.RotateLeft64(h, 27)*prime1 + prime4
	}
	if len(b) >= 4 {
		h ^= uint64(binary.LittleEndian.Uint32(b)) * prime1
		h = bits.RotateLeft64(h, 23)*prime2 + prime3
		b = b[4:]
	}
	for _, c := range b {
		h ^= uint64(c) * prime5
		h = bits.RotateLeft64(h, 11) * prime1
	}
	h = (h ^ h>>33) * prime2
	h = (h ^ h>>29) * prime3
	return h ^ h>>32
}

// stripes hashes all whole stripes of 32 octets in four lanes. It returns the merged lanes and the
// rest of b.
func stripes(b []byte) (h uint64, rest []byte) {
	p1 := prime1 // a variable, because the sums below overflow, which constants must not
	lanes := [4]uint64{p1 + prime2, prime2, 0, -p1}
	for ; len(b) >= 32; b = b[32:] {
		for i := range lanes {
			lanes[i] = round(lanes[i], binary.LittleEndian.Uint64(b[8*i:]))
		}
	}
	for i, rotation := range [4]int{1, 7, 12, 18} {
		h += bits.RotateLeft64(lanes[i], rotation)
	}
	for _, lane := range lanes {
		h = (h^round(0, lane))*prime1 + prime4
	}
	return h, b
}

func round(lane, input uint64) uint64 {
	return bits.RotateLeft64(lane+input*prime2, 31) * prime1
}
