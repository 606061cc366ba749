package leaktest_test

import (
	"os"
	"testing"

	"github.com/stickylb/stickylb/wsproxy/internal/leaktest"
	"github.com/stretchr/testify/require"
)

func TestSettled_TellsWhatIsHeld(t *testing.T) {
	before := leaktest.Settled(t)
	leaktest.RequireNoMore(t, before)

	f, err := os.Open(os.DevNull)
	require.NoError(t, err)
	with := leaktest.Settled(t)
	require.NotEqual(t, before, with, "a descriptor")
	require.NoError(t, f.Close())
	leaktest.RequireNoMore(t, before)

	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		<-stop
		close(ended)
	}()
	require.NotEqual(t, before, leaktest.Settled(t), "a goroutine")
	close(stop)
	<-ended
	leaktest.RequireNoMore(t, before)
}
