package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// show shows what happens until over is closed: in a terminal a table that is drawn again and
// again, otherwise a line a second.
func (f *fleet) show(w io.Writer, live bool, over <-chan struct{}) {
	rate := time.Second
	if live {
		rate = 100 * time.Millisecond
	}
	ticker := time.NewTicker(rate)
	defer ticker.Stop()
	drawn := 0 // lines of the table that are there
	for last := false; ; {
		var b strings.Builder
		if drawn > 0 {
			fmt.Fprintf(&b, "\x1b[%dA\x1b[J", drawn) // up, and clear the rest
		}
		for _, line := range f.newLines() {
			fmt.Fprintln(&b, line)
		}
		if live {
			table := f.table()
			drawn = strings.Count(table, "\n")
			b.WriteString(table)
		} else {
			fmt.Fprintf(&b, "%5.1f s  %s\n", time.Since(f.began).Seconds(), f.clients.summary())
		}
		io.WriteString(w, b.String())
		if last {
			return
		}
		select {
		case <-over:
			last = true
		case <-ticker.C:
		}
	}
}

// newLines returns the lines of the update since the last call.
func (f *fleet) newLines() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	lines := f.lines
	f.lines = nil
	return lines
}

// table returns a line for each target, and one for the clients.
func (f *fleet) table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\ntarget\tstate\trequests\tWebSockets\tanswers\t")
	for _, t := range f.registry.Status().Targets {
		fmt.Fprintf(w, "%s\t%v, %v\t%d\t%d\t%d\t\n", t.ID, t.Health, t.Admin, t.Load-t.Tunnels, t.Tunnels, f.clients.answersOf(t.ID))
	}
	w.Flush()
	return b.String() + "\n" + f.clients.summary() + "\n"
}

// summary returns what the clients have seen.
func (t *traffic) summary() string {
	return fmt.Sprintf("%d requests, %d sessions (%d moved), %d WebSockets (%d asked to leave): %d lost",
		t.requests.Load(), t.sessions.Load(), t.moved.Load(), t.sockets.Load(), t.asked.Load(), t.lost.Load())
}
