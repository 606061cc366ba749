package upstream

import (
	"syscall"
	"unsafe"
)

// untaken reports whether the target's system has acknowledged nothing of the request, now that the connection has
// reached its end of stream. Everything that it had when it sent that end is acknowledged with it: so nobody has read of
// the request. After a reset, which acknowledges nothing, this would mean nothing.
func (c *conn) untaken() bool {
	written := c.out.Load()
	if c.raw.conn == nil || written == 0 {
		return false
	}
	var waiting int32 // bytes that are not acknowledged
	var errno syscall.Errno
	err := c.raw.conn.Control(func(fd uintptr) {
		_, _, errno = syscall.RawSyscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&waiting)))
	})
	return err == nil && errno == 0 && int64(waiting) == written
}
