package main

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// Sizes in the chart, in pixels.
const (
	chartColumns = 2
	panelWidth   = 560
	panelMargin  = 20
	titleHeight  = 26
	barHeight    = 15
	barStep      = 20
	labelWidth   = 92
	valueWidth   = 96
	footHeight   = 24
)

// chartStyle has colours for light and dark screens. The chart has its own background, so that its
// text is readable on every page.
const chartStyle = `
text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.note, .unit { fill: #59636e; font-weight: 400 }
.ground { fill: #ffffff }
.own { fill: #0969da }
.other { fill: #afb8c1 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc }
.note, .unit { fill: #9198a1 }
.ground { fill: #0d1117 }
.own { fill: #4493f8 }
.other { fill: #565e67 }
}
`

// writeChart draws a panel of bars for every metric that has samples and is no detail.
func (r *result) writeChart(out io.Writer) error {
	var shown []metric
	for _, m := range r.Metrics {
		if !m.detail && !m.scale && len(r.Samples[m.Name]) > 0 {
			shown = append(shown, m)
		}
	}
	panelHeight := titleHeight + len(r.Programs)*barStep + panelMargin
	rows := (len(shown) + chartColumns - 1) / chartColumns
	width := chartColumns*(panelWidth+panelMargin) + panelMargin
	height := rows*panelHeight + panelMargin + footHeight
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="%s">`,
		width, height, width, height, html.EscapeString("Medians of "+strings.Join(r.Programs, ", ")))
	fmt.Fprintf(&b, "\n<style>%s</style>\n<rect class=\"ground\" width=\"%d\" height=\"%d\" rx=\"6\"/>\n", chartStyle, width, height)
	for i, m := range shown {
		x := panelMargin + i%chartColumns*(panelWidth+panelMargin)
		y := panelMargin + i/chartColumns*panelHeight
		fmt.Fprintf(&b, "<g transform=\"translate(%d %d)\">\n", x, y)
		r.drawPanel(&b, m)
		b.WriteString("</g>\n")
	}
	foot := fmt.Sprintf("Medians on %s. In brackets: the ratio to %s.", r.Machine, nameReverseProxy)
	fmt.Fprintf(&b, "<text class=\"note\" x=\"%d\" y=\"%d\">%s</text>\n</svg>\n", panelMargin, height-panelMargin+4, html.EscapeString(foot))
	_, err := io.WriteString(out, b.String())
	return err
}

// drawPanel draws one metric, with the origin at its top left corner.
func (r *result) drawPanel(b *strings.Builder, m metric) {
	better := "less is better"
	if m.More {
		better = "more is better"
	}
	fmt.Fprintf(b, "<text class=\"title\" y=\"12\">%s <tspan class=\"unit\">(%s, %s)</tspan></text>\n",
		html.EscapeString(m.Name), html.EscapeString(m.Unit), better)
	longest := 0.0
	for _, name := range r.Programs {
		if v := r.median(m.Name, name); v > longest { // false for NaN
			longest = v
		}
	}
	for i, name := range r.Programs {
		y := titleHeight + i*barStep
		v, class := r.median(m.Name, name), "other"
		if name == nameStickylb {
			class = "own"
		}
		length := 0.0
		if v > 0 {
			length = math.Max(1, v/longest*(panelWidth-labelWidth-valueWidth))
		}
		fmt.Fprintf(b, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>", labelWidth-6, y+barHeight-3, html.EscapeString(name))
		fmt.Fprintf(b, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" rx=\"2\"/>", class, labelWidth, y, length, barHeight)
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%d\">%s</text>\n", labelWidth+length+6, y+barHeight-3, html.EscapeString(r.cell(m, name)))
	}
}
