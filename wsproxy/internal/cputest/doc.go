// Package cputest returns the processor time of this process, for benchmarks and for tests of what
// waits without work.
package cputest
