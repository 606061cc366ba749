package kubernetes_test

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/balancer/discovery/kubernetes"
	"github.com/stretchr/testify/require"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// first answers n requests of a kind, "list" or "watch", and leaves the others to the server.
func first(n int, kind string, answer func(http.ResponseWriter, *http.Request)) func(http.ResponseWriter, *http.Request) bool {
	var left atomic.Int64
	left.Store(int64(n))
	return func(w http.ResponseWriter, r *http.Request) bool {
		isWatch := r.FormValue("watch") != ""
		if isWatch != (kind == "watch") || left.Add(-1) < 0 {
			return false
		}
		answer(w, r)
		return true
	}
}

// After any fault of the server, the targets stay until it sends other ones, which are then
// reported.
func TestService_Faults(t *testing.T) {
	status := func(code int, reason metav1.StatusReason) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { refuse(w, code, reason, "no") }
	}
	body := func(text string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, text)
		}
	}
	broken := func(text string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			body(text)(w, r)
			panic(http.ErrAbortHandler)
		}
	}
	mute := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	muteStream := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		<-r.Context().Done()
	}
	const half = `{"type":"MODIFIED","object":{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":{"name":"web-1"`
	tests := map[string]struct {
		ending string // of the first watch
		broken bool
		fault  func(http.ResponseWriter, *http.Request) bool
	}{
		"the watch ends":                    {},
		"the watch breaks":                  {broken: true},
		"half an event":                     {ending: half},
		"half an event, then a break":       {ending: half, broken: true},
		"an event that is none":             {ending: "<html>\n"},
		"an event of an unknown type":       {ending: `{"type":"SURPRISE","object":{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1"}}` + "\n"},
		"an object of another kind":         {ending: `{"type":"ADDED","object":{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"}}}` + "\n"},
		"an event without an object":        {ending: `{"type":"MODIFIED"}` + "\n"},
		"a list in place of a slice":        {ending: `{"type":"ADDED","object":{"kind":"EndpointSliceList","apiVersion":"discovery.k8s.io/v1","items":[]}}` + "\n"},
		"an error event":                    {ending: `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","code":500,"reason":"InternalError","message":"etcd"}}` + "\n"},
		"an error event, too many requests": {ending: `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","code":429,"reason":"TooManyRequests"}}` + "\n"},
		"watches are refused with 410":      {fault: first(3, "watch", status(410, metav1.StatusReasonExpired))},
		"watches are refused with 410 Gone": {fault: first(3, "watch", status(410, metav1.StatusReasonGone))},
		"watches are refused with 403":      {fault: first(3, "watch", status(403, metav1.StatusReasonForbidden))},
		"watches are refused with 401":      {fault: first(3, "watch", status(401, metav1.StatusReasonUnauthorized))},
		"watches are refused with 429":      {fault: first(3, "watch", status(429, metav1.StatusReasonTooManyRequests))},
		"watches are refused with 500":      {fault: first(3, "watch", status(500, metav1.StatusReasonInternalError))},
		"watches end at once":               {fault: first(5, "watch", body(""))},
		"watches break at once":             {fault: first(5, "watch", broken(""))},
		"watches are mute":                  {fault: first(1, "watch", mute)},
		"streams are mute":                  {fault: first(1, "watch", muteStream)},
		"lists are refused with 410":        {broken: true, ending: "x", fault: first(3, "list", status(410, metav1.StatusReasonExpired))},
		"lists are refused with 403":        {broken: true, ending: "x", fault: first(3, "list", status(403, metav1.StatusReasonForbidden))},
		"lists are refused with 429":        {broken: true, ending: "x", fault: first(3, "list", status(429, metav1.StatusReasonTooManyRequests))},
		"lists are refused with 500":        {broken: true, ending: "x", fault: first(3, "list", status(500, metav1.StatusReasonInternalError))},
		"lists are mute":                    {broken: true, ending: "x", fault: first(1, "list", mute)},
		"lists break off":                   {broken: true, ending: "x", fault: first(3, "list", broken(`{"kind":"EndpointSliceList","apiVersion":"discovery.k8s.io/v1","items":[`))},
		"lists are half":                    {broken: true, ending: "x", fault: first(3, "list", body(`{"kind":"EndpointSliceList","apiVersion":"discovery.k8s.io/v1","items":[`))},
		"lists are web pages":               {broken: true, ending: "x", fault: first(3, "list", body("<html>"))},
		"lists are of another kind":         {broken: true, ending: "x", fault: first(3, "list", body(`{"kind":"PodList","apiVersion":"v1","items":[]}`))},
		"lists are {}":                      {broken: true, ending: "x", fault: first(3, "list", body(`{}`))},
		"lists are null":                    {broken: true, ending: "x", fault: first(3, "list", body(`null`))},
		"lists are an empty body":           {broken: true, ending: "x", fault: first(3, "list", body(``))},
		"lists are a slice":                 {broken: true, ending: "x", fault: first(3, "list", body(`{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":{"resourceVersion":"7"}}`))},
		"lists are a status":                {broken: true, ending: "x", fault: first(3, "list", body(`{"kind":"Status","apiVersion":"v1","status":"Success"}`))},
		"lists have no version":             {broken: true, ending: "x", fault: first(3, "list", body(`{"kind":"EndpointSliceList","apiVersion":"discovery.k8s.io/v1","items":[]}`))},
		"a proxy asks for a login": {broken: true, ending: "x", fault: first(3, "list", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://login.test/", http.StatusFound)
		})},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, func(f *fixture) {
				a, b := endpoint("a", "10.0.0.1", isReady), endpoint("b", "10.0.0.2", isReady)
				f.api.set(slice("web-1", a, b))
				f.requireSet("a 10.0.0.1 ready", "b 10.0.0.2 ready")
				f.api.failWith(tt.fault)
				f.api.drop(tt.ending, tt.broken)
				f.requireSet("a 10.0.0.1 ready", "b 10.0.0.2 ready")
				a.Conditions = isTerminating
				f.api.set(slice("web-1", a, b))
				time.Sleep(12 * time.Minute) // the longest watch is one of 10 minutes
				f.requireSet("a 10.0.0.1 draining", "b 10.0.0.2 ready")
				f.api.set(slice("web-1", b))
				f.requireSet("b 10.0.0.2 ready")
				require.Equal(f.t, 3, f.count(), "a fault was reported")
				lines := strings.Count(f.log.take(), "\n")
				require.LessOrEqual(f.t, lines, 2, "a failure is told once")
			})
		})
	}
}

// Periodic lists correct the targets after lost events and after a bookmark that never came.
func TestService_ListsAgainAtTimes(t *testing.T) {
	run(t, func(f *fixture) {
		f.api.set(slice("web-1", endpoint("a", "10.0.0.1", isReady)))
		f.settle()
		f.api.mu.Lock() // a change without an event
		f.api.slices["web-1"] = slice("web-1", endpoint("a", "10.0.0.1", isTerminating))
		f.api.mu.Unlock()
		time.Sleep(21 * time.Minute)
		f.requireSet("a 10.0.0.1 draining")
	})
}

//go:embed role.yaml
var role string

func TestService_NamesTheRoleThatIsMissing(t *testing.T) {
	for _, verb := range []string{"list", "watch"} {
		run(t, func(f *fixture) {
			f.api.set(slice("web-1", endpoint("a", "10.0.0.1", isReady)))
			f.api.failWith(first(math.MaxInt, verb, func(w http.ResponseWriter, _ *http.Request) {
				refuse(w, 403, metav1.StatusReasonForbidden, `endpointslices.discovery.k8s.io is forbidden: User "system:serviceaccount:default:lb" cannot `+verb)
			}))
			time.Sleep(10 * time.Minute)
			told := f.log.take()
			require.Equal(f.t, 1, strings.Count(told, "\n"), "a failure is told once, not: %s", told)
			ctx, cancel := context.WithTimeout(f.t.Context(), time.Second)
			defer cancel()
			err := f.service.Ready(ctx)
			if verb == "watch" { // the list was enough for the first set
				require.NoError(f.t, err)
			} else {
				require.ErrorIs(f.t, err, context.DeadlineExceeded)
				require.ErrorContains(f.t, err, "system:serviceaccount:default:lb")
			}

			// The message has the rule of role.yaml.
			for line := range strings.Lines(role[strings.Index(role, "rules:\n")+len("rules:\n") : strings.Index(role, "\n---")+1]) {
				part := strings.TrimLeft(strings.TrimSpace(line), "- ")
				require.Contains(f.t, strings.ReplaceAll(told, `\"`, `"`), part)
			}
			require.Contains(f.t, told, "namespace default")

			f.api.failWith(nil) // the Role was made
			time.Sleep(2 * time.Minute)
			require.NoError(f.t, f.service.Ready(f.t.Context()))
			require.Contains(f.t, f.log.take(), "over: ")
		})
	}
}

// The server of the tests answers nothing but lists and watches of the EndpointSlices of a
// namespace.
func TestService_AsksForNothingElse(t *testing.T) {
	run(t, func(f *fixture) {
		f.api.set(slice("web-1", endpoint("a", "10.0.0.1", isReady)))
		f.settle()
		require.Equal(f.t, []string{"list", "watch"}, f.api.asked())
		for i := range 3 {
			f.api.set(slice("web-1", endpoint("a", fmt.Sprintf("10.0.0.%d", i+2), isReady)))
			f.settle()
			f.api.drop("", false)
			f.settle()
			require.Equal(f.t, []string{"watch"}, f.api.asked(), "a watch that ends is resumed")
		}
		require.Empty(f.t, f.log.take())
	})
}

func TestService_TellsThatThereIsNoService(t *testing.T) {
	run(t, func(f *fixture) {
		other := slice("other-1", endpoint("a", "10.0.0.1", isReady))
		other.Labels = map[string]string{"kubernetes.io/service-name": "other"}
		f.api.set(other)
		ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
		defer cancel()
		err := f.service.Ready(ctx)
		require.ErrorContains(f.t, err, "no EndpointSlice in namespace default has the label kubernetes.io/service-name=web")
		f.api.set(slice("web-1")) // a Service without pods has an empty one
		require.NoError(f.t, f.service.Ready(f.t.Context()))
		f.requireSet([]string{}...)
	})
}

func TestService_IgnoresSlicesOfOthers(t *testing.T) {
	run(t, func(f *fixture) {
		other, elsewhere := slice("web-1", endpoint("x", "10.0.0.1", isReady)), slice("web-2", endpoint("y", "10.0.0.2", isReady))
		other.Labels = map[string]string{"kubernetes.io/service-name": "web2"}
		elsewhere.Namespace = "other"
		names := slice("web-3", endpoint("z", "z.example", isReady))
		names.AddressType = "FQDN"
		f.api.failWith(first(math.MaxInt, "list", func(w http.ResponseWriter, r *http.Request) {
			r.Form.Set("labelSelector", "kubernetes.io/service-name=web2")
			f.api.list(w, r)
		}))
		f.api.set(other, elsewhere, names, slice("web-4", endpoint("a", "10.0.0.3", isReady)))
		time.Sleep(time.Second)
		f.api.set(elsewhere, names, slice("web-4", endpoint("a", "10.0.0.3", isReady)))
		f.requireSet("a 10.0.0.3 ready")
	})
}

// An error about the Host must not repeat a password in it.
func TestService_ErrorsHaveNoPassword(t *testing.T) {
	for _, host := range []string{"https://me:secret@api.test:port", "https://me:secret@api.test/%zz", "https://me:secret@[::1"} {
		s := &kubernetes.Service{
			Config: &rest.Config{Host: host}, Namespace: "default", Name: "web",
			Report: func([]balancer.Target) error { return nil },
		}
		err := s.Run(t.Context())
		require.ErrorContains(t, err, "Service.Config")
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestService_RefusesFields(t *testing.T) {
	for name, tt := range map[string]struct {
		edit func(*kubernetes.Service)
		want string
	}{
		"no config":      {func(s *kubernetes.Service) { s.Config = nil }, "Service.Config is nil"},
		"no report":      {func(s *kubernetes.Service) { s.Report = nil }, "Service.Report is nil"},
		"no namespace":   {func(s *kubernetes.Service) { s.Namespace = "" }, "Namespace and Name"},
		"no name":        {func(s *kubernetes.Service) { s.Name = "" }, "Namespace and Name"},
		"label selector": {func(s *kubernetes.Service) { s.Name = "web,a=b" }, `Service.Name "web,a=b"`},
		"path":           {func(s *kubernetes.Service) { s.Namespace = "a/b" }, `Service.Namespace "a/b"`},
		"family":         {func(s *kubernetes.Service) { s.Family = "FQDN" }, `"FQDN" is neither IPv4 nor IPv6`},
		"scheme":         {func(s *kubernetes.Service) { s.Scheme = "gopher" }, `scheme "gopher"`},
		"plain":          {func(s *kubernetes.Service) { s.ServerName = "web.test" }, "ServerName needs TLS"},
		"address":        {func(s *kubernetes.Service) { s.Config = &rest.Config{Host: "http://[::1"} }, "Service.Config: "},
	} {
		t.Run(name, func(t *testing.T) {
			s := &kubernetes.Service{
				Config: newAPIServer().config(), Namespace: "default", Name: "web",
				Report: func([]balancer.Target) error { return nil },
			}
			tt.edit(s)
			require.ErrorContains(t, s.Run(t.Context()), tt.want)
			require.ErrorContains(t, s.Ready(t.Context()), tt.want)
		})
	}
}

// Watches begin and end while pods come and go. The last set is right in the end, and the bubble
// shows that no goroutine is left.
func TestService_FlappingWatchesConverge(t *testing.T) {
	rounds := 40
	if os.Getenv("SOAK") != "" {
		rounds = 2000
	}
	run(t, func(f *fixture) {
		endings := []string{"", `{"type":"MODI`, "<html>\n", `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","code":410,"reason":"Expired"}}` + "\n"}
		states := []discoveryv1.EndpointConditions{isReady, isReady, isTerminating}
		words := []string{"ready", "ready", "draining"}
		for range rounds {
			var want []string
			for range 1 + rand.N(20) {
				want = want[:0]
				parts := make([][]discoveryv1.Endpoint, 3)
				for i, pod := range []string{"a", "b", "c", "d", "e"} {
					state, of := rand.N(len(states)), rand.N(len(parts))
					address := fmt.Sprintf("10.0.%d.%d", rand.N(2), i)
					parts[of] = append(parts[of], endpoint(pod, address, states[state]))
					want = append(want, pod+" "+address+" "+words[state])
				}
				f.api.set(slice("web-1", parts[0]...), slice("web-2", parts[1]...), slice("web-3", parts[2]...))
				time.Sleep(rand.N(time.Second))
				if rand.N(4) == 0 {
					f.api.forget()
				}
				if rand.N(3) == 0 {
					f.api.failWith(first(rand.N(4), []string{"list", "watch"}[rand.N(2)], func(w http.ResponseWriter, _ *http.Request) {
						refuse(w, []int{429, 500, 410, 403}[rand.N(4)], "", "flapping")
					}))
				}
				f.api.drop(endings[rand.N(len(endings))], rand.N(2) == 0)
				time.Sleep(rand.N(2 * time.Second))
			}
			time.Sleep(time.Minute) // longer than any pause and hold
			f.requireSet(want...)
		}
		t.Logf("%d sets were reported", f.count())
	})
}
