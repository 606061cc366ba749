// Package cputest returns the processor time of this process, for benchmarks, and for tests that
// something uses no processor while it waits.
package cputest
