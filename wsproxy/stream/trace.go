package stream

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

// A Trace receives callbacks from a [Server]. Any of its functions may be nil. They are called on
// goroutines of the connection, concurrently for different connections, and must not block. If one
// of them, or another function of the Server, panics, the panic is logged with its stack and only
// that connection ends. [MultiTrace] combines several Traces.
type Trace struct {
	// Pick is called for each attempt to connect, with the member that was chosen or with the error
	// if there was none.
	Pick func(c Client, m *balancer.Member, err error)
	// Retry is called before a failed attempt is repeated with another target.
	Retry func(c Client, failed *Error)
	// Done is called once for each accepted client, when its connection and its target's are
	// closed.
	Done func(rec Record)
}

// A Record describes one connection.
type Record struct {
	Start       time.Time
	Duration    time.Duration // until both connections were closed
	Client      netip.Addr    // invalid if unknown
	ServerName  string        // as in [Client]
	Pool        string        // balancer.Config.Name; empty when the pool has none, or none was chosen
	Target      string        // ID of the target of the last attempt; empty when none was asked
	Attempts    int
	FromClient  int64  // bytes that went to the target, without the TLS of this server
	FromBackend int64  // bytes that went to the client, without the TLS of this server
	EndedBy     string // one of a fixed set, such as "client closed" or "idle"; empty if no target was connected
	Err         error  // an *[Error] if no target was connected, otherwise how it broke; nil after a proper end
}

// MultiTrace returns a Trace that calls the functions of all traces, in their order. It ignores nil
// traces. If a function panics, those after it are not called.
func MultiTrace(traces ...*Trace) *Trace {
	all := &Trace{}
	for _, t := range traces {
		if t != nil {
			all.Pick = underway.Chain3(all.Pick, t.Pick)
			all.Retry = underway.Chain2(all.Retry, t.Retry)
			all.Done = underway.Chain1(all.Done, t.Done)
		}
	}
	return all
}

// LogAccess returns a [Trace] that logs one record (Info) for each connection when it has ended. A
// nil logger means slog.Default(). The attribute "pool" has the pool's name, if it has one.
func LogAccess(l *slog.Logger) *Trace {
	if l == nil {
		l = slog.Default()
	}
	return &Trace{Done: func(rec Record) {
		l.LogAttrs(context.Background(), slog.LevelInfo, "connection", rec.attrs()...)
	}}
}

func (rec *Record) attrs() []slog.Attr {
	attrs := []slog.Attr{
		slog.String("client", underway.AddrText(rec.Client)),
		slog.String("server_name", rec.ServerName),
	}
	if rec.Pool != "" {
		attrs = append(attrs, slog.String("pool", rec.Pool))
	}
	attrs = append(attrs,
		slog.String("target", rec.Target),
		slog.Int("attempts", rec.Attempts),
		slog.Int64("from_client", rec.FromClient),
		slog.Int64("from_backend", rec.FromBackend),
		slog.Duration("duration", rec.Duration),
		slog.String("ended_by", rec.EndedBy))
	if err := rec.Err; err != nil {
		if failure, ok := err.(*Error); ok {
			err = failure.apart()
		}
		attrs = append(attrs, slog.Any("error", err))
	}
	return attrs
}
