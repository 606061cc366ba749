package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReadPerf(t *testing.T) {
	require.Equal(t, calls{"read": 30, "futex": 5, "others": 7}, readPerf("Events enabled\n"+
		"42,,raw_syscalls:sys_enter,100,100.00,,\n30,,syscalls:sys_enter_read,100,100.00,,\n"+
		"5,,syscalls:sys_enter_futex,100,100.00,,\n<not counted>,,syscalls:sys_enter_write,0,100.00,,\n"))
	require.Zero(t, readPerf("Error: no permission\n").total())
}

func TestReadStrace(t *testing.T) {
	got := readStrace("strace: Process 7 attached\n" +
		"% time     seconds  usecs/call     calls    errors syscall\n" +
		"------ ----------- ----------- --------- --------- ----------------\n" +
		" 60.00    0.000600           6       100        10 read\n" +
		" 40.00    0.000400           4       101           writev\n" +
		"------ ----------- ----------- --------- --------- ----------------\n" +
		"100.00    0.001000           4       201        10 total\n")
	require.Equal(t, calls{"read": 100, "writev": 101}, got)
	require.Equal(t, 201, got.total())
	require.Equal(t, 101, got.of(writeCalls))
}

// startShell starts a shell that runs a script, and waits until it is ready.
func startShell(t *testing.T, script string) *process {
	t.Helper()
	p, err := startProcess(exec.Command("/bin/sh", "-c", "echo "+announced+" here; "+script))
	require.NoError(t, err)
	t.Cleanup(func() { p.stopWithin(0) })
	_, err = p.addresses(t.Context(), 1)
	require.NoError(t, err)
	return p
}

// Both tracers count the calls of a shell that reads lines, one octet with each read.
func TestTracers(t *testing.T) {
	for _, tracer := range tracers {
		t.Run(tracer.name, func(t *testing.T) {
			requireNothingLeft(t)
			fifo := filepath.Join(t.TempDir(), "lines")
			require.NoError(t, exec.Command("mkfifo", fifo).Run())
			p := startShell(t, "while read line; do :; done < "+fifo+"; echo done; while :; do read line < "+fifo+"; done")
			defer p.stopWithin(0)
			pids := []int{p.cmd.Process.Pid}
			counted, err := tracer.count(t.Context(), pids, true, func() error {
				if err := os.WriteFile(fifo, make([]byte, 1000), 0); err != nil {
					return err
				}
				return p.poll(t.Context(), func() error {
					if p.output.String() != announced+" here\ndone\n" {
						return errors.New("not all is read")
					}
					return nil
				})
			})
			if err != nil {
				t.Logf("left out: %v", err) // the bench needs neither, and a container may allow neither
				return
			}
			require.GreaterOrEqual(t, counted.of(readCalls), 1000)
			require.Less(t, counted.of(readCalls), 1100)
			require.False(t, traced(pids[0]), "it has let go")
		})
	}
}

func TestTracers_Failures(t *testing.T) {
	for _, tracer := range tracers {
		t.Run(tracer.name, func(t *testing.T) {
			requireNothingLeft(t)
			_, err := tracer.count(t.Context(), []int{1 << 22}, true, func() error { return nil })
			require.Error(t, err, "no such process")

			p := startShell(t, "while :; do /bin/sleep 0.01; done")
			defer p.stopWithin(0)
			broken := errors.New("the load failed")
			_, err = tracer.count(t.Context(), []int{p.cmd.Process.Pid}, true, func() error { return broken })
			require.Error(t, err)
			require.False(t, traced(p.cmd.Process.Pid))
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err = tracer.count(ctx, []int{p.cmd.Process.Pid}, true, func() error { return nil })
			require.Error(t, err, "interrupted")
			pids := []int{p.cmd.Process.Pid}
			before, err := sleeps(pids)
			require.NoError(t, err)
			require.Eventually(t, func() bool {
				after, err := sleeps(pids)
				return err == nil && after > before
			}, patience, time.Millisecond, "the process that was traced goes on")

			t.Setenv("PATH", t.TempDir())
			_, err = tracer.count(t.Context(), []int{os.Getpid()}, true, func() error { return nil })
			require.EqualError(t, err, "not installed")
		})
	}
}

// refusingTracers puts tracers first in the path that may not attach.
func refusingTracers(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"perf", "strace"} {
		script := "#!/bin/sh\necho " + name + ": Operation not permitted >&2\nexit 1\n"
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700))
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestFindTracer_Refused(t *testing.T) {
	refusingTracers(t)
	_, err := findTracer(t.Context(), os.Getpid())
	require.ErrorContains(t, err, `perf: it cannot attach; it says "perf: Operation not permitted"; strace: it has ended (exit status 1)`)

	b := &bench{options: &options{}}
	require.Len(t, b.callMetrics("request"), 1, "the sleeps are left")
	b.tracer = tracers[0]
	require.Len(t, b.callMetrics("request"), 5)
}

func TestSleeps(t *testing.T) {
	p := startShell(t, "while :; do /bin/sleep 0.01; done")
	pids := []int{p.cmd.Process.Pid}
	before, err := sleeps(pids)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		after, err := sleeps(pids)
		return err == nil && after > before
	}, patience, time.Millisecond)
	_, err = sleeps([]int{1 << 22})
	require.ErrorContains(t, err, "threads of process 4194304")
}
