//go:build unix

package wsproxy_test

import (
	"math"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// descriptorLimit returns how many descriptors the process may have.
func descriptorLimit(t testing.TB) int {
	t.Helper()
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	return int(min(uint64(limit.Cur), math.MaxInt32))
}
