package main

import (
	"bytes"
	"encoding/xml"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// measured is a result with a metric in which less is better, one in which more is, and one that
// only some have.
func measured() *result {
	return &result{
		Machine:  `2 processors (<fast> & "good")`,
		Programs: []string{nameStickylb, nameReverseProxy, "HAProxy", "nginx"},
		About:    []string{"nginx (1.22): with map and hash"},
		Missing:  []string{"Caddy is left out: not installed; on Debian: apt-get install caddy"},
		Failures: []string{"nginx, memory: broken"},
		Rounds:   3,
		Metrics:  []metric{{Name: "CPU", Unit: "us"}, {Name: "rate", Unit: "1/s", More: true}, {Name: "memory", Unit: "KB"}, {Name: "nobody's", Unit: "us"}},
		Samples: map[string]series{
			"CPU":    {nameStickylb: {24, 26, 25}, nameReverseProxy: {50}, "HAProxy": {12.5}, "nginx": {10}},
			"rate":   {nameStickylb: {30000}, nameReverseProxy: {15000}, "HAProxy": {60000}, "nginx": {50000}},
			"memory": {nameStickylb: {1.875}, nameReverseProxy: {50}, "HAProxy": {3.75}},
		},
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, measured().writeTable(&out))
	table, rest, _ := strings.Cut(out.String(), "\n\n")
	require.Equal(t, []string{
		"               stickylb      ReverseProxy  HAProxy       nginx         to the best peer",
		"CPU       us   25.0 (0.50)   50.0          12.5 (0.25)   10.0 (0.20)   2.50 nginx",
		"rate      1/s  30000 (2.00)  15000         60000 (4.00)  50000 (3.33)  0.50 HAProxy",
		"memory    KB   1.88 (0.04)   50.0          3.75 (0.07)   -             0.50 HAProxy",
		"nobody's  us   -             -             -             -             -",
	}, strings.Split(table, "\n"))
	for _, line := range []string{
		"Medians of up to 3 rounds on 2 processors",
		"nginx (1.22): with map and hash\n",
		"Caddy is left out: not installed; on Debian: apt-get install caddy\n",
		"nginx, memory: broken\n",
	} {
		require.Contains(t, rest, line)
	}
}

func TestMarkdown(t *testing.T) {
	r := measured()
	r.Metrics[0].short = true
	r.Metrics[1].detail = true
	var out bytes.Buffer
	require.NoError(t, r.writeMarkdown(&out))
	table, notes, _ := strings.Cut(out.String(), "\n\n")
	require.Equal(t, []string{
		"| | stickylb | ReverseProxy | HAProxy | nginx | to the best peer |",
		"|---|---|---|---|---|---|",
		"| CPU, us | 25.0 (0.50) | 50.0 | 12.5 (0.25) | 10.0 (0.20) | 2.50 nginx |",
		"| memory, KB | 1.88 (0.04) | 50.0 | 3.75 (0.07) | - | 0.50 HAProxy |",
		"| nobody's, us | - | - | - | - | - |",
	}, strings.Split(table, "\n"))
	require.Contains(t, notes, "\n- nginx, memory: broken\n")

	out.Reset()
	require.NoError(t, r.writeShort(&out))
	require.Equal(t, "| | stickylb | ReverseProxy | HAProxy | nginx |\n|---|---|---|---|---|\n"+
		"| CPU, us | 25.0 | 50.0 | 12.5 | 10.0 |\n\nMedians on 2 processors (<fast> & \"good\").\n", out.String())
}

func TestMachine(t *testing.T) {
	require.Contains(t, machine(), runtime.Version())
	const text = "processor\t: 0\nmodel name\t: Fast (TM): 2\nflags\t\t: fpu hypervisor\nmodel name\t: other\n"
	require.Equal(t, "Fast (TM): 2", cpuField(text, "model name"))
	require.Equal(t, "fpu hypervisor", cpuField(text, "flags"))
	require.Empty(t, cpuField(text, "flag"))
}

func TestTable_WithoutPeersOrReverseProxy(t *testing.T) {
	r := measured()
	r.Programs = []string{nameStickylb}
	require.Empty(t, r.bestPeer(r.Metrics[0]))
	require.Equal(t, "-", r.peerCell(r.Metrics[0]))
	delete(r.Samples["CPU"], nameReverseProxy)
	require.Equal(t, "25.0", r.cell(r.Metrics[0], nameStickylb), "no ratio to nothing")
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00", 0.123: "0.12", 9.876: "9.88", 12.34: "12.3", 99.9: "99.9", 123.4: "123",
		52567.3: "52567", -3.28: "-3.28", -12.34: "-12.3"} {
		require.Equal(t, want, number(v))
	}
}

func TestChart(t *testing.T) {
	var out bytes.Buffer
	r := measured()
	r.Samples["memory"][nameStickylb] = []float64{-1} // less than before: no bar, and none to the left
	require.NoError(t, r.writeChart(&out))
	chart := out.String()
	elements, texts := parseXML(t, chart)

	require.Equal(t, 3, elements["g"], "a panel for each metric with samples")
	require.Equal(t, 1+3*4, elements["rect"], "the ground, and a bar for each program in each panel")
	for _, text := range []string{"CPU ", "(us, less is better)", "(1/s, more is better)", "25.0 (0.50)", "-1.00 (-0.02)", "HAProxy", "-",
		`Medians on 2 processors (<fast> & "good"). In brackets: the ratio to ReverseProxy.`} {
		require.Contains(t, texts, text)
	}
	require.NotContains(t, texts, "nobody's ")
	require.Contains(t, chart, "prefers-color-scheme: dark")
	require.NotContains(t, chart, "NaN")
	require.NotContains(t, chart, `width="-`)
	require.NotContains(t, strings.Replace(chart, "http://www.w3.org/2000/svg", "", 1), "http", "nothing from elsewhere")
	require.Contains(t, chart, `width="372.0"`, "the longest bar has the whole width")
	require.Contains(t, chart, `width="186.0"`, "half as much is half as long")
}

// parseXML returns how many elements of each name a document has, and its texts. It must be
// well-formed.
func parseXML(t *testing.T, document string) (elements map[string]int, texts []string) {
	t.Helper()
	elements = make(map[string]int)
	d := xml.NewDecoder(strings.NewReader(document))
	for {
		token, err := d.Token()
		if err == io.EOF {
			return elements, texts
		}
		require.NoError(t, err)
		switch token := token.(type) {
		case xml.StartElement:
			elements[token.Name.Local]++
		case xml.CharData:
			texts = append(texts, string(token))
		}
	}
}

func TestChart_Empty(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, (&result{Metrics: []metric{{Name: "CPU"}}}).writeChart(&out))
	elements, _ := parseXML(t, out.String())
	require.Equal(t, 1, elements["svg"])
	require.Zero(t, elements["g"])
	require.True(t, math.IsNaN((&result{}).median("CPU", nameStickylb)))
}
