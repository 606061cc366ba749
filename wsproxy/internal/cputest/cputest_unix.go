//go:build unix

package cputest

import (
	"syscall"
	"testing"
	"time"
)

// Used returns the user and system time that this process has used, all of its threads included.
func Used(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatalf("getrusage: %v", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
