package wsproxy_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every line of Go in docs/migrating.md's table of other balancers' settings stands in an Example.
func TestMigrationTableIsCompiled(t *testing.T) {
	page, err := os.ReadFile("../docs/migrating.md")
	require.NoError(t, err)
	example, err := os.ReadFile("example_migration_test.go")
	require.NoError(t, err)

	lines := 0
	for row := range strings.Lines(string(page)) {
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
