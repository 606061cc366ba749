package upstream

import (
	"syscall"
	"unsafe"
)

// untaken reports whether the target's system has acknowledged no byte of the request, once the
// connection has reached its end of stream. When the target's system sends its end of stream, it
// also acknowledges everything that it has received. So if nothing is acknowledged, nobody has read
// any of the request. A reset acknowledges nothing. After a reset the result would therefore mean
// nothing.
func (c *conn) untaken() bool {
	written := c.out.Load()
	if c.raw.conn == nil || written == 0 {
		return false
	}
	var waiting int32 // unacknowledged bytes
	var errno syscall.Errno
	err := c.raw.conn.Control(func(fd uintptr) {
		_, _, errno = syscall.RawSyscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&waiting)))
	})
	return err == nil && errno == 0 && int64(waiting) == written
}
