package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/go-logr/logr"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

const (
	listTimeout = 30 * time.Second
	watchSlack  = 30 * time.Second // for a server that does not end a watch when it should
	relistEvery = 15 * time.Minute // and up to a third more
)

// rule is the rule of role.yaml in one line.
const rule = `apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs: ["list", "watch"]`

// An api lists and watches the EndpointSlices of one Service.
type api struct {
	client    rest.Interface
	namespace string
	service   string
	codec     runtime.ParameterCodec
}

// newAPI makes a client for discovery.k8s.io/v1 alone. The clientset of client-go would add all
// other groups to the program.
func newAPI(c *rest.Config, namespace, service string) (*api, error) {
	scheme := runtime.NewScheme()
	if err := discoveryv1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	c = rest.CopyConfig(c)
	c.APIPath = "/apis"
	c.GroupVersion = new(discoveryv1.SchemeGroupVersion)
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	if c.UserAgent == "" {
		c.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, err
	}
	return &api{client, namespace, service, runtime.NewParameterCodec(scheme)}, nil
}

// reflect keeps m equal to what the server has until ctx ends.
func (a *api) reflect(ctx context.Context, m *mirror) {
	quiet := logr.Discard() // failures are logged once, by the Source
	r := cache.NewReflectorWithOptions(a.listWatch(m), &discoveryv1.EndpointSlice{}, m, cache.ReflectorOptions{
		Logger:       &quiet,
		Name:         "stickylb",
		Backoff:      &wait.Backoff{Duration: time.Second / 2, Factor: 2, Jitter: 1, Steps: 5, Cap: 8 * time.Second},
		ResyncPeriod: relistEvery + rand.N(relistEvery/3),
	})
	r.RunWithContext(klog.NewContext(ctx, quiet))
}

// plainListWatch makes a reflector list before it watches. The alternative is a watch that begins
// with all objects. It would wait without end if the server, or a proxy before it, leaves out the
// bookmark at the end of those objects. For the few slices of a Service it saves nothing.
type plainListWatch struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported reports true.
func (plainListWatch) IsWatchListSemanticsUnSupported() bool { return true }

func (a *api) listWatch(m *mirror) cache.ListerWatcher {
	return plainListWatch{&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := a.list(ctx, o)
			if err != nil && ctx.Err() == nil {
				m.tell(a.failure(listFails, err))
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := a.watch(ctx, o)
			switch {
			case err == nil:
				m.tell(nil)
			case ctx.Err() == nil && !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err): // 410 is usual
				m.tell(a.failure(watchFails, err))
			}
			return w, err
		},
	}}
}

func (a *api) request(o metav1.ListOptions) *rest.Request {
	o.LabelSelector = discoveryv1.LabelServiceName + "=" + a.service
	return a.client.Get().Namespace(a.namespace).Resource("endpointslices").VersionedParams(&o, a.codec)
}

func (a *api) list(ctx context.Context, o metav1.ListOptions) (*discoveryv1.EndpointSliceList, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	list := &discoveryv1.EndpointSliceList{}
	err := a.request(o).Do(ctx).Into(list)
	if err == nil && list.ResourceVersion == "" { // Into takes "{}" and other objects for an empty list
		err = errors.New("the answer is not a list of EndpointSlices")
	}
	return list, err
}

func (a *api) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	limit := watchSlack
	if o.TimeoutSeconds != nil {
		limit += time.Duration(*o.TimeoutSeconds) * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	w, err := a.request(o).Watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	return &limited{w, cancel}, nil
}

// A limited is a watch with a time limit on the client's side.
type limited struct {
	watch.Interface
	cancel context.CancelFunc
}

// Stop implements [watch.Interface].
func (l *limited) Stop() {
	l.cancel()
	l.Interface.Stop()
}

// A failure has the arguments of [source.Source.Trouble] for a request that failed.
type failure struct {
	kind, detail string
	err          error
}

// failure returns the failure for the error of a request. If the server has forbidden the request,
// the failure names the missing rule.
func (a *api) failure(kind string, err error) *failure {
	detail := string(apierrors.ReasonForError(err))
	if apierrors.IsForbidden(err) {
		err = fmt.Errorf("%w: the service account needs a Role in namespace %s with the rule %s, see role.yaml of package kubernetes",
			err, a.namespace, rule)
	}
	return &failure{kind, detail, fmt.Errorf("discovery: Service %s/%s: %w", a.namespace, a.service, err)}
}
