package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
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
	if program == nameReverseProxy || math.IsNaN(ratio) {
		return plainCell(v)
	}
	return fmt.Sprintf("%s (%.2f)", number(v), ratio)
}

// peerCell returns the library's ratio to the best peer.
func (r *result) peerCell(m metric) string {
	best := r.bestPeer(m)
	ratio := r.ratio(m.Name, nameStickylb, best)
	if best == "" || math.IsNaN(ratio) || math.IsInf(ratio, 0) {
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
func (r *result) writeTable(out io.Writer) error {
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
	_, err := fmt.Fprintf(out, "\n%s\n", strings.Join(r.notes(), "\n"))
	return err
}

// notes returns what has to be said about the table.
func (r *result) notes() []string {
	return slices.Concat([]string{
		fmt.Sprintf("Medians of up to %d rounds on %s.", r.Rounds, r.Machine),
		fmt.Sprintf("In brackets: the ratio to %s. Last column: %s's ratio to the best of the others.", nameReverseProxy, nameStickylb),
		fmt.Sprintf("Each may use all %d processors: HAProxy's nbthread, nginx's worker_processes, and GOMAXPROCS as Go sets it.", runtime.NumCPU()),
		"Rates and latencies include the client and the backend, which share the processors with the proxy.",
	}, r.About, r.Missing, r.Failures)
}

// writeMarkdown writes the table of the documentation: the rows without details, and the notes.
func (r *result) writeMarkdown(out io.Writer) error {
	var b strings.Builder
	for _, scale := range []bool{false, true} {
		r.writeRows(&b, func(m metric) bool { return !m.detail && m.scale == scale })
	}
	fmt.Fprintf(&b, "- %s\n", strings.Join(r.notes(), "\n- "))
	_, err := io.WriteString(out, b.String())
	return err
}

// writeRows writes a table of the rows that are wanted, if there are any, and an empty line.
func (r *result) writeRows(b *strings.Builder, wanted func(metric) bool) {
	if !slices.ContainsFunc(r.Metrics, wanted) {
		return
	}
	fmt.Fprintf(b, "| | %s | to the best peer |\n|---|%s---|\n", strings.Join(r.Programs, " | "), strings.Repeat("---|", len(r.Programs)))
	for _, m := range r.Metrics {
		if !wanted(m) {
			continue
		}
		fmt.Fprintf(b, "| %s, %s |", m.Name, m.Unit)
		for _, name := range r.Programs {
			fmt.Fprintf(b, " %s |", r.cell(m, name))
		}
		fmt.Fprintf(b, " %s |\n", r.peerCell(m))
	}
	b.WriteByte('\n')
}

// writeShort writes the table of the README: the main rows, and one line about the machine.
func (r *result) writeShort(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "| | %s |\n|---|%s\n", strings.Join(r.Programs, " | "), strings.Repeat("---|", len(r.Programs)))
	for _, m := range r.Metrics {
		if m.short {
			fmt.Fprintf(&b, "| %s, %s |", m.Name, m.Unit)
			for _, name := range r.Programs {
				fmt.Fprintf(&b, " %s |", plainCell(r.median(m.Name, name)))
			}
			b.WriteByte('\n')
		}
	}
	fmt.Fprintf(&b, "\nMedians on %s.\n", r.Machine)
	_, err := io.WriteString(out, b.String())
	return err
}

func plainCell(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return number(v)
}

// machine returns a line about the machine, its kernel and this program's version of Go.
func machine() string {
	model, virtual := runtime.GOARCH, false
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if found := cpuField(string(text), "model name"); found != "" {
			model = found
		}
		virtual = slices.Contains(strings.Fields(cpuField(string(text), "flags")), "hypervisor")
	}
	if virtual {
		model += ", in a virtual machine"
	}
	parts := []string{fmt.Sprintf("%d processors (%s)", runtime.NumCPU(), model)}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		parts = append(parts, "Linux "+strings.TrimSpace(string(release)))
	}
	return strings.Join(append(parts, runtime.Version()), ", ")
}

// cpuField returns a field of the first processor in /proc/cpuinfo, or "".
func cpuField(text, field string) string {
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == field {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
