package underway

import (
	"context"
	"net"
	"os"
	"time"
)

// maxBacklogPause bounds the pause between two attempts to connect to a Unix socket.
const maxBacklogPause = 50 * time.Millisecond

// Dial connects with d. TCP waits if the target's backlog is full, but a Unix socket fails at once.
// Dial then tries again until it succeeds, or until the time of d or ctx is over.
func Dial(ctx context.Context, d net.Dialer, network, addr string) (net.Conn, error) {
	if network != "unix" {
		return d.DialContext(ctx, network, addr)
	}
	if d.Timeout > 0 {
		if end := time.Now().Add(d.Timeout); d.Deadline.IsZero() || end.Before(d.Deadline) {
			d.Deadline = end
		}
	}
	for pause := time.Millisecond; ; pause = min(2*pause, maxBacklogPause) {
		conn, err := d.DialContext(ctx, network, addr)
		if err == nil || !isBacklogFull(err) {
			return conn, err
		}
		if !d.Deadline.IsZero() && time.Until(d.Deadline) < pause {
			return nil, dialError(addr, os.ErrDeadlineExceeded)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, dialError(addr, context.Cause(ctx))
		}
	}
}

// dialError returns the error that package net returns for a failed dial to a Unix socket.
func dialError(addr string, err error) error {
	return &net.OpError{Op: "dial", Net: "unix", Addr: &net.UnixAddr{Name: addr, Net: "unix"}, Err: err}
}
