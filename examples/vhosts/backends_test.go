package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	b := parse([]string{"id", "http://a:80", "nonsense", "HTTP://A/", "https://a", "http://b:81/path", "http://c?query",
		"http://" + strings.Repeat("d", 600), "http://e:x", "tcp://f:1"})
	require.Equal(t, "id", b.id)
	require.Len(t, b.broken, 5, b.broken)
	var got []string
	for _, target := range b.targets {
		got = append(got, fmt.Sprint(target.ID, " ", target.Weight, " ", b.indexes[target.ID]))
	}
	require.Equal(t, []string{"http://a 2 [0 2]", "https://a 1 [3]", "http://b:81/path 1 [4]"}, got)
	require.Equal(t, map[string]bool{"http://a": true, "https://a": false, "http://b:81/path": false},
		b.deadTargets([]string{"2", "1", "99", "-3", "x", ""}))
	require.Empty(t, parse(nil).targets)
	require.Empty(t, parse([]string{"id"}).targets)
}
