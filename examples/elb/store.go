package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/examples/elb/internal/classic"
)

// A store has the document in force. Its methods are safe for concurrent use.
type store struct {
	traffic *traffic
	file    string // empty: none

	lock *os.File // of the file, from open to close; nil without a file

	mu  sync.Mutex // held during a change
	doc atomic.Pointer[classic.Document]
}

// open reads the file, if there is one, and makes the traffic obey. It never writes to a file that
// it cannot read.
func (s *store) open() error {
	doc := classic.NewDocument(cookie.NewKey())
	if s.file != "" {
		var err error
		if s.lock, err = lockFile(s.file + ".lock"); err != nil { // a rename would take a lock of the file itself away
			return fmt.Errorf("the state file %s: %w", s.file, err)
		}
		text, err := os.ReadFile(s.file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		default:
			if doc, err = classic.Parse(text); err != nil {
				return fmt.Errorf("the state file %s is damaged, so nothing was changed: %w", s.file, err)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	plan, fault := s.traffic.prepare(doc)
	if fault != nil {
		return fault
	}
	s.doc.Store(doc)
	plan.commit()
	return nil
}

// close lets another process use the file. It waits for a change that is under way, and there must
// be none later.
func (s *store) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock != nil {
		s.lock.Close()
	}
}

// read runs an action that changes nothing.
func (s *store) read(a classic.Action) (any, *classic.Fault) {
	_, result, err := a(s.doc.Load(), s.traffic, time.Now())
	return result, err
}

// change runs an action. When it returns, the file and the traffic are as it says.
func (s *store) change(a classic.Action) (any, *classic.Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.doc.Load()
	next, result, err := a(before, s.traffic, time.Now().Truncate(time.Millisecond)) // as answers show it
	if err != nil {
		return nil, err
	}
	if next == before {
		return result, nil
	}
	plan, err := s.traffic.prepare(next)
	if err != nil {
		return nil, err
	}
	if err := s.write(next); err != nil {
		plan.abort()
		s.traffic.log.Error("the state cannot be written", "error", err)
		return nil, classic.NewFault("InternalFailure", "The state file cannot be written.")
	}
	s.doc.Store(next)
	plan.commit()
	return result, nil
}

// write replaces the file. Whenever the process or the machine stops, there is the old file or the
// new one, whole.
func (s *store) write(doc *classic.Document) error {
	if s.file == "" {
		return nil
	}
	text, err := doc.MarshalIndent()
	if err != nil {
		return err
	}
	next := s.file + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) // it has the keys of the cookies
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, s.file); err != nil {
		return err
	}
	if err := syncDirectory(filepath.Dir(s.file)); err != nil { // the file is the new one already
		s.traffic.log.Warn("the state may be lost if the machine stops", "error", err)
	}
	return nil
}
