package childprocess

import (
	"os/exec"
	"syscall"
)

// EndWithParent has the system kill the process of cmd when this one is gone, however it ends. Call
// it before cmd.Start. Systems other than Linux cannot do that.
func EndWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
