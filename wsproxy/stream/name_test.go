package stream_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/logtest"
	"github.com/stickylb/stickylb/wsproxy/stream"
)

// What the server logs, records and gives its hooks names the pool that Route chose once, and the
// target once. A pool without a name is not named.
func TestServer_W9_NamesThePoolOnce(t *testing.T) {
	for _, name := range []string{"", "mail"} {
		for what, tt := range map[string]struct {
			targets []balancer.Target
			target  string
			retried int
		}{
			"no target":   {nil, "", 0},
			"a dead one":  {[]balancer.Target{dead(t, "app-1")}, "app-1", 0},
			"a live one":  {[]balancer.Target{newBackend(t, "app-2", nil, echoing).target()}, "app-2", 0},
			"one of each": {[]balancer.Target{dead(t, "app-1"), newBackend(t, "app-2", nil, echoing).target()}, "app-2", 1},
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				pool, err := balancer.New(balancer.Config{Name: name, Picker: balancer.First{}, Targets: tt.targets})
				require.NoError(t, err)
				var log logtest.Buffer
				logger := slog.New(slog.NewTextHandler(&log, nil))
				var retried []*stream.Error // read after the end
				r := serve(t, &stream.Server{
					Route: func(stream.Client) *balancer.Pool { return pool }, Logger: logger,
					Trace: &stream.Trace{
						Retry: func(_ stream.Client, failed *stream.Error) { retried = append(retried, failed) },
					},
				})
				c := r.dial(t)
				closeWrite(t, c)
				rec := r.ended(t)
				stream.LogAccess(logger).Done(rec)
				require.Equal(t, name, rec.Pool)
				require.Equal(t, tt.target, rec.Target)
				errs := []error{}
				if rec.Err != nil {
					errs = append(errs, rec.Err)
				}
				require.Len(t, retried, tt.retried)
				for _, e := range retried {
					require.Equal(t, name, e.Pool)
					errs = append(errs, e)
				}
				for _, err := range errs {
					require.Equal(t, min(1, len(name)), strings.Count(err.Error(), `pool "mail"`), err)
					require.LessOrEqual(t, strings.Count(err.Error(), "app-"), 1, err)
				}
				for line := range strings.SplitSeq(strings.TrimSpace(log.String()), "\n") {
					require.Equal(t, min(1, len(name)), strings.Count(line, " pool=mail "), line)
					require.Equal(t, name != "", strings.Contains(line, "pool="), line)
					require.Equal(t, min(1, len(tt.target)), strings.Count(line, "app-"), line)
				}
			})
		}
	}
}
