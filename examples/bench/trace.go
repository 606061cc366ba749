package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A tracer counts the system calls of other processes with a program that this machine has.
type tracer struct {
	name  string
	about string
	start func(ctx context.Context, pids []int, names bool) (*tracing, error)
}

// A tracing is a tracer at work on some processes.
type tracing struct {
	process *process
	end     func() error // called when the counting is over, before the process is interrupted
	read    func(report string) calls
}

// calls has the number of system calls by name.
type calls map[string]int

func (c calls) total() (n int) {
	for _, one := range c {
		n += one
	}
	return n
}

// of returns the number of calls with these names.
func (c calls) of(names []string) (n int) {
	for _, name := range names {
		n += c[name]
	}
	return n
}

// System calls by what they are for. A name may be missing on some systems.
var (
	readCalls  = []string{"read", "readv", "recvfrom", "recvmsg"}
	writeCalls = []string{"write", "writev", "sendto", "sendmsg", "sendfile", "splice"}
	waitCalls  = []string{"epoll_wait", "epoll_pwait", "epoll_pwait2", "futex", "nanosleep", "clock_nanosleep", "poll", "ppoll", "select",
		"pselect6", "sched_yield"}
)

// tracers are all tracers. The first one that works is used: perf counts in the kernel, while
// strace stops a process twice for each call, which changes what a proxy does.
var tracers = []*tracer{
	{"perf", "perf stat", startPerf},
	{"strace", "strace -c, which slows a proxy down and so changes how often it waits", startStrace},
}

// findTracer returns the first tracer that can count the system calls of a process, or an error
// that says why there is none.
func findTracer(ctx context.Context, pid int) (*tracer, error) {
	var failed []string
	for _, t := range tracers {
		_, err := t.count(ctx, []int{pid}, false, func() error { return nil })
		if err == nil || ctx.Err() != nil {
			return t, context.Cause(ctx)
		}
		failed = append(failed, fmt.Sprintf("%s: %v", t.name, err))
	}
	return nil, errors.New(strings.Join(failed, "; "))
}

// tracerFarewell limits the end of a tracer. The processes that it traces go on if it is killed.
const tracerFarewell = time.Second

// count returns how many system calls the processes make while do runs. Without names, it may give
// all of them one name, which takes less time.
func (t *tracer) count(ctx context.Context, pids []int, names bool, do func() error) (calls, error) {
	tracing, err := t.start(ctx, pids, names)
	if err != nil {
		return nil, err
	}
	defer tracing.process.stopWithin(tracerFarewell)
	if err := do(); err != nil {
		return nil, err
	}
	if err := tracing.end(); err != nil {
		return nil, err
	}
	tracing.process.cmd.Process.Signal(os.Interrupt) // fails only if it has ended
	select {
	case <-tracing.process.ended:
	case <-time.After(farewellTime):
		return nil, errors.New("it does not end")
	}
	return tracing.read(tracing.process.output.String()), nil
}

// join returns numbers with commas between.
func join(numbers []int) string {
	texts := make([]string, len(numbers))
	for i, n := range numbers {
		texts[i] = strconv.Itoa(n)
	}
	return strings.Join(texts, ",")
}

// perfTotal is the event of every system call.
const perfTotal = "raw_syscalls:sys_enter"

// perfEvents returns the events that perf counts: that of all system calls, and with names those of
// the named ones that this kernel has. Each takes some milliseconds to begin and to end.
func perfEvents(names bool) string {
	if !names {
		return perfTotal
	}
	events := []string{perfTotal}
	for _, name := range slices.Concat(readCalls, writeCalls, waitCalls) {
		if _, err := os.Stat("/sys/kernel/tracing/events/syscalls/sys_enter_" + name); err == nil {
			events = append(events, "syscalls:sys_enter_"+name)
		}
	}
	return strings.Join(events, ",")
}

// startPerf starts perf, which counts when this returns. It is switched on and off through a pair
// of pipes, so that nothing else is counted.
func startPerf(ctx context.Context, pids []int, names bool) (*tracing, error) {
	path, err := exec.LookPath("perf")
	if err != nil {
		return nil, errors.New("not installed")
	}
	commandsOut, commands, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer commandsOut.Close()
	answers, answersIn, err := os.Pipe()
	if err != nil {
		commands.Close()
		return nil, err
	}
	defer answersIn.Close()
	cmd := exec.Command(path, "stat", "-x", ",", "-D", "-1", "--control", "fd:3,4", "-e", perfEvents(names), "-p", join(pids))
	cmd.ExtraFiles = []*os.File{commandsOut, answersIn} // 3 and 4
	p, err := startProcess(cmd)
	if err != nil {
		commands.Close()
		answers.Close()
		return nil, err
	}
	go func() { // whoever waits for an answer then gets an end instead
		<-p.ended
		commands.Close()
		answers.Close()
	}()
	answered := bufio.NewReader(answers)
	control := func(command string) error {
		answers.SetReadDeadline(time.Now().Add(patience))
		stop := context.AfterFunc(ctx, func() { answers.SetReadDeadline(time.Now()) })
		defer stop()
		if _, err := fmt.Fprintln(commands, command); err == nil {
			if _, err = answered.ReadString('\n'); err == nil {
				return nil
			}
		}
		p.stopWithin(tracerFarewell) // it has then written why
		return fmt.Errorf("it cannot attach%s", p.output.quote())
	}
	if err := control("enable"); err != nil {
		return nil, err
	}
	return &tracing{p, func() error { return control("disable") }, readPerf}, nil
}

// readPerf reads the lines of perf stat -x. The calls that have no event of their own get the name
// "others".
func readPerf(report string) calls {
	counted := make(calls)
	others := 0
	for line := range strings.Lines(report) {
		fields := strings.Split(line, ",")
		if len(fields) < 3 {
			continue
		}
		n, err := strconv.Atoi(fields[0])
		if err != nil { // not counted
			continue
		}
		if name, ok := strings.CutPrefix(fields[2], "syscalls:sys_enter_"); ok {
			counted[name] = n
			others -= n
		} else if fields[2] == perfTotal {
			others += n
		}
	}
	if others > 0 {
		counted["others"] = others
	}
	return counted
}

// startStrace starts strace, and returns when it has attached itself to all threads.
func startStrace(ctx context.Context, pids []int, _ bool) (*tracing, error) {
	path, err := exec.LookPath("strace")
	if err != nil {
		return nil, errors.New("not installed")
	}
	p, err := startProcess(exec.Command(path, "-c", "-f", "-q", "-p", join(pids)))
	if err != nil {
		return nil, err
	}
	err = p.poll(ctx, func() error {
		for _, pid := range pids {
			if !traced(pid) {
				return fmt.Errorf("it does not attach to process %d", pid)
			}
		}
		return nil
	})
	if err != nil {
		p.stopWithin(tracerFarewell)
		return nil, err
	}
	return &tracing{p, func() error { return nil }, readStrace}, nil
}

// traced reports whether another process traces all threads of a process.
func traced(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(threads) == 0 {
		return false
	}
	return !slices.ContainsFunc(threads, func(name string) bool {
		text, err := os.ReadFile(name)
		if err != nil { // the thread has just ended
			return false
		}
		tracer, err := fieldOf(text, "TracerPid:")
		return err != nil || tracer == 0
	})
}

// readStrace reads the table of strace -c: the fourth column has the calls, and the last one the
// names.
func readStrace(report string) calls {
	counted := make(calls)
	for line := range strings.Lines(report) {
		fields := strings.Fields(line)
		if len(fields) < 5 || fields[len(fields)-1] == "total" {
			continue
		}
		if n, err := strconv.Atoi(fields[3]); err == nil {
			counted[fields[len(fields)-1]] = n
		}
	}
	return counted
}

// systemCalls measures the system calls of a call, and how often a thread of the proxy went to
// sleep meanwhile, which the system counts by itself. The values are all system calls, the sleeps,
// and the calls that read, write and wait. Without a tracer the sleeps are the only value.
func systemCalls(l load) measurement {
	return func(ctx context.Context, b *bench, p *proxy) ([]float64, error) {
		slept := 0
		n, _, err := l.run(ctx, b, p, func(loop func() error) error {
			before, err := sleeps(p.pids)
			if err != nil {
				return err
			}
			if err := loop(); err != nil {
				return err
			}
			after, err := sleeps(p.pids)
			slept = after - before
			return err
		})
		if err != nil {
			return nil, err
		}
		sleeps := float64(slept) / float64(n)
		if b.tracer == nil {
			return []float64{sleeps}, nil
		}
		var counted calls
		n, _, err = l.run(ctx, b, p, func(loop func() error) (err error) {
			counted, err = b.tracer.count(ctx, p.pids, !b.quick, loop)
			return err
		})
		if err != nil {
			return nil, err
		}
		if counted.total() == 0 {
			return nil, errors.New(b.tracer.name + " counted no system calls")
		}
		per := func(count int) float64 { return float64(count) / float64(n) }
		return []float64{per(counted.total()), sleeps, per(counted.of(readCalls)), per(counted.of(writeCalls)), per(counted.of(waitCalls))}, nil
	}
}

// sleeps returns how often the threads of processes have gone to sleep. The counts of threads that
// have ended are missing.
func sleeps(pids []int) (total int, err error) {
	for _, pid := range pids {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if err != nil || len(threads) == 0 {
			return 0, fmt.Errorf("threads of process %d: none found", pid)
		}
		for _, name := range threads {
			if text, err := os.ReadFile(name); err == nil { // otherwise it has just ended
				n, err := fieldOf(text, "voluntary_ctxt_switches:")
				if err != nil {
					return 0, err
				}
				total += n
			}
		}
	}
	return total, nil
}
