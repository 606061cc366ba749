package peertest_test

import (
	"os/exec"
	"syscall"
)

// endsWithTests has the system send a signal to the process of cmd when the tests are gone, however
// they end.
func endsWithTests(cmd *exec.Cmd, signal syscall.Signal) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = signal
}
