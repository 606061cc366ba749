package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// noProxies returns a bench with these programs, none of which runs.
func noProxies(rounds int, limit time.Duration, names ...string) *bench {
	b := &bench{options: &options{rounds: rounds, limit: limit}, began: time.Now(), log: io.Discard}
	for _, name := range names {
		b.proxies = append(b.proxies, &proxy{program: &program{name: name}})
	}
	return b
}

// noted returns a scenario that takes a second, and writes down its name and the program's.
func noted(log *[]string, name string, values ...float64) scenario {
	s := scenario{measure: func(_ context.Context, _ *bench, p *proxy) ([]float64, error) {
		time.Sleep(time.Second)
		*log = append(*log, name+" "+p.name)
		return values, nil
	}}
	for i := range values {
		s.metrics = append(s.metrics, metric{Name: fmt.Sprint(name, i)})
	}
	return s
}

func TestCompare_InTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := noProxies(3, time.Hour, "A", "B")
		var log []string
		few := noted(&log, "few", 3)
		few.rounds = 1
		r, err := b.compare(t.Context(), []scenario{noted(&log, "many", 1, 2), few})
		require.NoError(t, err)
		require.Equal(t, "many A, many B, few A, few B, many B, many A, many A, many B", strings.Join(log, ", "))
		require.Equal(t, map[string]series{
			"many0": {"A": {1, 1, 1}, "B": {1, 1, 1}},
			"many1": {"A": {2, 2, 2}, "B": {2, 2, 2}},
			"few0":  {"A": {3}, "B": {3}},
		}, r.Samples)
		require.Equal(t, 3, r.Rounds)
	})
}

func TestCompare_Limit(t *testing.T) {
	tests := map[string]struct {
		limit time.Duration
		want  int // measurements of one second, four in a round
	}{
		"the first round is always done": {time.Second, 4},
		"a half round is done":           {6500 * time.Millisecond, 6},
		"what would be too long is not":  {5500 * time.Millisecond, 4},
		"all":                            {time.Minute, 12},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log []string
				b := noProxies(3, tt.limit, "A", "B")
				_, err := b.compare(t.Context(), []scenario{noted(&log, "x", 1), noted(&log, "y", 1)})
				require.NoError(t, err)
				require.Len(t, log, tt.want)
			})
		})
	}
}

func TestCompare_Failure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := noProxies(2, time.Hour, nameStickylb, "B")
		tries := 0
		var log []string
		broken := scenario{metrics: []metric{{Name: "broken"}}, measure: func(_ context.Context, _ *bench, p *proxy) ([]float64, error) {
			if p.name == "B" {
				tries++
				return nil, errors.New("it broke")
			}
			return []float64{7}, nil
		}}
		r, err := b.compare(t.Context(), []scenario{broken, noted(&log, "fine", 1)})
		require.NoError(t, err)
		require.Equal(t, []string{"B, broken: it broke"}, r.Failures)
		require.Equal(t, 1, tries, "what has failed is not tried again")
		require.Equal(t, series{nameStickylb: {7, 7}}, r.Samples["broken"])
		require.Len(t, r.Samples["fine0"]["B"], 2, "it goes on with the rest")
		require.False(t, isOurs(r.Failures[0]))
		require.True(t, isOurs(nameStickylb+", broken: it broke"))
	})
}

// What a program does not offer is no failure: it has no figure, and the reason is said.
func TestCompare_Absent(t *testing.T) {
	b := noProxies(2, time.Hour, nameStickylb)
	tries := 0
	s := scenario{metrics: []metric{{Name: "x"}}, measure: func(context.Context, *bench, *proxy) ([]float64, error) {
		tries++
		return nil, fmt.Errorf("open: %w", absent("it has no such thing"))
	}}
	r, err := b.compare(t.Context(), []scenario{s})
	require.NoError(t, err)
	require.Equal(t, 1, tries)
	require.Empty(t, r.Failures)
	require.Equal(t, []string{"stickylb, x: no figure, it has no such thing"}, r.Missing)
}

func TestCompare_EndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	s := scenario{metrics: []metric{{Name: "x"}}, measure: func(ctx context.Context, _ *bench, _ *proxy) ([]float64, error) {
		cancel(interrupted)
		return nil, errors.New("connection closed")
	}}
	_, err := noProxies(2, time.Hour, "A", "B").compare(ctx, []scenario{s})
	require.ErrorIs(t, err, interrupted)
}

// ended reports whether a process has ended. Its new parent may take its time to ask for the exit
// code.
func ended(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err != nil || strings.Contains(string(text), "\nState:\tZ")
}

func TestProcess_Stop(t *testing.T) {
	const deaf = `trap "" TERM; `
	tests := map[string]struct {
		parent, child string
		patience      time.Duration
		want          string
	}{
		"ends in order":                   {`trap "kill $! && exit 7" TERM; `, "", patience, "exit status 7"},
		"leaves a child":                  {"", deaf, time.Millisecond, "signal: "},
		"does not end":                    {deaf, "", time.Millisecond, "signal: killed"},
		"does not end, neither its child": {deaf, deaf, time.Millisecond, "signal: killed"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			const wait = "while :; do /bin/sleep 0.1; done"
			script := "/bin/sh -c '" + tt.child + "echo " + announced + " $$; " + wait + "' & " + tt.parent + wait
			p, err := startProcess(exec.Command("/bin/sh", "-c", script))
			require.NoError(t, err)
			defer p.stopWithin(0)
			found, err := p.addresses(t.Context(), 1)
			require.NoError(t, err)
			child, err := strconv.Atoi(found[0])
			require.NoError(t, err)
			p.stopWithin(tt.patience)
			require.ErrorContains(t, p.err, tt.want)
			require.Eventually(t, func() bool { return ended(child) }, patience, time.Millisecond, "its child is left")
			p.stopWithin(0) // does nothing more
		})
	}
}
