package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/stickylb/stickylb/examples/internal/childprocess"
)

const (
	startTimeout = time.Minute // a process that ends is noticed before
	retryPause   = 50 * time.Millisecond
)

// A fleet has all processes, and the clients of the page.
type fleet struct {
	parts     []*part
	balancers []string // addresses
	visitors  map[string]*visitor
	dir       string // of Redis, or empty
	err       error  // of add
}

// A part is a process that can be killed and started again, at the same address.
type part struct {
	name, addr string
	command    func(addr string) *exec.Cmd

	mu    sync.Mutex
	cmd   *exec.Cmd     // nil before the first start
	ended chan struct{} // closed when cmd has ended
}

// add adds a part and returns its address, on a port that was free just now.
func (f *fleet) add(name string, command func(addr string) *exec.Cmd) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.err = err
		return ""
	}
	defer l.Close()
	addr = l.Addr().String()
	f.parts = append(f.parts, &part{name: name, addr: addr, command: command})
	return addr
}

// start starts all parts.
func (f *fleet) start(ctx context.Context) error {
	for _, p := range f.parts {
		if err := p.start(ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// close kills all parts and removes their files.
func (f *fleet) close() {
	for _, p := range f.parts {
		p.kill()
	}
	if f.dir != "" {
		os.RemoveAll(f.dir)
	}
}

// part returns the part with a name, or nil.
func (f *fleet) part(name string) *part {
	for _, p := range f.parts {
		if p.name == name {
			return p
		}
	}
	return nil
}

// start starts the process, unless it runs, and waits until it listens.
func (p *part) start(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running() {
		return nil
	}
	cmd, ended := p.command(p.addr), make(chan struct{})
	cmd.Stderr = os.Stderr
	childprocess.EndWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd, p.ended = cmd, ended
	go func() {
		cmd.Wait() // the page shows that it has ended
		close(ended)
	}()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", p.addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return err
		case <-ended:
			return fmt.Errorf("the process has ended: %v", cmd.ProcessState)
		case <-time.After(retryPause):
		}
	}
}

// kill kills the process, as kill -9 does, and waits for its end.
func (p *part) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		p.cmd.Process.Kill()
		<-p.ended
	}
}

// running reports whether the process has not ended. The caller holds the lock.
func (p *part) running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// pid returns the process's ID, or 0 if it has ended.
func (p *part) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return 0
	}
	return p.cmd.Process.Pid
}
