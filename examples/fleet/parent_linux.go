package main

import (
	"os/exec"
	"syscall"
)

// endWithParent has the system kill the process of cmd when this one is gone, however it ends.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
