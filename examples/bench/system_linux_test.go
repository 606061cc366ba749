package main

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// processorTime is what getrusage(2) knows of this process.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestCPUTime(t *testing.T) {
	const rounding = 10 * time.Millisecond
	self := []int{os.Getpid()}
	for began := time.Now(); time.Since(began) < 50*time.Millisecond; { // spend some
	}
	before := processorTime(t)
	used, err := cpuTime(self)
	require.NoError(t, err)
	after := processorTime(t)
	require.Positive(t, used)
	require.GreaterOrEqual(t, used, before-rounding)
	require.LessOrEqual(t, used, after+rounding)

	twice, err := cpuTime([]int{os.Getpid(), os.Getpid()})
	require.NoError(t, err)
	require.GreaterOrEqual(t, twice, 2*used, "all of the processes count")
	_, err = cpuTime([]int{1 << 22}) // above the highest
	require.ErrorContains(t, err, "CPU time of process 4194304")
}

func TestResidentMemory(t *testing.T) {
	const size = 64 << 20
	self := []int{os.Getpid()}
	before, err := residentMemory(self)
	require.NoError(t, err)
	memory, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	require.NoError(t, err)
	defer syscall.Munmap(memory)
	for i := 0; i < size; i += 4096 {
		memory[i] = 1
	}
	after, err := residentMemory(self)
	require.NoError(t, err)
	require.InDelta(t, size, after-before, size/2)
	_, err = residentMemory([]int{1 << 22})
	require.Error(t, err)
}

func TestFamily(t *testing.T) {
	p, err := startProcess(exec.Command("/bin/sh", "-c", "/bin/sleep 60 & echo "+announced+" here; wait"))
	require.NoError(t, err)
	defer p.stopWithin(0) // the shell's end would not be the end of its child
	_, err = p.addresses(t.Context(), 1)
	require.NoError(t, err)
	all, err := family(p.cmd.Process.Pid)
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, p.cmd.Process.Pid, all[0])
}

func TestRaiseLimit(t *testing.T) {
	n, err := raiseLimit(1)
	require.NoError(t, err)
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	require.Equal(t, limit.Max, limit.Cur)
	require.Equal(t, min(limit.Max, 1<<20), uint64(n))
}

func TestNap(t *testing.T) {
	began := time.Now()
	nap(20 * time.Millisecond)
	require.GreaterOrEqual(t, time.Since(began), 20*time.Millisecond)
}
