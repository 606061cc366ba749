package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain lets the test binary play the roles that the program has for itself.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		fmt.Fprintln(os.Stderr, "bench:", play(role, os.Args[1:], os.Stdout))
		os.Exit(exitFailed)
	}
	os.Exit(m.Run())
}

// requireNothingLeft gives the program a directory for its files, and checks at the end of the test
// that this is empty, and that no process is left that the test has started.
func requireNothingLeft(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, left)
		all, err := family(os.Getpid())
		require.NoError(t, err)
		require.Equal(t, []int{os.Getpid()}, all)
		require.Eventually(t, func() bool { return !mentioned(t, dir) }, patience, 10*time.Millisecond, "a process without a parent")
	})
}

// mentioned reports whether a process has this directory in its command line. One that was killed
// may take its time.
func mentioned(t *testing.T, dir string) bool {
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	return slices.ContainsFunc(commands, func(name string) bool {
		command, err := os.ReadFile(name) // fails if it has just ended
		return err == nil && strings.Contains(string(command), dir)
	})
}

// brokenCaddy puts a program of that name in front of the others, that does not start.
func brokenCaddy(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	script := "#!/bin/sh\n[ \"$1\" = version ] && echo v0 && exit\necho cannot serve >&2\nexit 3\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "caddy"), []byte(script), 0o700))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// runsAsAWhole leaves a test out that runs the program for seconds, if only short ones are asked
// for.
func runsAsAWhole(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it runs the program for seconds")
	}
}

func TestQuick(t *testing.T) {
	runsAsAWhole(t)
	requireNothingLeft(t)
	brokenCaddy(t)
	dir := t.TempDir()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"-quick", "-o", dir}, &stdout, &stderr)
	require.Equal(t, exitOK, code, stderr.String()+stdout.String())
	t.Log(stdout.String())

	text, err := os.ReadFile(filepath.Join(dir, fileSamples))
	require.NoError(t, err)
	var r result
	require.NoError(t, json.Unmarshal(text, &r))
	require.Equal(t, []string{nameStickylb, nameReverseProxy}, r.Programs[:2])
	require.Contains(t, []int{26, 31}, len(r.Metrics), "with and without a tracer")
	for _, m := range r.Metrics {
		require.Regexp(t, `(?m)^`+m.Name+` +`+m.Unit+` `, stdout.String(), "its row")
		for _, name := range r.Programs[:2] {
			if name == nameReverseProxy && strings.Contains(m.Name, "WebSocket over HTTP/2") {
				require.Empty(t, r.Samples[m.Name][name], "it cannot")
				continue
			}
			require.Len(t, r.Samples[m.Name][name], 1, "%s of %s", m.Name, name)
			if m.Unit != kilobytes && m.Unit != sleepsOf { // a heap may shrink, and a busy thread need not sleep
				require.Positive(t, r.Samples[m.Name][name][0], "%s of %s", m.Name, name)
			}
		}
	}
	require.Contains(t, stdout.String(), "\nCaddy is left out: ")
	require.Contains(t, stdout.String(), "cannot serve")
	for _, name := range []string{fileTable, fileShort, fileChart} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Contains(t, string(text), "CPU per request, "+smallAnswer)
		require.Contains(t, string(text), r.Machine)
	}
}

// A trigger calls do when something has been written that contains a text.
type trigger struct {
	text string
	do   func()
}

func (w *trigger) Write(b []byte) (int, error) {
	if strings.Contains(string(b), w.text) {
		w.do()
	}
	return len(b), nil
}

func TestInterrupt(t *testing.T) {
	runsAsAWhole(t)
	requireNothingLeft(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout bytes.Buffer
	stderr := &trigger{"round 1 of 1000 is done", func() { time.AfterFunc(20*time.Millisecond, cancel) }} // within the second
	code := run(ctx, []string{"-quick", "-rounds", "1000", "-only", "stickylb", "-run", "CPU per new"}, &stdout, stderr)
	require.Equal(t, exitFailed, code)
	require.Empty(t, stdout.String(), "half a table is none")
}

func TestInterrupt_WhileItStarts(t *testing.T) {
	requireNothingLeft(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var stdout, stderr bytes.Buffer
	require.Equal(t, exitRefused, run(ctx, []string{"-quick"}, &stdout, &stderr))
	require.Contains(t, stderr.String(), "bench: ")
}

func TestRefused(t *testing.T) {
	requireNothingLeft(t)
	brokenCaddy(t)
	dir := t.TempDir()
	old := filepath.Join(dir, fileTable)
	require.NoError(t, os.WriteFile(old, []byte("old"), 0o600))
	tests := map[string]struct {
		args []string
		want string
	}{
		"no files":   {[]string{"-o", dir + "/none"}, ": no such file or directory\n"},
		"rows":       {[]string{"-only", "stickylb", "-run", "no such row"}, "bench: no row has a name that matches -run no such row\n"},
		"a file":     {[]string{"-o", old}, ": not a directory\n"},
		"no build":   {[]string{"-only", "stickylb", "-before", old}, "bench: "},
		"no program": {[]string{"-only", "caddy", "-o", dir}, "\nbench: none of the programs is left\n"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			require.Equal(t, exitRefused, run(t.Context(), append(tt.args, "-quick"), &stdout, &stderr))
			require.Empty(t, stdout.String())
			require.Contains(t, stderr.String(), tt.want)
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Len(t, left, 1)
			text, err := os.ReadFile(old)
			require.NoError(t, err)
			require.Equal(t, "old", string(text))
		})
	}
}

func TestSoak(t *testing.T) {
	runsAsAWhole(t)
	requireNothingLeft(t)
	var stdout, stderr bytes.Buffer
	var code int
	none := regexp.MustCompile(`\b0 (requests|echoes|sessions)`)
	for range 3 { // a machine that stalls for the whole second has nothing to show
		stdout.Reset()
		stderr.Reset()
		code = run(t.Context(), []string{"-quick", "-soak", "1s"}, &stdout, &stderr)
		if !strings.Contains(stderr.String(), "is too short for a slope") && !none.MatchString(stdout.String()) {
			break
		}
	}
	require.Equal(t, exitOK, code, stderr.String()+stdout.String())
	require.Regexp(t, `Highest rate \d+ requests a second`, stdout.String())
	require.Regexp(t, `\n[1-9]\d* requests, [1-9]\d* echoes, [1-9]\d* sessions, no error\n`, stdout.String())
	require.Regexp(t, `RSS slope after the first 100ms: -?\d+ bytes a minute`, stdout.String())
}
