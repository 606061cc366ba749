//go:build !386

package upstream

import (
	"syscall"
	"unsafe"
)

// receive reads without waiting. It never blocks, so it need not tell the scheduler.
func receive(fd uintptr, p []byte, flags int) (int, error) {
	return call(syscall.SYS_RECVFROM, fd, p, flags)
}

// send writes without waiting, like receive.
func send(fd uintptr, p []byte) (int, error) {
	return call(syscall.SYS_SENDTO, fd, p, syscall.MSG_NOSIGNAL)
}

// call makes a system call of a socket with MSG_DONTWAIT. That holds even if somebody has made the
// descriptor blocking, as os.File.Fd does. If a raw system call blocked, it would stop all
// goroutines.
func call(number, fd uintptr, p []byte, flags int) (int, error) {
	n, _, errno := syscall.RawSyscall6(number, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
		uintptr(flags|syscall.MSG_DONTWAIT), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
