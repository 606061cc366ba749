package tunnel

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// bulkSize decides who makes the next read of a socket. If the last read found at least this many
// bytes, it is a goroutine, otherwise the poller.
const bulkSize = 8 << 10

// errAgain reports that nothing can be read or written now.
var errAgain = errors.New("tunnel: not ready")

// socket is a TCP socket that a [poller] waits for. It is both the connection of a side, whose
// Write blocks, and its reader, which holds no buffer and no goroutine while it waits.
//
// The runtime's poller does not know the descriptor. Every system call on it is non-blocking and is
// made between acquire and release. Close waits for the calls in progress, so that none can use a
// descriptor number that was closed and given to another file.
type socket struct {
	poller *poller
	to     *direction        // the direction that reads from it
	buffer *[bufferSize]byte // between read and release
	fd     int32
	burst  int32 // bytes read since it was last parked; negative: none yet, but many before that

	mu       sync.Mutex
	users    int8          // system calls in progress
	closed   bool          // no system call may begin
	parked   bool          // the poller may run the direction
	waited   bool          // a write has waited, so the poller tells when the socket is writable
	readable bool          // became readable while it was not parked
	writable bool          // became writable while no write waited
	writer   chan struct{} // closed when a waiting write may try again; nil if none waits
	idle     chan struct{} // closed when there are no users; nil unless Close waits
}

// acquire lets a system call use the descriptor until the caller calls done. It reports false after
// Close.
func (s *socket) acquire() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.users++
	return true
}

func (s *socket) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 && s.idle != nil {
		close(s.idle)
	}
}

// tryRead reads without blocking. With nothing to read it returns errAgain.
func (s *socket) tryRead(p []byte) (int, error) {
	n, err := s.try(syscall.SYS_READ, p)
	switch {
	case err != nil:
		return 0, wrap("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// tryWrite writes as much of p as fits. If nothing fits it returns errAgain.
func (s *socket) tryWrite(p []byte) (int, error) {
	n, err := s.try(syscall.SYS_WRITE, p)
	if err != nil {
		return 0, wrap("write", err)
	}
	return n, nil
}

// try makes a system call that does not block. So it need not tell the scheduler.
func (s *socket) try(call uintptr, p []byte) (int, error) {
	if !s.acquire() {
		return 0, net.ErrClosed
	}
	defer s.done()
	for {
		n, _, errno := syscall.RawSyscall(call, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		if errno != syscall.EINTR {
			return outcome(n, errno)
		}
	}
}

// trySplice moves up to n octets between s and a pipe. op is the operation on s.
func (s *socket) trySplice(op string, from, to int32, n int) (int, error) {
	if !s.acquire() {
		return 0, net.ErrClosed
	}
	defer s.done()
	for {
		moved, _, errno := syscall.RawSyscall6(syscall.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), spliceFlags)
		if errno != syscall.EINTR {
			n, err := outcome(moved, errno)
			return n, wrap(op, err)
		}
	}
}

// outcome converts the result of a system call to Go's conventions.
func outcome(n uintptr, errno syscall.Errno) (int, error) {
	switch errno {
	case 0:
		return int(n), nil
	case syscall.EAGAIN:
		return 0, errAgain
	}
	return 0, errno
}

// wrap converts the error of a system call to that of a net.Conn.
func wrap(op string, err error) error {
	if errno, ok := err.(syscall.Errno); ok {
		return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(op, errno)}
	}
	return err
}

// read implements reader. With nothing to read it parks the socket and returns errParked.
func (s *socket) read() ([]byte, error) {
	for {
		s.buffer = buffers.Get().(*[bufferSize]byte)
		n, err := s.tryRead(s.buffer[:])
		if err != errAgain {
			s.count(n)
			return s.buffer[:n], err
		}
		s.release()
		if s.park() {
			return nil, errParked
		}
	}
}

// release implements reader.
func (s *socket) release() {
	buffers.Put(s.buffer)
	s.buffer = nil
}

// count records that a read found n bytes.
func (s *socket) count(n int) { s.burst = min(max(s.burst, 0)+int32(n), bulkSize) }

// park leaves reading to the poller, which continues as soon as data arrive. It reports false if
// data may have arrived already, or if the socket is closed.
func (s *socket) park() bool {
	if s.burst >= bulkSize {
		s.burst = -1
	} else {
		s.burst = 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parked = !s.readable && !s.closed
	s.readable = false
	return s.parked
}

// ready records that the socket can be read or written now. It reports whether the socket was
// parked. If so, the caller has to read.
func (s *socket) ready(read, write bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if write {
		s.writable = s.writer == nil
		s.wakeWriter()
	}
	if !read {
		return false
	}
	parked := s.parked
	s.parked = false
	s.readable = !parked
	return parked
}

// Write writes all of p. It may block.
func (s *socket) Write(p []byte) (int, error) {
	return s.push(len(p), func(from int) (int, error) { return s.tryWrite(p[from:]) })
}

// push calls try with the number of octets written so far, until that is n. It may block.
func (s *socket) push(n int, try func(from int) (int, error)) (written int, err error) {
	for written < n {
		m, err := try(written)
		written += m
		if err == errAgain {
			err = s.waitWritable()
		}
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// waitWritable waits until a write may be tried again. Only one goroutine writes at a time.
func (s *socket) waitWritable() error {
	s.mu.Lock()
	if s.closed || s.writable {
		s.writable = false
		s.mu.Unlock()
		return nil // the next try fails if it is closed
	}
	if !s.waited {
		if err := s.poller.watchWrites(s); err != nil { // Close waits for s.mu
			s.mu.Unlock()
			return err
		}
		s.waited = true
	}
	s.writer = make(chan struct{})
	wait := s.writer
	s.mu.Unlock()
	<-wait
	return nil
}

// CloseWrite sends end of stream.
func (s *socket) CloseWrite() error {
	if !s.acquire() {
		return net.ErrClosed
	}
	defer s.done()
	return os.NewSyscallError("shutdown", syscall.Shutdown(int(s.fd), syscall.SHUT_WR))
}

// SetLinger does what that of net.TCPConn does.
func (s *socket) SetLinger(sec int) error {
	if !s.acquire() {
		return net.ErrClosed
	}
	defer s.done()
	l := &syscall.Linger{Onoff: 1, Linger: int32(sec)}
	return os.NewSyscallError("setsockopt", syscall.SetsockoptLinger(int(s.fd), syscall.SOL_SOCKET, syscall.SO_LINGER, l))
}

// unsent returns how many written bytes the peer has not acknowledged yet. It is zero when that is
// not known.
func unsent(conn io.Closer) int {
	var n int32
	control(conn, func(fd uintptr) {
		syscall.RawSyscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	})
	return int(n)
}

// isDead reports whether the connection has ended in both directions.
func isDead(conn io.Closer) bool {
	const closed = 7 // TCP_CLOSE
	var info [4]byte // of struct tcp_info, whose first octet is the state
	control(conn, func(fd uintptr) {
		if n, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO); err == nil {
			binary.NativeEndian.PutUint32(info[:], uint32(n))
		}
	})
	return info[0] == closed
}

// control calls f with the descriptor if conn is an open socket.
func control(conn io.Closer, f func(fd uintptr)) {
	switch c := conn.(type) {
	case *socket:
		if c.acquire() {
			defer c.done()
			f(uintptr(c.fd))
		}
	case *net.TCPConn:
		if raw, err := c.SyscallConn(); err == nil {
			raw.Control(f)
		}
	}
}

// Close closes the descriptor. A waiting Write returns. The direction of a parked reader is run, so
// that it sees the end.
func (s *socket) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return net.ErrClosed
	}
	s.closed = true
	s.wakeWriter()
	if s.parked {
		s.parked = false
		go s.to.run()
	}
	idle := s.users == 0
	if !idle {
		s.idle = make(chan struct{})
	}
	s.mu.Unlock()
	if !idle {
		<-s.idle
	}
	s.poller.remove(s)
	return nil
}

// wakeWriter makes waitWritable return. s.mu is held.
func (s *socket) wakeWriter() {
	if s.writer != nil {
		close(s.writer)
		s.writer = nil
	}
}
