package wsproxy

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

// A Trace has functions that a [Proxy] or a [Sticky] calls for its decisions and when requests and
// tunnels end. Any of them may be nil. They run on the goroutine of the request, or of the tunnel
// that ends, and concurrently for different requests. They must not block. They must neither change
// nor keep the requests and headers that they get, except that Span may change its header until it
// returns. [MultiTrace] returns one Trace for several.
//
// A panic of Switch, of the function that it returns, or of Tunnel is logged with its stack. A
// panic of any other function is a panic of ServeHTTP.
type Trace struct {
	// Lookup is called with the candidates that the policy found in the request. Each has a reason
	// that says whether it is usable.
	Lookup func(r *http.Request, found []stickiness.Candidate)
	// Upgrade is called when a request that asks for another protocol is let through. protocol is
	// in lower case. It is empty when the request goes on as a plain one, without the headers that
	// ask. It is not called for an upgrade that is refused.
	Upgrade func(r *http.Request, protocol string)
	// Pick is called before each attempt, with the member that it goes to, or with the error for
	// which there is none.
	Pick func(r *http.Request, m *balancer.Member, err error)
	// Span is called before an attempt is sent, after Proxy.Target. It may change out.Header, which
	// only this attempt sends, for example to name the span to the target. A client cannot remove
	// these fields by naming them in Connection. The function that Span returns may be nil. It is
	// called exactly once, when the attempt is over: when it has failed, when it is made again for
	// its status, when its response has been passed on, at a switch of protocols, or at a panic.
	Span func(r *http.Request, out Outgoing) (end func(a Attempt))
	// Attempt is called when an attempt has its final status, or has failed without one.
	Attempt func(r *http.Request, a Attempt)
	// Retry is called before a failed attempt is made again on another member.
	Retry func(r *http.Request, failed *Error)
	// Bind is called after the policy has seen a response. b.Result says what the policy did.
	Bind func(r *http.Request, b *stickiness.Binding)
	// Done is called when ServeHTTP ends, also by a panic. For an upgrade it is called at the
	// switch.
	Done func(r *http.Request, rec Record)
	// Switch is called after a switch of protocols. The function that it returns may be nil. It is
	// called when the upgraded connection has ended, before Tunnel, and can use what Switch has
	// read from the request.
	Switch func(r *http.Request) (ended func(t TunnelRecord))
	// Tunnel is called when an upgraded connection has ended. That may be before Done is called for
	// its switch. Nothing of the request is kept for it.
	Tunnel func(t TunnelRecord)
}

// An Outgoing is an attempt that is about to be sent.
type Outgoing struct {
	Member *balancer.Member
	Number int         // 1 for the first
	Header http.Header // the header that the target gets
}

// An Attempt is the account of one attempt, up to the header of the response.
type Attempt struct {
	Target  string // ID
	Number  int    // 1 for the first
	Latency time.Duration
	Status  int   // of the target's response; 0 without one
	Err     error // an *[Error]; nil with a response, except in Trace.Span if that broke off
}

// A Record is the account of one request.
type Record struct {
	Start    time.Time
	Duration time.Duration // until ServeHTTP ended
	Method   string
	Host     string
	Path     string     // without the query
	Client   netip.Addr // see Proxy.ClientAddr; invalid when it is not known
	Pool     string     // balancer.Config.Name; empty when the pool has none
	Target   string     // ID of the target of the last attempt; empty when none was asked
	Attempts int        // 1 at most for a Sticky
	Status   int        // sent to the client; 0 when nothing was
	Bytes    int64      // of the response's body that went to the client
	Upgrade  string     // protocol that was switched to, lower case; empty when none was
	Err      error      // an *[Error], or nil
}

// A TunnelRecord is the account of one upgraded connection.
type TunnelRecord struct {
	Record                    // as it stood at the switch
	Open        time.Duration // from the switch to the end
	FromClient  int64         // bytes
	FromBackend int64         // bytes
	ClientCode  uint16        // of the client's close frame; 0 without a frame, 1005 without a code
	BackendCode uint16        // of the target's close frame, as ClientCode
	EndedBy     string        // the reason of the end, such as "client closed" or "idle"; one of a fixed set
	EndErr      error         // nil after a proper end
}

// MultiTrace returns a Trace that calls the functions of all traces, in their order. It skips nil
// traces. After a panic the functions that follow are not called, but every span that has begun
// ends.
func MultiTrace(traces ...*Trace) *Trace {
	all := &Trace{}
	for _, t := range traces {
		if t != nil {
			all.add(t)
		}
	}
	return all
}

func (t *Trace) add(o *Trace) {
	t.Lookup = underway.Chain2(t.Lookup, o.Lookup)
	t.Upgrade = underway.Chain2(t.Upgrade, o.Upgrade)
	t.Pick = underway.Chain3(t.Pick, o.Pick)
	t.Span = chainSpans(t.Span, o.Span)
	t.Attempt = underway.Chain2(t.Attempt, o.Attempt)
	t.Retry = underway.Chain2(t.Retry, o.Retry)
	t.Bind = underway.Chain2(t.Bind, o.Bind)
	t.Done = underway.Chain2(t.Done, o.Done)
	t.Switch = chainSwitches(t.Switch, o.Switch)
	t.Tunnel = underway.Chain1(t.Tunnel, o.Tunnel)
}

// chainSpans returns a function that calls f and then g. Its result calls theirs in the same order.
// If g panics, f's span ends at once. If the end of f's span panics, g's span still ends.
func chainSpans(f, g func(*http.Request, Outgoing) func(Attempt)) func(*http.Request, Outgoing) func(Attempt) {
	switch {
	case f == nil:
		return g
	case g == nil:
		return f
	}
	return func(r *http.Request, out Outgoing) func(Attempt) {
		end, panicking := f(r, out), true
		defer func() {
			if panicking && end != nil {
				end(Attempt{Target: out.Member.ID(), Number: out.Number,
					Err: &Error{Class: ClassRequest, Pool: out.Member.Pool().Name(), Target: out.Member.ID(), Attempt: out.Number, Err: errHook}})
			}
		}()
		other := g(r, out)
		panicking = false
		if end == nil || other == nil {
			return underway.Chain1(end, other)
		}
		return func(a Attempt) {
			defer other(a)
			end(a)
		}
	}
}

// chainSwitches is chainSpans for Trace.Switch.
func chainSwitches(f, g func(*http.Request) func(TunnelRecord)) func(*http.Request) func(TunnelRecord) {
	switch {
	case f == nil:
		return g
	case g == nil:
		return f
	}
	return func(r *http.Request) func(TunnelRecord) { return underway.Chain1(f(r), g(r)) }
}

// LogAccess returns a [Trace] that logs a record for each request when it ends, and one for each
// upgraded connection when that ends, both at Info. A nil logger means slog.Default(). attrs
// returns more attributes for the record; nil adds none. It is called when the request ends, or at
// a switch of protocols. The attribute "pool" has the pool's name, if there is one.
//
// The logger's handler gets the request's context, so that it can add the IDs of requests or
// traces. For an upgraded connection, the values of that context are kept until it ends.
func LogAccess(l *slog.Logger, attrs func(r *http.Request) []slog.Attr) *Trace {
	if l == nil {
		l = slog.Default()
	}
	if attrs == nil {
		attrs = func(*http.Request) []slog.Attr { return nil }
	}
	return &Trace{
		Done: func(r *http.Request, rec Record) {
			if rec.Upgrade == "" || rec.Err != nil {
				l.LogAttrs(r.Context(), slog.LevelInfo, "request", append(rec.attrs(), attrs(r)...)...)
			}
		},
		Switch: func(r *http.Request) func(TunnelRecord) {
			ctx, added := context.WithoutCancel(r.Context()), slices.Clone(attrs(r))
			return func(t TunnelRecord) {
				l.LogAttrs(ctx, slog.LevelInfo, "tunnel", append(t.attrs(), added...)...)
			}
		},
	}
}

func (t *TunnelRecord) attrs() []slog.Attr {
	attrs := append(t.Record.attrs(),
		slog.Duration("open", t.Open),
		slog.Int64("from_client", t.FromClient),
		slog.Int64("from_backend", t.FromBackend),
		slog.Int("client_code", int(t.ClientCode)),
		slog.Int("backend_code", int(t.BackendCode)),
		slog.String("ended_by", t.EndedBy))
	if t.EndErr != nil {
		attrs = append(attrs, slog.Any("end_error", t.EndErr))
	}
	return attrs
}

func (rec *Record) attrs() []slog.Attr {
	attrs := []slog.Attr{
		slog.String("client", underway.AddrText(rec.Client)),
		slog.String("method", rec.Method),
		slog.String("host", rec.Host),
		slog.String("path", rec.Path),
		slog.Int("status", rec.Status),
	}
	if rec.Pool != "" {
		attrs = append(attrs, slog.String("pool", rec.Pool))
	}
	attrs = append(attrs,
		slog.String("target", rec.Target),
		slog.Int("attempts", rec.Attempts),
		slog.Int64("bytes", rec.Bytes),
		slog.Duration("duration", rec.Duration))
	if rec.Err != nil {
		attrs = append(attrs, slog.Any("error", withoutPlace(rec.Err)))
	}
	return attrs
}
