//go:build !unix

package main

import "testing"

// startPostgres skips the test: where the programs are is known for Unix alone.
func startPostgres(t *testing.T, _, _ string) (addr string, kill func()) {
	t.Skip("PostgreSQL is not looked for on this system")
	return "", nil
}
