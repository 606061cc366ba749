package kubernetes_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

const endpointSlicesPath = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"

// An apiServer is the part of a Kubernetes API server that serves the EndpointSlices of one
// namespace: lists, and watches from a version on. Its methods cause faults.
type apiServer struct {
	mu       sync.Mutex
	version  int
	oldest   int // watches from an older version are refused with 410
	slices   map[string]*discoveryv1.EndpointSlice
	events   []event
	requests []string                                      // what was asked, in words
	fault    func(http.ResponseWriter, *http.Request) bool // answers in place of the server if it returns true
	changed  chan struct{}                                 // closed at the next change
	dropped  chan struct{}                                 // closed when the watches end
	ending   string                                        // what the watches write before they end
	broken   bool                                          // they break off without the end of the response
}

type event struct {
	version int
	kind    string
	object  *discoveryv1.EndpointSlice
}

func newAPIServer() *apiServer {
	return &apiServer{
		version: 100, oldest: 100,
		slices:  make(map[string]*discoveryv1.EndpointSlice),
		changed: make(chan struct{}), dropped: make(chan struct{}),
	}
}

// set adds or modifies slices, each with an event.
func (s *apiServer) set(all ...*discoveryv1.EndpointSlice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range all {
		kind := "MODIFIED"
		if s.slices[o.Name] == nil {
			kind = "ADDED"
		}
		s.putLocked(kind, o.DeepCopy())
	}
}

// delete deletes slices, each with an event.
func (s *apiServer) delete(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		s.putLocked("DELETED", s.slices[name].DeepCopy())
		delete(s.slices, name)
	}
}

func (s *apiServer) putLocked(kind string, o *discoveryv1.EndpointSlice) {
	s.version++
	o.ResourceVersion = strconv.Itoa(s.version)
	s.slices[o.Name] = o
	s.events = append(s.events, event{s.version, kind, o})
	close(s.changed)
	s.changed = make(chan struct{})
}

// forget makes the server forget all events, as etcd's compaction does.
func (s *apiServer) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.events, s.oldest = nil, s.version
}

// drop ends all watches after they have written ending. If broken is true, it breaks the
// connections.
func (s *apiServer) drop(ending string, broken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending, s.broken = ending, broken
	close(s.dropped)
	s.dropped = make(chan struct{})
}

// failWith lets fault answer requests. Nil ends that.
func (s *apiServer) failWith(fault func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

// asked returns the requests since the last call.
func (s *apiServer) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.requests
	s.requests = nil
	return all
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	verb := "list"
	if r.FormValue("watch") != "" {
		verb = "watch"
	}
	s.mu.Lock()
	s.requests = append(s.requests, verb)
	fault := s.fault
	s.mu.Unlock()
	switch {
	case fault != nil && fault(w, r):
	case r.Method != http.MethodGet || r.URL.Path != endpointSlicesPath:
		http.Error(w, "what the Role does not allow: "+r.Method+" "+r.URL.Path, http.StatusTeapot)
	case verb == "watch":
		s.watch(w, r)
	default:
		s.list(w, r)
	}
}

func (s *apiServer) list(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := discoveryv1.EndpointSliceList{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSliceList"},
		ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(s.version)},
	}
	for _, name := range slices.Sorted(maps.Keys(s.slices)) {
		if o := s.slices[name]; selected(r, o) {
			list.Items = append(list.Items, *o)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(list)
}

func selected(r *http.Request, o *discoveryv1.EndpointSlice) bool {
	return r.FormValue("labelSelector") == discoveryv1.LabelServiceName+"="+o.Labels[discoveryv1.LabelServiceName]
}

func (s *apiServer) watch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	flush := func() { http.NewResponseController(w).Flush() }
	flush()
	seconds, _ := strconv.Atoi(r.FormValue("timeoutSeconds"))
	timeout := time.NewTimer(time.Duration(seconds) * time.Second)
	defer timeout.Stop()
	from, _ := strconv.Atoi(r.FormValue("resourceVersion"))
	for {
		s.mu.Lock()
		changed, dropped := s.changed, s.dropped
		gone := from < s.oldest
		var news []event
		for _, e := range s.events {
			if e.version > from && selected(r, e.object) {
				news = append(news, e)
			}
		}
		s.mu.Unlock()
		if gone {
			io.WriteString(w, `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",`+
				`"message":"too old resource version","reason":"Expired","code":410}}`+"\n")
			return
		}
		for _, e := range news {
			writeEvent(w, e)
			from = e.version
		}
		flush()
		select {
		case <-changed:
		case <-dropped:
			s.mu.Lock()
			ending, broken := s.ending, s.broken
			s.mu.Unlock()
			io.WriteString(w, ending)
			flush()
			if broken {
				panic(http.ErrAbortHandler)
			}
			return
		case <-timeout.C:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func writeEvent(w io.Writer, e event) {
	o := *e.object
	o.TypeMeta = metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}
	text, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(w, "{\"type\":%q,\"object\":%s}\n", e.kind, text)
}

// config returns a Config for the server that uses no sockets, so that it works in a bubble of
// synctest.
func (s *apiServer) config() *rest.Config {
	return &rest.Config{Host: "http://api.test", Transport: inMemory{s}}
}

// serve returns a Config for the server on a real socket.
func (s *apiServer) serve(t testing.TB) *rest.Config {
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &rest.Config{Host: server.URL, Transport: transport}
}

// inMemory is a RoundTripper that calls a handler.
type inMemory struct{ http.Handler }

func (m inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	in, out := io.Pipe()
	w := &pipeWriter{header: make(http.Header), out: out, begun: make(chan struct{})}
	go func() {
		defer cancel()
		defer func() {
			w.WriteHeader(http.StatusOK)
			if v := recover(); v != nil {
				out.CloseWithError(io.ErrUnexpectedEOF)
				return
			}
			out.Close()
		}()
		m.ServeHTTP(w, r.WithContext(ctx))
	}()
	context.AfterFunc(ctx, func() {
		if err := r.Context().Err(); err != nil {
			in.CloseWithError(err)
		}
	})
	select {
	case <-w.begun:
		return &http.Response{
			Status: http.StatusText(w.status), StatusCode: w.status, Header: w.header, Body: pipeReader{in, cancel}, Request: r,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: -1,
		}, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

type pipeReader struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (r pipeReader) Close() error {
	r.cancel()
	return r.PipeReader.Close()
}

type pipeWriter struct {
	header http.Header
	out    *io.PipeWriter
	once   sync.Once
	status int
	begun  chan struct{}
}

func (w *pipeWriter) Header() http.Header { return w.header }
func (w *pipeWriter) Flush()              {}

func (w *pipeWriter) WriteHeader(status int) {
	w.once.Do(func() {
		w.status = status
		close(w.begun)
	})
}

func (w *pipeWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.out.Write(p)
}

// refuse writes a Status as the API server does.
func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   "Failure", Message: message, Reason: reason, Code: int32(code),
	})
}

// recorded returns the slices of a list in testdata.
func recorded(t testing.TB, text []byte) (all []*discoveryv1.EndpointSlice) {
	var list discoveryv1.EndpointSliceList
	require.NoError(t, json.Unmarshal(text, &list))
	for i := range list.Items {
		all = append(all, &list.Items[i])
	}
	return all
}
