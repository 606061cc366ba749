package main

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestREADMEHasThisProgram(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	program, err := os.ReadFile("main.go")
	require.NoError(t, err)
	require.LessOrEqual(t, bytes.Count(program, []byte("\n")), 60)
	require.Contains(t, string(readme), "```go\n"+string(program)+"```\n")
}

// Every line of Go in the README stands in the program or in an Example.
func TestREADMECodeIsCompiled(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	compiled := map[string]bool{"": true, "...": true}
	for _, name := range []string{"main.go", "example_test.go", "../../health/prometheus/example_test.go"} {
		code, err := os.ReadFile(name)
		require.NoError(t, err)
		for line := range strings.Lines(string(code)) {
			compiled[strings.TrimRight(strings.TrimSpace(line), ",")] = true
		}
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	require.Greater(t, len(blocks), 6)
	for _, block := range blocks {
		for line := range strings.Lines(block[1]) {
			require.True(t, compiled[strings.TrimRight(strings.TrimSpace(line), ",")], line)
		}
	}
}
