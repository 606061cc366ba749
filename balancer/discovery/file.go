package discovery

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/balancer/discovery/internal/source"
)

const (
	defaultFileInterval = 5 * time.Second
	defaultMaxSize      = 1 << 20
)

// File reports the targets in a file, whose syntax is that of [Parse]. Set its fields, then call
// [File.Run]. Do not change the fields afterwards, and do not copy a File. Its methods are safe for
// concurrent use.
//
// Each turn reads the whole file and compares its content with that of the previous turn. The
// file's modification time does not matter. The path may contain symbolic links that are replaced,
// as in a ConfigMap of Kubernetes. A changed file is used when two turns in a row, about a second
// apart, have read the same content. The first valid content is used at once.
//
// If the file cannot be read, is too large, or has a mistake or no target, nothing changes, and the
// reason is logged with the line. To change the file, write a new file and rename it to Path. A
// file that is written in place may be read when half of it is there. In most cases that half has a
// mistake, but it can also be a valid, shorter list.
//
// Only regular files are read. A file system that blocks, such as NFS without its server, delays
// the end of Run.
type File struct {
	// Path is the file. It is required.
	Path string

	// Report is called with every new set of targets. It is required.
	Report func([]balancer.Target) error

	// Interval is the time between two turns. It varies by a tenth, up or down. Zero means 5
	// seconds. Less than a second means a second. After a failure the next turn follows after a
	// second, then after two, four and so on up to Interval.
	Interval time.Duration

	// MaxSize limits the size of the file in octets. A larger file is refused. Zero means 1 MiB. A
	// negative value is refused.
	MaxSize int64

	// Logger receives failures (Warn), once for each kind until it is over, and that it is over
	// (Info). Nil means [slog.Default].
	Logger *slog.Logger

	source source.Source
	state  fileState // of Run's goroutine
}

// A fileState is what a File knows of the turns before.
type fileState struct {
	sum     [sha256.Size]byte // of the content in the last turn
	read    bool              // sum is valid
	targets []balancer.Target // the last ones that were valid
}

// Run reads the file until ctx ends, and then returns nil. It returns an error at once if the
// fields cannot be used or if it is running already. It may be called again after it has returned;
// the first set is then reported again.
func (f *File) Run(ctx context.Context) error {
	if err := f.source.Start(f.validate()); err != nil {
		return err
	}
	defer f.source.Stop()
	source.Loop(ctx, cmp.Or(f.Interval, defaultFileInterval), func(context.Context) error { return f.turn() })
	return nil
}

// Ready waits until Report has accepted a set. It also waits for Run to begin. If ctx ends first,
// it returns an error that wraps ctx's and, if there is one, the latest failure. If Run refuses the
// fields, Ready returns that error.
func (f *File) Ready(ctx context.Context) error { return f.source.Ready(ctx) }

func (f *File) validate() error {
	switch {
	case f.Path == "":
		return errors.New("discovery: File.Path is empty")
	case f.Report == nil:
		return errors.New("discovery: File.Report is nil")
	case f.Interval < 0, f.MaxSize < 0:
		return errors.New("discovery: File.Interval and MaxSize must not be negative")
	}
	return nil
}

// fileFails is the kind of trouble of a file that cannot be used.
const fileFails = "the file cannot be used, the targets stay"

// turn reads the file once. It returns an error if the next turn is to come early.
func (f *File) turn() error {
	l := cmp.Or(f.Logger, slog.Default()).With("path", f.Path)
	failed := f.load()
	switch {
	case errors.Is(failed, source.ErrAgain): // the next turn decides
	case failed != nil:
		f.source.Trouble(l, fileFails, failed.Error(), failed)
	default:
		f.source.Over(l, fileFails)
	}
	if f.state.targets == nil {
		return failed
	}
	return errors.Join(failed, f.source.Offer(l, f.Report, f.state.targets))
}

// load reads the file into the state.
func (f *File) load() error {
	text, err := f.read()
	if err != nil {
		f.state.read = false
		return err
	}
	sum := sha256.Sum256(text)
	settled := f.state.read && sum == f.state.sum
	f.state.sum, f.state.read = sum, true
	if !settled && f.state.targets != nil {
		return source.ErrAgain // the turn before has not read this
	}
	targets, err := Parse(text)
	if err != nil {
		return err
	}
	f.state.targets = targets
	return nil
}

// read returns the content of the file.
func (f *File) read() ([]byte, error) {
	if err := regular(os.Stat(f.Path)); err != nil { // opening a FIFO or a device may block or act
		return nil, err
	}
	file, err := os.OpenFile(f.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // it may have become a FIFO
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	defer file.Close()
	if err := regular(file.Stat()); err != nil {
		return nil, err
	}
	limit := cmp.Or(f.MaxSize, defaultMaxSize)
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("discovery: %w", err)
	case int64(len(text)) > limit:
		return nil, fmt.Errorf("discovery: the file is larger than %d octets", limit)
	}
	return text, nil
}

// regular returns an error if the file is not a regular file, or if err is not nil.
func regular(info os.FileInfo, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("discovery: %w", err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("discovery: not a regular file, but %s", info.Mode().Type())
	}
	return nil
}
