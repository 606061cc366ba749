package otel_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy"
)

// spans returns a Trace that makes each attempt a span below that of the request, and tells its
// target.
func spans(tracer trace.Tracer, propagator propagation.TextMapPropagator) *wsproxy.Trace {
	return &wsproxy.Trace{Span: func(r *http.Request, out wsproxy.Outgoing) func(wsproxy.Attempt) {
		ctx, span := tracer.Start(r.Context(), r.Method, trace.WithSpanKind(trace.SpanKindClient),
			trace.WithAttributes(attribute.String("stickylb.pool", out.Member.Pool().Name()),
				attribute.String("stickylb.target", out.Member.ID())))
		if out.Number > 1 {
			span.SetAttributes(attribute.Int("http.request.resend_count", out.Number-1))
		}
		propagator.Inject(ctx, propagation.HeaderCarrier(out.Header))
		return func(a wsproxy.Attempt) {
			if a.Status != 0 {
				span.SetAttributes(attribute.Int("http.response.status_code", a.Status))
			}
			if a.Err != nil {
				span.SetStatus(codes.Error, a.Err.Error())
			}
			span.End()
		}
	}}
}

// traced begins the span of a request. It continues the trace of a client that sends one. If
// clients are not trusted, leave out Extract: the trace then begins here.
func traced(next http.Handler, tracer trace.Tracer, propagator propagation.TextMapPropagator) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := propagator.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := tracer.Start(ctx, "request", trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// Each attempt is a span, the failed one before a retry too, and each target continues its own.
func Example_spans() {
	exporter := tracetest.NewInMemoryExporter()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter)).Tracer("stickylb")
	propagator := propagation.TraceContext{}

	var servers []*httptest.Server
	defer func() {
		for _, srv := range servers {
			srv.Close()
		}
	}()
	parents := map[string]string{} // what the targets are told, by target
	app := func(id string, status int) balancer.Target {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx := propagator.Extract(context.Background(), propagation.HeaderCarrier(r.Header))
			parents[id] = trace.SpanContextFromContext(ctx).SpanID().String()
			w.WriteHeader(status)
		}))
		servers = append(servers, srv)
		u, _ := url.Parse(srv.URL)
		return balancer.Target{ID: id, URL: u}
	}
	pool, _ := balancer.New(balancer.Config{
		Name:    "shop",
		Picker:  balancer.First{},
		Targets: []balancer.Target{app("app-1", http.StatusServiceUnavailable), app("app-2", http.StatusOK)},
	})
	proxy := &wsproxy.Proxy{
		Pool:   pool,
		Retry:  wsproxy.Retry{On: []int{http.StatusServiceUnavailable}},
		Trace:  spans(tracer, propagator),
		Logger: slog.New(slog.DiscardHandler),
	}
	defer proxy.Close()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	traced(proxy, tracer, propagator).ServeHTTP(httptest.NewRecorder(), r)

	for _, s := range exporter.GetSpans() {
		fmt.Println(s.Name, "in", s.SpanContext.TraceID())
		for _, a := range s.Attributes {
			fmt.Println(" ", a.Key, a.Value.String())
			if a.Key == "stickylb.target" {
				fmt.Println("  the target continues it:", parents[a.Value.AsString()] == s.SpanContext.SpanID().String())
			}
		}
		fmt.Println("  outcome:", cmp.Or(s.Status.Description, "ok"))
	}
	// Output:
	// GET in 0af7651916cd43dd8448eb211c80319c
	//   stickylb.pool shop
	//   stickylb.target app-1
	//   the target continues it: true
	//   http.response.status_code 503
	//   outcome: wsproxy: header: target "app-1" of pool "shop", attempt 1: status 503 is retried
	// GET in 0af7651916cd43dd8448eb211c80319c
	//   stickylb.pool shop
	//   stickylb.target app-2
	//   the target continues it: true
	//   http.request.resend_count 1
	//   http.response.status_code 200
	//   outcome: ok
	// request in 0af7651916cd43dd8448eb211c80319c
	//   outcome: ok
}
