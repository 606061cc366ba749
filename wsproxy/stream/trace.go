package stream

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

// A Trace is told what a [Server] decides. Any of its functions may be nil. They are called on
// goroutines of the connection, concurrently for different ones, and must not block. A panic of
// theirs, or of another function of the Server's, is logged with its stack and ends that connection
// alone. [MultiTrace] makes one Trace of several.
type Trace struct {
	// Pick is called for each attempt to connect: with the member that has it, or with the error
	// why none had.
	Pick func(c Client, m *balancer.Member, err error)
	// Retry is called when a failed attempt is about to be made again elsewhere.
	Retry func(c Client, failed *Error)
	// Done is called once for each client that was accepted, when its connection and its target's
	// are closed.
	Done func(rec Record)
}

// A Record is the account of one connection.
type Record struct {
	Start       time.Time
	Duration    time.Duration // until both connections were closed
	Client      netip.Addr    // invalid when unknown
	ServerName  string        // as in [Client]
	Pool        string        // balancer.Config.Name; empty when the pool has none, or none was chosen
	Target      string        // ID of the target of the last attempt; empty when none was asked
	Attempts    int
	FromClient  int64  // bytes that went to the target, TLS of our own aside
	FromBackend int64  // bytes that went to the client, TLS of our own aside
	EndedBy     string // what ended it, such as "client closed" or "idle", of a fixed set; empty when no target was connected
	Err         error  // an *[Error] when no target was connected, else how it broke; nil after a proper end
}

// MultiTrace returns a Trace that calls the functions of all traces, in their order. A nil trace
// has none. A function that panics keeps those after it from being called.
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

// LogAccess is a [Trace] that writes one record for each connection at Info, when it has ended. Nil
// means slog.Default(). A pool with a name is named by the attribute "pool".
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
