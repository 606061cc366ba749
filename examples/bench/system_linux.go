package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

// checkSystem returns an error if CPU time and memory of processes cannot be read on this system.
func checkSystem() error { return nil }

// cpuTime returns the user and system time of the processes as the scheduler counts it, in
// nanoseconds, with threads that have ended. See clock_getcpuclockid(3).
func cpuTime(pids []int) (time.Duration, error) {
	const scheduled = 2 // CPUCLOCK_SCHED
	total := time.Duration(0)
	for _, pid := range pids {
		clock := ^pid<<3 | scheduled
		var t syscall.Timespec
		if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&t)), 0); errno != 0 {
			return 0, fmt.Errorf("CPU time of process %d: %w", pid, errno)
		}
		total += time.Duration(t.Nano())
	}
	return total, nil
}

// residentMemory returns the resident memory of the processes, in octets. Memory that processes
// share counts for each.
func residentMemory(pids []int) (int64, error) {
	total := int64(0)
	for _, pid := range pids {
		// The count in statm is off by some hundred kilobytes.
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, err
		}
		kilobytes, err := fieldOf(text, "Rss:")
		if err != nil {
			return 0, fmt.Errorf("memory of process %d: %w", pid, err)
		}
		total += int64(kilobytes) << 10
	}
	return total, nil
}

// family returns a process and all its descendants.
func family(pid int) ([]int, error) {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := make(map[int][]int)
	for _, entry := range all {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if text, err := os.ReadFile("/proc/" + entry.Name() + "/status"); err == nil { // otherwise it has just ended
			if parent, err := fieldOf(text, "PPid:"); err == nil {
				children[parent] = append(children[parent], child)
			}
		}
	}
	family := []int{pid}
	for i := 0; i < len(family); i++ {
		family = append(family, children[family[i]]...)
	}
	return family, nil
}

// raiseLimit raises the limit of descriptors for this process and its children as far as permitted,
// and above the limit that was set for it only if more are wanted. It returns the limit.
func raiseLimit(wanted int) (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	if higher := uint64(wanted); higher > limit.Max {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: higher, Max: higher}); err == nil { // only privileged ones may
			return wanted, nil
		}
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	return int(min(limit.Max, 1<<20)), nil
}

// keepTogether ties a child to this process: the child ends when this process ends. An interrupt at
// the terminal reaches only this process.
func keepTogether(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// nap sleeps more exactly than [time.Sleep], which may be a millisecond late.
func nap(d time.Duration) {
	left := syscall.NsecToTimespec(int64(d))
	for errors.Is(syscall.Nanosleep(&left, &left), syscall.EINTR) {
	}
}
