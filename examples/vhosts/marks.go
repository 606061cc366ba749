package main

import (
	"context"
	"time"
)

// writeMarks marks dead backends in Redis until ctx ends. While an active checker is at work, it
// only announces them.
func (t *vhosts) writeMarks(ctx context.Context) {
	var checked bool
	var asked time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-t.marks:
			if time.Now().After(m.until) {
				continue // Redis was away for so long
			}
			limited, cancel := context.WithTimeout(ctx, t.timeout)
			if time.Since(asked) > checkerPause {
				checked, asked = t.store.isChecked(limited), time.Now()
			}
			if err := t.store.mark(limited, m, checked); err != nil {
				t.log.Warn("vhosts: a dead backend is not marked", "frontend", m.frontend, "backend", m.url, "error", err)
			}
			cancel()
		}
	}
}
