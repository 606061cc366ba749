//go:build !linux

package main

import (
	"errors"
	"os/exec"
	"time"
)

var errSystem = errors.New("the CPU time and memory of other processes are read from Linux, this is another system")

func checkSystem() error { return errSystem }

func cpuTime([]int) (time.Duration, error) { return 0, errSystem }

func residentMemory([]int) (int64, error) { return 0, errSystem }

func family(int) ([]int, error) { return nil, errSystem }

func raiseLimit(int) (int, error) { return 0, errSystem }

func keepTogether(*exec.Cmd) {}

func nap(d time.Duration) { time.Sleep(d) }
