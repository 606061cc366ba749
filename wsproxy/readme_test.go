package wsproxy_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every line of Go in the README's table of other balancers' settings stands in an Example.
func TestREADMEMigrationTableIsCompiled(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	example, err := os.ReadFile("example_migration_test.go")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(readme), "## Moving over\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")

	lines := 0
	for row := range strings.Lines(section) {
		if cells := strings.Split(row, "|"); len(cells) == 4 {
			for _, code := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[2], -1) {
				if strings.ContainsAny(code[1], "({") {
					require.Contains(t, string(example), code[1])
					lines++
				}
			}
		}
	}
	require.Greater(t, lines, 15)
}
