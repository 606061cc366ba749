package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
)

// median returns a program's median of a metric. It returns NaN without samples.
func (r *result) median(metric, program string) float64 { return median(r.Samples[metric][program]) }

// ratio returns a program's median divided by that of another program.
func (r *result) ratio(metric, program, other string) float64 {
	return r.median(metric, program) / r.median(metric, other)
}

// bestPeer returns the best program other than the library's and the bare ReverseProxy. It returns
// "" if there is none.
func (r *result) bestPeer(m metric) (best string) {
	for _, name := range r.Programs {
		v := r.median(m.Name, name)
		if name == nameStickylb || name == nameBefore || name == nameReverseProxy || math.IsNaN(v) {
			continue
		}
		if best == "" || (v < r.median(m.Name, best)) != m.More {
			best = name
		}
	}
	return best
}

// cell returns a program's median and its ratio to the bare ReverseProxy.
func (r *result) cell(m metric, program string) string {
	v, ratio := r.median(m.Name, program), r.ratio(m.Name, program, nameReverseProxy)
	switch {
	case math.IsNaN(v):
		return "-"
	case program == nameReverseProxy || math.IsNaN(ratio):
		return number(v)
	}
	return fmt.Sprintf("%s (%.2f)", number(v), ratio)
}

// peerCell returns the library's ratio to the best peer.
func (r *result) peerCell(m metric) string {
	best := r.bestPeer(m)
	ratio := r.ratio(m.Name, nameStickylb, best)
	if best == "" || math.IsNaN(ratio) {
		return "-"
	}
	return fmt.Sprintf("%.2f %s", ratio, best)
}

// number formats a value with three digits, or as a whole number.
func number(v float64) string {
	switch size := math.Abs(v); {
	case size >= 100:
		return fmt.Sprintf("%.0f", v)
	case size >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// writeTable prints the medians, what was compared, and what is missing.
func (r *result) writeTable(out io.Writer, about []string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\t\t%s\tto the best peer\n", strings.Join(r.Programs, "\t"))
	for _, m := range r.Metrics {
		fmt.Fprintf(w, "%s\t%s\t", m.Name, m.Unit)
		for _, name := range r.Programs {
			fmt.Fprintf(w, "%s\t", r.cell(m, name))
		}
		fmt.Fprintln(w, r.peerCell(m))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nMedians of up to %d rounds on %s.\n", r.Rounds, r.Machine)
	fmt.Fprintf(out, "In brackets: the ratio to %s. Last column: %s's ratio to the best of the others.\n", nameReverseProxy, nameStickylb)
	fmt.Fprintf(out, "Each may use all %d processors: HAProxy's nbthread, nginx's worker_processes, and GOMAXPROCS as Go sets it.\n", runtime.NumCPU())
	fmt.Fprintln(out, "Rates and latencies include the client and the backend, which share the processors with the proxy.")
	for _, line := range append(about, append(r.Missing, r.Failures...)...) {
		fmt.Fprintln(out, line)
	}
	return nil
}

// machine returns a line about the machine.
func machine() string {
	model := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d processors (%s), %s", runtime.NumCPU(), model, runtime.Version())
}
