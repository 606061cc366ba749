//go:build !unix

package wsproxy_test

import (
	"math"
	"testing"
)

func descriptorLimit(testing.TB) int { return math.MaxInt32 }
