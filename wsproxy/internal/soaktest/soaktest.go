// Package soaktest sets the duration of tests that find more the longer they run. They are short
// unless the environment variable SOAK has a duration. .ci/soak sets it:
//
//	SOAK=60s go test -v -run TestFaults ./...
package soaktest

import (
	"os"
	"testing"
	"time"
)

// For returns the duration of SOAK, or short if it is not set.
func For(t testing.TB, short time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv("SOAK")
	if text == "" {
		return short
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("SOAK: %v", err)
	}
	return d
}

// Times returns a number of repetitions: long if SOAK is set, or else short.
func Times(short, long int) int {
	if os.Getenv("SOAK") == "" {
		return short
	}
	return long
}
