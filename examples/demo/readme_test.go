package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every line of Go in the README's section stands in the Example, and its flags are flags.
func TestREADMEChangesAreCompiled(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	example, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(readme), "## Change while it serves\n")
	require.True(t, found)
	_, code, _ := strings.Cut(section, "```go\n")
	code, _, _ = strings.Cut(code, "```")
	lines := 0
	for line := range strings.Lines(code) {
		require.Contains(t, string(example), "\t"+strings.TrimSpace(line))
		lines++
	}
	require.Equal(t, 4, lines)
}
