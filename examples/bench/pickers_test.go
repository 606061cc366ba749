package main

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHistogram(t *testing.T) {
	var h histogram
	require.Zero(t, h.percentile(50))
	r := rand.New(rand.NewPCG(1, 2))
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(r.Uint64() >> (1 + r.IntN(60)))
		all = append(all, d)
		h.add(d)
	}
	slices.Sort(all)
	for _, p := range []float64{0, 1, 50, 99, 99.9, 100} {
		want := percentile(all, p)
		require.InDelta(t, float64(want), float64(h.percentile(p)), 0.02*float64(want))
	}
	require.Equal(t, all[len(all)-1], h.longest)
}

func TestComparePickers(t *testing.T) {
	o := options{rounds: 1, slot: time.Millisecond}
	var out bytes.Buffer
	require.NoError(t, o.comparePickers(t.Context(), 20, &out))
	rows := strings.Split(out.String(), "\n")
	for i, p := range pickers {
		require.Regexp(t, `^`+p.name+` +([\d.]+ *){9}$`, rows[1+i])
	}
	require.Contains(t, out.String(), "Medians of 1 rounds with 20 targets")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, o.comparePickers(ctx, 20, &out), context.Canceled)
}

func TestRunPickers(t *testing.T) {
	var stdout, stderr bytes.Buffer
	require.Equal(t, exitOK, run(t.Context(), []string{"-pickers", "-rounds", "1", "-slot", "1ms"}, &stdout, &stderr))
	require.Empty(t, stderr.String())
	require.Contains(t, stdout.String(), "with 10000 targets")
}
