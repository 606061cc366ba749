package stream

import (
	"context"
	"net"
	"time"
)

// maxEarly is how many bytes of a client are read while it waits in the pool's queue.
const maxEarly = 16 << 10

// A presence watches a waiting client: it reads what the client sends, and ends its context when
// the client ends its side. After maxEarly bytes it stops reading.
type presence struct {
	context.Context
	cancel context.CancelCauseFunc
	conn   net.Conn
	early  []byte
	done   chan struct{}
}

// watch watches conn until stop is called.
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
			p.cancel(errGone) // no effect if stop made the Read fail
			return
		}
	}
}

// stop ends the watch. It returns the bytes that were read, and why the context had ended, if it
// had.
func (p *presence) stop() (early []byte, why error) {
	why = context.Cause(p)
	p.cancel(context.Canceled)
	p.conn.SetReadDeadline(time.Unix(1, 0))
	<-p.done
	p.conn.SetReadDeadline(time.Time{})
	return p.early, why
}
