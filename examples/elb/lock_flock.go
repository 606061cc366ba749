//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package main

import (
	"fmt"
	"os"
	"syscall"
)

// lockFile creates a file if it is not there, and locks it until it is closed or the process ends,
// however it ends. It returns an error if another process has locked it.
func lockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another process uses it: lock %s: %w", name, err)
	}
	return f, nil
}
