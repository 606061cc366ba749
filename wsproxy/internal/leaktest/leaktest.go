// Package leaktest checks whether a test has left descriptors or goroutines behind. It counts those
// of the whole process, so nothing else may run at the same time. It reads /proc, which only Linux
// has.
package leaktest

import (
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	patience = 30 * time.Second // the longest wait for a condition
	looks    = 20               // equal counts in a row after which the process has settled
)

// A Held has the numbers of descriptors and goroutines that the process holds.
type Held struct{ descriptors, goroutines int }

func held(t testing.TB) Held {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return Held{len(open), runtime.NumGoroutine()}
}

// Settled waits until the numbers do not change any more, because earlier tests may still be ending
// things, and returns them.
func Settled(t testing.TB) Held {
	t.Helper()
	last, same := held(t), 0
	if !Polled(func() bool {
		now := held(t)
		if now != last {
			last, same = now, 0
		}
		same++
		return same == looks
	}) {
		require.Fail(t, "the process does not settle")
	}
	return last
}

// RequireNoMore waits until the process holds no more than before. If that does not happen, it
// fails the test with the stacks of all goroutines.
func RequireNoMore(t testing.TB, before Held) {
	t.Helper()
	var now Held
	if Polled(func() bool {
		now = held(t)
		return now.descriptors <= before.descriptors && now.goroutines <= before.goroutines
	}) {
		return
	}
	var stacks strings.Builder
	pprof.Lookup("goroutine").WriteTo(&stacks, 1)
	require.Failf(t, "something was left", "before %+v, now %+v\n%.20000s", before, now, stacks.String())
}

// Polled reports whether a condition has come true within 30 s. Unlike require.Eventually, it
// starts no goroutines, which would be counted.
func Polled(condition func() bool) bool {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range patience / time.Millisecond {
		if condition() {
			return true
		}
		<-tick.C
	}
	return false
}
