// Package nodejs runs programs of Node.js, with the packages that they need, for the example
// programs and their tests.
package nodejs

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stickylb/stickylb/examples/internal/childprocess"
)

const (
	attempts       = 4               // of npm ci
	installTimeout = 2 * time.Minute // of each
	startTimeout   = time.Minute     // until a program has written its port
	pause          = 5 * time.Second // before the second attempt; each later one is longer
	npmEnds        = time.Second     // limit for what npm has started, after npm has ended
	packages       = "node_modules"
)

// A Folder is a temporary directory with programs and the packages that they need. Its methods are
// safe for concurrent use.
type Folder struct {
	dir string

	mu      sync.Mutex
	started []*Process
}

type packagesKey struct{}

// WithPackages returns a context with which Install uses the packages of f, which has the same
// package-lock.json, instead of installing them again. f is closed after the folders that use them.
func WithPackages(ctx context.Context, f *Folder) context.Context {
	return context.WithValue(ctx, packagesKey{}, f)
}

// Install copies the directory at path to a new Folder, and installs the packages that its
// package-lock.json names. No scripts of the packages are run. The caller closes the Folder.
func Install(ctx context.Context, files fs.FS, path string) (*Folder, error) {
	files, err := fs.Sub(files, path)
	if err != nil {
		return nil, err
	}
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%s is not installed: install Node.js 20 or newer with npm "+
				"(Debian has them in the packages nodejs and npm)", program)
		}
	}
	dir, err := os.MkdirTemp("", "stickylb-node")
	if err != nil {
		return nil, err
	}
	f := &Folder{dir: dir}
	if err := os.CopyFS(dir, files); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if from, ok := ctx.Value(packagesKey{}).(*Folder); ok {
		if err := os.Symlink(filepath.Join(from.dir, packages), filepath.Join(dir, packages)); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
	log.Print("installing packages with npm")
	for n := range attempts { // the registry may be out of reach for a moment
		if n > 0 {
			log.Printf("npm has failed, and is started again in %v: %v", time.Duration(n)*pause, err)
		}
		if err = wait(ctx, time.Duration(n)*pause); err != nil {
			break
		}
		if err = f.npmCI(ctx); err == nil {
			return f, nil
		}
	}
	return nil, errors.Join(err, f.Close())
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (f *Folder) npmCI(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci", "--prefer-offline", "--no-audit", "--no-fund", "--no-update-notifier", "--ignore-scripts")
	npm.Dir = f.dir
	npm.WaitDelay = npmEnds
	childprocess.EndWithParent(npm)
	if out, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return nil
}

// Command returns a command that runs a program of the folder with node. It is killed when ctx
// ends, and when this process is gone.
func (f *Folder) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "node", args...)
	cmd.Dir = f.dir
	childprocess.EndWithParent(cmd)
	return cmd
}

// A Process is a server on this machine.
type Process struct {
	// URL is where the server listens, such as http://127.0.0.1:4242.
	URL string

	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has ended
}

// Start starts a server. The first line of its output must be the port that it listens on, at
// 127.0.0.1, and the rest goes to this process's standard error. Its input is a pipe that ends with
// this process. ctx limits only the start.
func (f *Folder) Start(ctx context.Context, args ...string) (*Process, error) {
	cmd := f.Command(context.WithoutCancel(ctx), args...)
	cmd.Stderr = os.Stderr
	_, inErr := cmd.StdinPipe()
	stdout, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, ended: make(chan struct{})}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	out := bufio.NewReader(stdout)
	line, err := out.ReadSlice('\n') // not longer than the buffer
	port, notPort := portOf(line)
	go p.drain(out)
	if !stop() || err != nil || notPort != nil {
		p.Kill()
		return nil, fmt.Errorf("node %s has not written its port: %w", args[0], cmp.Or(ctx.Err(), err, notPort))
	}
	p.URL = fmt.Sprintf("http://127.0.0.1:%d", port)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started = append(f.started, p)
	return p, nil
}

// portOf returns the port that a line of output is.
func portOf(line []byte) (port uint64, err error) {
	port, err = strconv.ParseUint(strings.TrimSpace(string(line)), 10, 16)
	if err == nil && port == 0 {
		err = errors.New("port 0")
	}
	return port, err
}

// drain reads the output of the process to its end, and then waits for the process.
func (p *Process) drain(out io.Reader) {
	defer close(p.ended)
	io.Copy(os.Stderr, out)
	p.cmd.Wait() // the signal that has ended it is no news
}

// Kill kills the process, as kill -9 does, and waits for its end. A second call does nothing.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

// Close kills the processes that Start has started, and removes the folder.
func (f *Folder) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.started {
		p.Kill()
	}
	f.started = nil
	return os.RemoveAll(f.dir)
}
