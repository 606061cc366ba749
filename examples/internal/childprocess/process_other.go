//go:build !linux

package childprocess

import "os/exec"

// EndWithParent does nothing: only Linux can kill a process when its parent is gone.
func EndWithParent(*exec.Cmd) {}
