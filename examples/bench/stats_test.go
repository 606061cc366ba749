package main

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMedian(t *testing.T) {
	tests := map[string]struct {
		values []float64
		want   float64
	}{
		"one":        {[]float64{7}, 7},
		"odd":        {[]float64{9, 1, 4}, 4},
		"even":       {[]float64{9, 1, 4, 2}, 3},
		"an outlier": {[]float64{1, 1000, 2, 3, 2}, 2},
		"below zero": {[]float64{-1, -5, -3}, -3},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before := append([]float64{}, tt.values...)
			require.Equal(t, tt.want, median(tt.values))
			require.Equal(t, before, tt.values, "the samples stay in their order")
		})
	}
	require.True(t, math.IsNaN(median(nil)))
}

func TestPercentile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	tests := map[string]struct {
		sorted []time.Duration
		p      float64
		want   time.Duration
	}{
		"none":                   {nil, 50, 0},
		"p0 is the least":        {hundred, 0, 1},
		"p50":                    {hundred, 50, 50},
		"p99":                    {hundred, 99, 99},
		"p99.5 is rounded up":    {hundred, 99.5, 100},
		"p100":                   {hundred, 100, 100},
		"p99 of few is the most": {hundred[:10], 99, 10},
		"p50 of an odd number":   {hundred[:5], 50, 3},
		"p50 of two":             {hundred[:2], 50, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) { require.Equal(t, tt.want, percentile(tt.sorted, tt.p)) })
	}
}

func TestSlope(t *testing.T) {
	tests := map[string]struct {
		x, y []float64
		want float64
	}{
		"flat":            {[]float64{0, 1, 2}, []float64{5, 5, 5}, 0},
		"a line":          {[]float64{1, 2, 4}, []float64{10, 13, 19}, 3},
		"falling":         {[]float64{0, 1}, []float64{1, 0}, -1},
		"scattered":       {[]float64{0, 1, 2, 3}, []float64{0, 2, 1, 3}, 0.8},
		"far from origin": {[]float64{1e6, 1e6 + 1, 1e6 + 2}, []float64{1e9, 1e9 + 2, 1e9 + 4}, 2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) { require.InDelta(t, tt.want, slope(tt.x, tt.y), 1e-6) })
	}
	require.True(t, math.IsNaN(slope(nil, nil)))
	require.True(t, math.IsNaN(slope([]float64{3, 3}, []float64{1, 2})), "one instant has no slope")
}
