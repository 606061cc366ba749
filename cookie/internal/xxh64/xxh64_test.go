package xxh64_test

import (
	"testing"

	"github.com/stickylb/stickylb/cookie/internal/xxh64"
	"github.com/stretchr/testify/require"
)

// Values that xxHash and its ports publish.
func TestSum_PublishedVectors(t *testing.T) {
	for in, want := range map[string]uint64{
		"":     0xef46db3751d8e999,
		"a":    0xd24ec4f1a98c6e5b,
		"as":   0x1c330fb2d66be179,
		"asd":  0x631c37ce72a97393,
		"abc":  0x44bc2cf5ad770999,
		"asdf": 0x415872f599cea71e,
		"Call me Ishmael. Some years ago--never mind how long precisely-": 0x02a2e85470d6fd96,
		"Nobody inspects the spammish repetition":                         0xfbcea83c8a378bf1,
	} {
		require.Equal(t, want, xxh64.Sum([]byte(in)), "%q", in)
	}
}

// The buffer and the values of the reference implementation's own self-test, seed 0. The
// lengths end in every step of the algorithm.
func TestSum_ReferenceSelfTest(t *testing.T) {
	buf := make([]byte, 222)
	gen := uint64(2654435761)
	for i := range buf {
		buf[i] = byte(gen >> 56)
		gen *= 11400714785074694797
	}
	for n, want := range map[int]uint64{0: 0xEF46DB3751D8E999, 1: 0xE934A84ADB052768, 4: 0x9136A0DCA57457EE, 14: 0x8282DCC4994E35C8, 222: 0xB641AE8CB691C174} {
		require.Equal(t, want, xxh64.Sum(buf[:n]), n)
	}
}

func BenchmarkSum(b *testing.B) {
	in := []byte("MYKEY\x7f\x00\x00\x01\x00\x00\x23\x28")
	b.ReportAllocs()
	for b.Loop() {
		xxh64.Sum(in)
	}
}
