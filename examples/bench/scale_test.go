package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestScale(t *testing.T) {
	runsAsAWhole(t)
	requireNothingLeft(t)
	dir := t.TempDir()
	var stdout, stderr bytes.Buffer
	rows := "idle clients|learned|^pick"
	code := run(t.Context(), []string{"-quick", "-scale", "-only", nameStickylb, "-run", rows, "-o", dir}, &stdout, &stderr)
	require.Equal(t, exitOK, code, stderr.String()+stdout.String())
	text, err := os.ReadFile(filepath.Join(dir, fileSamples))
	require.NoError(t, err)
	var r result
	require.NoError(t, json.Unmarshal(text, &r))
	require.Len(t, r.Metrics, 2+3+5+6)
	for _, m := range r.Metrics {
		if !strings.HasSuffix(m.Name, "calculated") && !strings.HasPrefix(m.Name, "memory") { // a difference may vanish in noise
			require.Len(t, r.Samples[m.Name][nameStickylb], 1, m.Name)
			require.Positive(t, r.Samples[m.Name][nameStickylb][0], m.Name)
		}
	}
	table, err := os.ReadFile(filepath.Join(dir, fileTable))
	require.NoError(t, err)
	require.Contains(t, string(table), "| CPU per request, 1000 learned sessions, us | ")
}

// A row of the library alone is not measured for other programs, and no reason has to be given.
func TestCompare_Own(t *testing.T) {
	var log []string
	b := noProxies(1, time.Hour, nameStickylb, nameBefore, "HAProxy")
	alone := scenario{metrics: []metric{{Name: "alone"}}, own: true, measure: func(_ context.Context, _ *bench, p *proxy) ([]float64, error) {
		log = append(log, p.name)
		return []float64{1}, nil
	}}
	r, err := b.compare(t.Context(), []scenario{alone})
	require.NoError(t, err)
	require.Equal(t, []string{nameStickylb}, log)
	require.Empty(t, slices.Concat(r.Missing, r.Failures))
	alone.targets = 3
	require.True(t, alone.measures(&proxy{program: &program{name: nameBefore}}))
}

func TestBackend_Flaps(t *testing.T) {
	phases := make(map[bool]int)
	downs := make(map[int]int)
	for i := range flapTargets {
		b := newBackend(loopback(i) + ":80")
		for second := range flapPhases {
			down := b.down(time.Unix(int64(second), 5))
			phases[down]++
			if down {
				downs[second]++
			}
		}
	}
	require.Equal(t, map[bool]int{true: flapTargets, false: 2 * flapTargets}, phases, "each is down for a third of the time")
	require.Len(t, downs, flapPhases, "and some are up at any time")
}

func TestClient_SessionMoves(t *testing.T) {
	ok := "HTTP/1.1 200 OK\r\nX-Backend: a\r\nSet-Cookie: LB=1\r\nContent-Length: 100\r\n\r\n" + string(small.want)
	other := strings.NewReplacer("Backend: a", "Backend: b", "LB=1", "LB=2").Replace(ok)
	c := dialed(t, scripted(t, ok, other, other, ok))
	c.moves = true
	require.NoError(t, c.begin())
	require.NoError(t, c.do(small))
	require.Equal(t, session{"LB=2", "b"}, c.session, "the new cookie counts")
	require.NoError(t, c.do(small))
	require.Equal(t, 1, c.moved)
	c.moves = false
	require.ErrorContains(t, c.do(small), `backend "a" answered in a session of "b"`)
}

func TestBackend_Login(t *testing.T) {
	c := dialed(t, listen(t, func(l net.Listener) error { return newBackend(l.Addr().String()).serve(l) }))
	require.NoError(t, c.start(login("one")))
	require.Equal(t, "APP=one", c.session.cookies)
}

func TestCrowd(t *testing.T) {
	for descriptors, want := range map[int][2]int{
		40_400: {10_000, 1},
		20_000: {9800, 2},
		1024:   {312, 2},
	} {
		b := &bench{options: &options{}, descriptors: descriptors}
		n, processes := b.crowd()
		require.Equal(t, want, [2]int{n, processes})
		require.LessOrEqual(t, 2*n, descriptors-spareDescriptors, "of this process")
		require.LessOrEqual(t, 3*n/processes, descriptors-spareDescriptors, "of a proxy")
	}
}

func TestLineTransfer(t *testing.T) {
	require.Positive(t, lineTransfer(time.Millisecond))
}
