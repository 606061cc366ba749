package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// announced is the beginning of a line on standard output that names an address of the process.
const announced = "balancer accepts on"

// farewellTime limits the end of a process after SIGTERM.
const farewellTime = 10 * time.Second

// A process is a process that this program has started.
type process struct {
	cmd    *exec.Cmd
	output transcript
	ended  chan struct{}
	err    error // how it ended
}

// startProcess starts a command. The channel ended is closed when the process ends for any reason.
func startProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, ended: make(chan struct{})}
	keepTogether(cmd)
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	cmd.WaitDelay = farewellTime // for descendants that keep the outputs open
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go p.wait()
	return p, nil
}

func (p *process) wait() {
	p.err = p.cmd.Wait()
	close(p.ended)
}

// addresses waits until the process has announced n addresses, and returns them.
func (p *process) addresses(ctx context.Context, n int) (found []string, err error) {
	err = p.poll(ctx, func() error {
		if found = p.output.after(announced); len(found) < n {
			return errors.New("it announces no address")
		}
		return nil
	})
	return found, err
}

// poll calls try until it succeeds, the process ends, or patience is over.
func (p *process) poll(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w%s", err, p.output.quote())
		case <-p.ended:
			return fmt.Errorf("it has ended (%v)%s", p.err, p.output.quote())
		case <-tick.C:
		}
	}
}

// stop stops the process and waits for its end.
func (p *process) stop() { p.stopWithin(farewellTime) }

// stopWithin stops the process, and kills it after that time. It then kills remaining descendants
// one by one.
func (p *process) stopWithin(patience time.Duration) {
	select {
	case <-p.ended:
		return
	default:
	}
	descendants := p.descendants()
	p.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.cmd.Process.Kill()
	}
	for _, one := range descendants {
		one.Kill() // fails if it has ended
		one.Release()
	}
	<-p.ended
}

// descendants returns handles of all descendants. A handle never refers to another process, even
// after its own has ended.
func (p *process) descendants() (all []*os.Process) {
	pids, err := family(p.cmd.Process.Pid)
	if err != nil {
		return nil
	}
	for _, pid := range pids[1:] {
		if one, err := os.FindProcess(pid); err == nil {
			all = append(all, one)
		}
	}
	return all
}

// A transcript records the lines that a process writes. It is safe for concurrent use.
type transcript struct {
	mu   sync.Mutex
	text []byte
}

const maxTranscript = 1 << 20 // octets; later ones are dropped

func (t *transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b[:min(len(b), maxTranscript-len(t.text))]...)
	return len(b), nil
}

// String returns the text.
func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

// after returns the first word after the prefix, for each whole line with that prefix.
func (t *transcript) after(prefix string) (words []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	whole := t.text[:bytes.LastIndexByte(t.text, '\n')+1]
	for line := range strings.Lines(string(whole)) {
		if rest, ok := strings.CutPrefix(line, prefix+" "); ok {
			words = append(words, strings.Fields(rest)[0])
		}
	}
	return words
}

// quote returns the end of the text, for an error.
func (t *transcript) quote() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := bytes.TrimSpace(t.text)
	if len(text) == 0 {
		return ""
	}
	return fmt.Sprintf("; it says %q", text[max(0, len(text)-500):])
}

// Roles of this program in processes of its own. An environment variable names the role.
const (
	roleVariable     = "STICKYLB_BENCH_ROLE"
	roleBackend      = "backend"
	roleReverseProxy = "reverseproxy"
)

// roleCommand returns a command that runs this program in another role.
func roleCommand(role string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	return cmd, nil
}

// fieldOf returns the number after a name at the beginning of a line.
func fieldOf(text []byte, name string) (int, error) {
	for line := range bytes.Lines(text) {
		if fields := bytes.Fields(line); len(fields) > 1 && string(fields[0]) == name {
			return strconv.Atoi(string(fields[1]))
		}
	}
	return 0, fmt.Errorf("no field %s", name)
}
