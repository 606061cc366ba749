//go:build unix && (!linux || 386)

package upstream

import "syscall"

// receive reads without waiting.
func receive(fd uintptr, p []byte, flags int) (int, error) {
	if flags == 0 {
		return syscall.Read(int(fd), p)
	}
	n, _, err := syscall.Recvfrom(int(fd), p, flags|syscall.MSG_DONTWAIT)
	return n, err
}

// send writes without waiting.
func send(fd uintptr, p []byte) (int, error) { return syscall.Write(int(fd), p) }
