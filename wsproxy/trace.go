package wsproxy

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
)

// A Trace is told what a [Proxy] decides. Any of its functions may be nil. They are called on the goroutine of the
// request, or of the tunnel that ends, concurrently for different requests, and must not block. Requests and headers
// that they are given are to be read only, and not kept.
// A panic of Tunnel, which runs on a goroutine of the tunnel's, is logged with its stack; one of the others is the
// handler's.
type Trace struct {
	// Lookup has what the policy found in the request, usable or not, each with its reason.
	Lookup func(r *http.Request, found []stickiness.Candidate)
	// Upgrade is called when a request that asks for another protocol is let through: with the protocol, lower case, or
	// with "" when the request goes on as a plain one, without the headers that asked. What is refused is told to Done.
	Upgrade func(r *http.Request, protocol string)
	// Pick is called for each attempt: with the member that has it, or with the error why none had.
	Pick func(r *http.Request, m *balancer.Member, err error)
	// Attempt is called when an attempt has its final status, or has failed without one.
	Attempt func(r *http.Request, a Attempt)
	// Retry is called when a failed attempt is about to be made again elsewhere.
	Retry func(r *http.Request, failed *Error)
	// Bind is called after the policy has seen a response: b.Result says what it did.
	Bind func(r *http.Request, b *stickiness.Binding)
	// Done is called when ServeHTTP ends, by a panic too, or at the switch of protocols, if there is one.
	Done func(r *http.Request, rec Record)
	// Tunnel is called when an upgraded connection has ended, which may be before Done is told of its switch. Nothing of
	// the request is kept for it.
	Tunnel func(t TunnelRecord)
}

// An Attempt is the account of one attempt, up to the header of the response.
type Attempt struct {
	Target  string // ID
	Number  int    // 1 for the first
	Latency time.Duration
	Status  int   // of the target's response; 0 without one
	Err     error // an *[Error]; nil with a response
}

// A Record is the account of one request.
type Record struct {
	Start    time.Time
	Duration time.Duration // until ServeHTTP ended
	Method   string
	Host     string
	Path     string     // without the query
	Client   netip.Addr // after trust; invalid when unknown
	Target   string     // ID of the target of the last attempt; empty when none was asked
	Attempts int
	Status   int    // sent to the client; 0 when nothing was
	Bytes    int64  // of the response's body that went to the client
	Upgrade  string // protocol that was switched to, lower case; empty when none was
	Err      error  // an *[Error], or nil
}

// A TunnelRecord is the account of one upgraded connection.
type TunnelRecord struct {
	Record                    // as it stood at the switch
	Open        time.Duration // from the switch to the end
	FromClient  int64         // bytes
	FromBackend int64         // bytes
	ClientCode  uint16        // of the close frame that the client sent: 0 for none, 1005 for one without a code
	BackendCode uint16        // of the one that the target sent
	EndedBy     string        // what ended it, such as "client closed" or "idle"
	EndErr      error         // nil after a proper end
}

// LogAccess is a [Trace] that writes one record for each request at Info, and one for each upgraded connection when it
// ends. Nil means slog.Default().
func LogAccess(l *slog.Logger) *Trace {
	if l == nil {
		l = slog.Default()
	}
	return &Trace{
		Done: func(_ *http.Request, rec Record) {
			if rec.Upgrade != "" && rec.Err == nil {
				return
			}
			l.LogAttrs(context.Background(), slog.LevelInfo, "request", rec.attrs()...)
		},
		Tunnel: func(t TunnelRecord) {
			attrs := append(t.attrs(),
				slog.Duration("open", t.Open),
				slog.Int64("from_client", t.FromClient),
				slog.Int64("from_backend", t.FromBackend),
				slog.Int("client_code", int(t.ClientCode)),
				slog.Int("backend_code", int(t.BackendCode)),
				slog.String("ended_by", t.EndedBy))
			if t.EndErr != nil {
				attrs = append(attrs, slog.Any("end_error", t.EndErr))
			}
			l.LogAttrs(context.Background(), slog.LevelInfo, "tunnel", attrs...)
		},
	}
}

func (rec *Record) attrs() []slog.Attr {
	attrs := []slog.Attr{
		slog.String("client", rec.client()),
		slog.String("method", rec.Method),
		slog.String("host", rec.Host),
		slog.String("path", rec.Path),
		slog.Int("status", rec.Status),
		slog.String("target", rec.Target),
		slog.Int("attempts", rec.Attempts),
		slog.Int64("bytes", rec.Bytes),
		slog.Duration("duration", rec.Duration),
	}
	if rec.Err != nil {
		attrs = append(attrs, slog.Any("error", rec.Err))
	}
	return attrs
}

func (rec *Record) client() string {
	if !rec.Client.IsValid() {
		return ""
	}
	return rec.Client.String()
}
