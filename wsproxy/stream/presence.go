package stream

import (
	"context"
	"net"
	"time"
)

// maxEarly is how much of what a client sends is read while it waits in the pool's queue.
const maxEarly = 16 << 10

// A presence watches a client that waits: it reads what comes, and ends its context when nothing more will. Once
// maxEarly bytes have come it stops looking.
type presence struct {
	context.Context
	cancel context.CancelCauseFunc
	conn   net.Conn
	early  []byte
	done   chan struct{}
}

// watch begins to watch conn, until stop is called.
func watch(ctx context.Context, conn net.Conn) *presence {
	p := &presence{conn: conn, done: make(chan struct{})}
	p.Context, p.cancel = context.WithCancelCause(ctx)
	go p.run()
	return p
}

func (p *presence) run() {
	defer close(p.done)
	for len(p.early) < maxEarly {
		if cap(p.early) == len(p.early) {
			grown := make([]byte, len(p.early), min(max(2*cap(p.early), 1<<10), maxEarly))
			copy(grown, p.early)
			p.early = grown
		}
		n, err := p.conn.Read(p.early[len(p.early):cap(p.early)])
		p.early = p.early[:len(p.early)+n]
		if err != nil {
			p.cancel(errGone) // too late if it was stop that made the Read fail
			return
		}
	}
}

// stop ends the watch and returns what was read, and why the context has ended if it has.
func (p *presence) stop() (early []byte, why error) {
	why = context.Cause(p)
	p.cancel(context.Canceled)
	p.conn.SetReadDeadline(time.Unix(1, 0))
	<-p.done
	p.conn.SetReadDeadline(time.Time{})
	return p.early, why
}
