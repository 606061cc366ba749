package redisstore_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/stickiness/redisstore"
)

// FuzzDecode decodes arbitrary values. Each target has exactly one value.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{"", "1", "1:", "1:app-1", "2:app-1", ":app-1", "1:1:", "1:\x00\xff", "1:" + strings.Repeat("x", 4097)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		target, err := redisstore.Decode(value)
		if err != nil {
			require.Empty(t, target)
			return
		}
		again, err := redisstore.Encode(target)
		require.NoError(t, err)
		require.Equal(t, value, again)
	})
}
