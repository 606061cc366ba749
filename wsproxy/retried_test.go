package wsproxy_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy"
)

// An outcome says whether the request was made again on another target, and it does not say so of
// the attempt that was the answer, whatever that is.
func TestProxy_W10_OutcomesSayWhatIsRetried(t *testing.T) {
	for name, tt := range map[string]struct {
		retry  wsproxy.Retry
		script *script
		want   []bool
	}{
		"answered at once": {wsproxy.Retry{}, &script{}, []bool{false}},
		"refused":          {wsproxy.Retry{}, &script{fail: map[string]error{"a": errRefused, "b": errRefused}}, []bool{true, true, false}},
		"broken":           {wsproxy.Retry{Idempotent: true}, &script{fail: map[string]error{"a": errBroken}}, []bool{true, false}},
		"a status":         {wsproxy.Retry{On: []int{503}}, &script{status: map[string]int{"a": 503}}, []bool{true, false}},
		"a status to the end": {wsproxy.Retry{On: []int{503}, Max: 9},
			&script{status: map[string]int{"a": 503, "b": 503, "c": 503}}, []bool{true, true, false}},
		"failed to the end": {wsproxy.Retry{}, &script{fail: map[string]error{"a": errRefused, "b": errRefused, "c": errRefused}}, []bool{true, true, false}},
		"not retried":       {wsproxy.Retry{}, &script{fail: map[string]error{"a": errBroken}}, []bool{false}},
		"never retried":     {wsproxy.Retry{Max: -1}, &script{fail: map[string]error{"a": errRefused}}, []bool{false}},
	} {
		t.Run(name, func(t *testing.T) {
			pool := ordered(t, "a", "b", "c")
			told := &outcomes{}
			defer pool.Observe(told)()
			p := &wsproxy.Proxy{Pool: pool, Transport: tt.script, Retry: tt.retry, Logger: noLog}
			p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
			var got []bool
			for _, o := range told.all {
				got = append(got, o.Retried)
			}
			require.Equal(t, tt.want, got)
		})
	}
}
