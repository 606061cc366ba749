package redistest

import (
	"os/exec"
	"syscall"
)

// endWithTests has the system kill the process of cmd when the tests are gone, however they end.
func endWithTests(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
